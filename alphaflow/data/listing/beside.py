"""What belongs to a picture: the caption beside it, and its partner in another place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ...errors import UserError
from .entry import Entry, Reject
from .found import Found, nothing

MOST_CAPTION = 2**16
"""Bytes of a caption."""


def read_caption(entry: Entry) -> str:
    """A caption's text, without the blanks around it.

    Raises:
        ValueError: it is empty, isn't UTF-8, or is far longer than any caption.
        OSError, RuntimeError, …: whatever reading a file or an archive raises.
    """
    with entry.open() as stream:
        data = stream.read(MOST_CAPTION + 1)
    if len(data) > MOST_CAPTION:
        raise ValueError(f"more than {MOST_CAPTION:,} bytes, which is no caption")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError("it isn't UTF-8") from error
    if not text:
        raise ValueError("it is empty")
    return text


def captioned(path: Path, found: Found) -> tuple[list[Entry], list[Reject]]:
    """Pictures with the captions beside them, and all rejects: those without one too.

    ``NAME.txt`` belongs to ``NAME.jpg`` in the same folder; in tars the key decides, as in webdataset. Other texts are
    passed over.

    Raises:
        UserError: no picture has one.
    """
    texts = found.captions or {}
    entries = [entry._replace(caption=texts.get(entry.key)) for entry in found.entries]
    whole = [entry for entry in entries if entry.caption is not None]
    if not whole:
        first = entries[0].name
        raise UserError(
            f"none of the {len(entries):,} pictures in {path} has a caption; expected {entries[0].key}.txt for {first}"
        )
    if unused := len(texts) - len({entry.key for entry in whole}):
        found.passed[".txt"] += unused
    lost = [Reject(entry.name, _no_caption(entry)) for entry in entries if entry.caption is None]
    return whole, [*found.rejects, *lost]


def _no_caption(entry: Entry) -> str:
    return f"no caption beside it, {entry.key.rpartition('/')[2]}.txt"


def paired(path: Path, found: Found, place: Path, other: Found) -> tuple[list[Entry], list[Reject]]:
    """Pictures with their partners in another place, and all rejects: those without exactly one too.

    Partners have the same path inside their places, whatever their endings; of tars, inside the tars. If no two have,
    folders that all files of a place lie in are no part of it: zips often hold one.

    Args:
        path: path of the pictures' place.
        found: what it holds.
        place: path of the partners' place.
        other: what that holds.

    Raises:
        UserError: it holds no pictures, or none of these names.
    """
    if not other.entries:
        raise nothing(place, other)
    names, others = _inside(found.entries), _inside(other.entries)
    if set(names).isdisjoint(others):
        names, others = _without_shared_folders(names), _without_shared_folders(others)
    partners: dict[str, list[Entry]] = defaultdict(list)
    for name, entry in zip(others, other.entries, strict=True):
        partners[name].append(entry)
    damaged = {Entry(reject.name, "").key: reject.reason for reject in other.rejects}
    whole, lost, taken = list[Entry](), list[Reject](), dict[str, Entry]()
    for name, entry in zip(names, found.entries, strict=True):
        those = partners.get(name, [])
        if len(those) == 1 and name not in taken:
            taken[name] = entry._replace(partner=those[0])
            whole.append(taken[name])
            continue
        reason = (
            f"its partner in {place} can't be read: {damaged[name]}" if name in damaged else f"no partner in {place}"
        )
        if those:
            two = f"two partners in {place}, {those[0].name} and {those[-1].name}"
            reason = f"its partner is {taken[name].name}'s" if name in taken else two
        lost.append(Reject(entry.name, reason))
    if not whole:
        raise UserError(
            f"none of the {len(lost):,} pictures in {path} has one partner of its name, with any ending, in {place}; "
            f"the first is {lost[0].name}: {lost[0].reason}"
        )
    if unused := len(other.entries) - len(whole):
        found.passed[f"of {place} without a partner here"] += unused
    return whole, [*found.rejects, *lost]


def _inside(entries: Sequence[Entry]) -> list[str]:
    """Paths inside their place, or inside their tar, without endings."""
    return [entry.key.partition("/")[2] if entry.place else entry.key for entry in entries]


def _without_shared_folders(paths: Sequence[str]) -> list[str]:
    folders = {tuple(path.split("/")[:-1]) for path in paths}
    shared = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    length = sum(len(level[0]) + 1 for level in shared)
    return [path[length:] for path in paths]
