"""Files under a folder."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError, reason
from .entry import Entry, stamp
from .found import Found
from .names import ending, is_hidden


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
                f"can't read the folder {folder}: {reason(error)}; make it readable, or move it away"
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
        else:
            found.take(entry, size, entry.open, special)


def _identity(folder: str) -> tuple[int, int]:
    """What tells a folder from others, by whatever path it is reached; a UserError if it can't be reached."""
    try:
        facts = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"can't read the folder {folder}: {reason(error)}") from error
    return facts.st_dev, facts.st_ino


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _special(item: os.DirEntry[str]) -> str:
    """What a file is if it is not a regular one, whose reading might never end; else empty."""
    try:
        if item.is_file():
            return ""
        mode = item.stat().st_mode
    except OSError as error:
        return f"a link to nothing ({reason(error)})"
    return "a pipe, no regular file" if stat.S_ISFIFO(mode) else "a device or a socket, no regular file"
