"""Files under a folder, and what all places share: which files are wanted, and what becomes of the others."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import UserError, said
from ..images import is_picture
from ..kinds import CLIPS, ENCODING, ENDINGS, OTHER, Kind
from .entry import LARGEST, TOO_LARGE, Entry, Reject, stamp
from .names import ending, is_hidden

PACKED = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".rar", ".7z"}
"""Endings of archives that are not looked into where they lie among files."""

KNOWN = {
    ".txt", ".csv", ".tsv", ".json", ".xml", ".cls", ".md", ".html", ".yaml", ".npy", ".npz", ".tar", *PACKED, *CLIPS,
}  # fmt: skip
"""Endings of files that are not looked into: they are no pictures."""


@dataclass
class Found:
    """What a place holds of a kind, and what was passed over.

    Attributes:
        kind: that is wanted.
        entries: not yet labelled.
        rejects: what is wanted and can't be read.
        passed: files that are passed over, by their ending or another reason.
        folders: all folders, as paths inside the place, or inside the tar.
        archives: tars, as paths inside the place.
        labels: what lies beside a tar's pictures as their class, by key.
        unlabelled: why what lies beside them is no label, by key.
    """

    kind: Kind
    entries: list[Entry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)
    archives: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str, size: int, opened: Callable[[], BinaryIO], special: str = "") -> bool:
        """Whether a file is one of the kind that can be read; else it is counted, or rejected.

        Args:
            name: inside the place.
            size: in bytes.
            opened: opens it, where the ending doesn't tell.
            special: what it is if it is no regular file.
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
        elif special or (self.kind == "images" and size > LARGEST):
            self.rejects.append(Reject(name, special or TOO_LARGE))
            return False
        return wanted


def counted(passed: Counter[str]) -> str:
    """What was passed over, in words; empty if nothing was."""
    return ", ".join(f"{count:,} {name}" for name, count in passed.most_common())


def scan(root: Path, passed: Counter[str]) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    """The files under a folder, by their paths inside it with forward slashes; folders too, without an entry.

    Links are followed, and each real folder is read once, where it lies rather than through a link.

    Args:
        root: the folder.
        passed: counts what is hidden, and links to folders that are read already.

    Raises:
        UserError: a folder can't be read: its files would be missing without a word.
    """
    seen = {_identity(str(folder)) for folder in Path(os.path.realpath(root)).parents}
    waiting, linked = [(str(root), "")], list[tuple[str, str]]()
    while waiting or linked:
        folder, prefix = waiting.pop() if waiting else linked.pop()
        real = _identity(folder)
        if real in seen:
            passed["links to folders that are here already"] += 1
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as found:
                items = list(found)
        except OSError as error:
            raise UserError(
                f"can't read the folder {folder}: {error.strerror}; make it readable, or move it away"
            ) from error
        for item in items:
            name = prefix + item.name
            if is_hidden(item.name):
                passed["hidden"] += 1
            elif _is_folder(item):
                yield name, None
                (linked if item.is_symlink() else waiting).append((item.path, f"{name}/"))
            else:
                yield name, item


def in_folder(root: Path, found: Found) -> None:
    """Adds the files under a folder."""
    place = str(root)
    for name, item in scan(root, found.passed):
        if item is None:
            found.folders.add(name)
            continue
        special = _special(item)
        facts = None if special else item.stat()
        size = 0 if facts is None else facts.st_size
        entry = Entry(name, place, stamp=0 if facts is None else stamp(size, facts.st_mtime_ns))
        if ending(name) == ".tar" and not special:
            found.archives.append(name)
        elif found.wants(name, size, entry.open, special):
            found.entries.append(entry)


def _identity(folder: str) -> tuple[int, int]:
    """What tells a folder from others, by whatever path it is reached; a UserError if it can't be reached."""
    try:
        facts = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"can't read the folder {folder}: {error.strerror}") from error
    return facts.st_dev, facts.st_ino


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _special(item: os.DirEntry[str]) -> str:
    """What a file is if it is no regular one, whose reading might never end; else empty."""
    try:
        if item.is_file():
            return ""
        mode = item.stat().st_mode
    except OSError as error:
        return f"a link to nothing ({error.strerror})"
    return "a pipe, no regular file" if stat.S_ISFIFO(mode) else "a device or a socket, no regular file"


HINT = "; if folders hold a clip's frames each, 0001.jpg and so on, say how many a second they are (fps)"


def nothing(path: Path, found: Found) -> UserError:
    """The error for a place without files of a kind; says what it holds instead."""
    kind = found.kind
    other = OTHER[kind]
    if not found.rejects and not ENDINGS[other].isdisjoint(found.passed):
        return UserError(
            f"{path} holds {other}, and {kind} are wanted; give a folder of {kind}, or use a recipe for {other} and "
            f"`alphaflow encode {ENCODING[other]}`{HINT if kind == 'clips' else ''}"
        )
    held = f"; it holds {counted(found.passed)}" if found.passed else ""
    if found.rejects:
        first = found.rejects[0]
        held = f": none that can be read, the first is {first.name} ({first.reason})"
    if any(name in PACKED for name in found.passed):
        held += "; unpack what is packed, of .tar.gz only the .gz (gunzip): tars and single zips are read as they are"
    return UserError(f"{path} holds no {kind}; expected CLASS/NAME.{'jpg' if kind == 'images' else 'mp4'}{held}")
