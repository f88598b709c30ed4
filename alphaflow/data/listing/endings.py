"""Telling images from clips by their files' names."""

from __future__ import annotations

from typing import Literal

Modality = Literal["images", "clips"]

IMAGES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2",
        ".avif",
    )
)  # fmt: skip
"""Endings of files that are taken for pictures unseen; of others Pillow looks at what is in them."""

CLIPS = frozenset(
    (
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".3gp",
        ".3g2", ".ogv", ".wmv", ".asf", ".flv", ".f4v", ".gif",
    )
)  # fmt: skip
"""Endings of files that are clips: FFmpeg takes nearly anything for one."""

ENDINGS: dict[Modality, frozenset[str]] = {"images": IMAGES, "clips": CLIPS}

ENCODING = {"images": "images", "clips": "videos"}

OTHER: dict[Modality, Modality] = {"images": "clips", "clips": "images"}

WORDS = {"images": ("picture", "pictures"), "clips": ("clip", "clips")}
