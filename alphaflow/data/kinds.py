"""Telling images from clips by their files' names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ..errors import UserError

Kind = Literal["images", "clips"]
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CLIPS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")
ENDINGS = {"images": IMAGES, "clips": CLIPS}
ENCODING = {"images": "images", "clips": "videos"}


def nothing_of(kind: Kind, path: Path, names: Iterable[str]) -> UserError:
    """The error for a place without files of a kind; says so if it holds the other kind.

    Args:
        kind: that was looked for.
        path: of the place.
        names: of the files in it.
    """
    other: Kind = "clips" if kind == "images" else "images"
    if any(name.lower().endswith(ENDINGS[other]) for name in names):
        return UserError(
            f"{path} holds {other}, and {kind} are wanted; give a folder of {kind}, or use a recipe for {other} and "
            f"`alphaflow encode {ENCODING[other]}`"
        )
    return UserError(f"{path} holds no {kind}; expected CLASS/NAME with one of {', '.join(ENDINGS[kind])}")
