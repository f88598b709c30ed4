"""One rule for the names of files, in folders and in archives alike: which are hidden, litter, unsafe, or a split."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...files import LITTER

_HIDDEN = re.compile(rf"(?:^|/)(?:\.|(?:{'|'.join(map(re.escape, LITTER))})(?:/|$))", re.IGNORECASE)

SPLITS = {"train", "training", "val", "valid", "validate", "validation", "test", "testing", "dev"}
"""Names of splits: two of them beside each other are no classes."""


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is hidden or litter."""
    return _HIDDEN.search(name) is not None


def ending(name: str) -> str:
    """What follows the last dot of a file's name, with it, in lower case; empty if there is none."""
    base = name.rpartition("/")[2]
    return base[base.rindex(".") :].lower() if "." in base[1:] else ""


def member_path(name: str, backslashes: bool = False) -> str:
    """An archive's member as a path inside it.

    Args:
        name: as the archive has it.
        backslashes: they separate too: zips made on Windows.

    Raises:
        ValueError: it leads elsewhere.
    """
    if "/" not in name and "\\" not in name and name.strip("."):
        return name
    name = name.replace("\\", "/") if backslashes else name
    parts = name.split("/")
    if ".." in parts or not parts[0] or "\0" in name or (backslashes and parts[0].endswith(":")):
        raise ValueError("its name leads out of the archive: an absolute path, or one with '..'")
    return "/".join(part for part in parts if part not in ("", "."))


def key(name: str) -> str:
    """A sample's key by webdataset's rule: its folder, and its name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def splits_among(names: Iterable[str]) -> list[str]:
    """The splits among names of folders, or of tars without .tar, with or without numbers; fewer than two are none."""
    found = {name: re.sub(r"[-_.\d]*$", "", name).lower() for name in names}
    named = {word for word in found.values() if word in SPLITS}
    return sorted(name for name, word in found.items() if word in named) if len(named) > 1 else []


def number(name: str) -> int:
    """The number that a file's name ends in, before its ending; −1 if it ends in none."""
    found = re.search(r"(\d{1,18})(?:\.\w+)?$", name)
    return -1 if found is None else int(found[1])
