"""Which files of a place are wanted, and what becomes of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import UserError, said
from ..decoding.images import is_picture
from .endings import CLIPS, ENCODING, ENDINGS, OTHER, Modality
from .entry import LARGEST_FILE, TOO_LARGE, Entry, Reject
from .names import ending

PACKED_ENDINGS = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".rar", ".7z"}
"""Endings of archives that are not looked into where they lie among files."""

KNOWN = {
    ".txt", ".csv", ".tsv", ".json", ".xml", ".cls", ".md", ".html", ".yaml", ".npy", ".npz", ".tar",
    *PACKED_ENDINGS, *CLIPS,
}  # fmt: skip
"""Endings of files that are not looked into: they are no pictures."""


@dataclass
class Found:
    """What a place holds of a kind, and what was passed over.

    Attributes:
        kind: the kind that is wanted.
        entries: not yet labelled.
        rejects: what is wanted and can't be read.
        passed: files that are passed over, by their ending or another reason.
        folders: all folders, as paths inside the place, or inside the tar.
        archives: tars, as paths inside the place.
        labels: what lies beside a tar's pictures as their class, by key.
        unlabelled: why what lies beside them is no label, by key.
        captions: the texts, by the key that they share with a picture; None where none are wanted.
    """

    kind: Modality
    entries: list[Entry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)
    archives: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)
    captions: dict[str, Entry] | None = None

    def take(self, entry: Entry, size: int, opened: Callable[[], BinaryIO], special: str = "") -> None:
        """Takes a file if it is of the kind, or a caption; else it is counted, or rejected. As `wants`."""
        if self.captions is not None and not special and ending(entry.name) == ".txt":
            self.captions[entry.key] = entry
        elif self.wants(entry.name, size, opened, special):
            self.entries.append(entry)

    def wants(self, name: str, size: int, opened: Callable[[], BinaryIO], special: str = "") -> bool:
        """Whether a file is one of the kind that can be read; else it is counted, or rejected.

        Args:
            name: inside the place.
            size: in bytes.
            opened: opens it, where the ending doesn't tell.
            special: what it is if it is not a regular file.
        """
        kind = ending(name)
        wanted = kind in ENDINGS[self.kind] or (bool(special) and kind not in KNOWN - {".tar"})
        if not wanted and not special and self.kind == "images" and kind not in KNOWN:
            try:
                with opened() as stream:
                    wanted = is_picture(stream)
            except Exception as error:  # of an archive: whatever its packing can raise
                self.rejects.append(Reject(name, said(error)))
                return False
        if not wanted:
            self.passed[kind or "without an ending"] += 1
        elif special or (self.kind == "images" and size > LARGEST_FILE):
            self.rejects.append(Reject(name, special or TOO_LARGE))
            return False
        return wanted


def counted(passed: Counter[str]) -> str:
    """What was passed over, in words; empty if nothing was."""
    return ", ".join(f"{count:,} {name}" for name, count in passed.most_common())


HINT = "; if folders hold a clip's frames each, 0001.jpg and so on, say how many a second they are with `fps=`"


def nothing(path: Path, found: Found) -> UserError:
    """The error for a place without files of a kind; says what it holds instead."""
    kind = found.kind
    other = OTHER[kind]
    if not found.rejects and not ENDINGS[other].isdisjoint(found.passed):
        return UserError(
            f"{path} holds {other}, and {kind} are wanted; give a folder of {kind}, or encode them as "
            f"{ENCODING[other]} and use a recipe for {other}{HINT if kind == 'clips' else ''}"
        )
    held = f"; it holds {counted(found.passed)}" if found.passed else ""
    if found.rejects:
        first = found.rejects[0]
        held = f": none that can be read, the first is {first.name} ({first.reason})"
    if any(name in PACKED_ENDINGS for name in found.passed):
        held += "; unpack what is packed, of .tar.gz only the .gz (gunzip): tars and single zips are read as they are"
    return UserError(f"{path} holds no {kind}; expected CLASS/NAME.{'jpg' if kind == 'images' else 'mp4'}{held}")
