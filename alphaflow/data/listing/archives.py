"""Files in zips and tars, without unpacking them: every one, or what is known of those that are lost."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...errors import UserError, said
from ...files import parsed
from .entry import Entry, Reject, stamp
from .found import Found
from .names import is_hidden, key, member_path
from .tars import Member, members

MOST_MEMBERS = 5_000_000
"""Files of an archive: a worker opens a zip of so many within the time it has for a picture."""

MOST_LABEL, MOST_JSON = 1000, 2**20
"""Bytes of a class's name, and of what lies beside a picture as .json."""

TWICE = "a second file of this name"


def in_zip(path: Path, found: Found) -> None:
    """Adds a zip's files.

    Raises:
        UserError: it can't be opened, or holds too many.
    """
    try:
        stated = _stated(path)
        archive = zipfile.ZipFile(path)
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(
            f"{path} is neither a folder nor a readable zip or tar ({said(error)}); is it whole?"
        ) from error
    with archive:
        seen: set[str] = set()
        for place, info in enumerate(archive.infolist()):
            folder = info.orig_filename.endswith(("/", "\\")) and not info.file_size
            name = _checked(info.orig_filename, folder, found, seen, backslashes=True)
            if name is None:
                if is_hidden(info.orig_filename) and not folder and (reason := _misnamed(archive, info)):
                    found.rejects.append(Reject(info.orig_filename, reason))
                continue
            special = "a link, which a zip's files can't be" if stat.S_ISLNK(info.external_attr >> 16) else ""
            entry = Entry(name, str(path), member=place, stamp=stamp(info.CRC, info.file_size))
            found.take(entry, info.file_size, partial(_member, archive, info), special)
        found.entries = list(_really_called_so(archive, found))
        if (lost := stated - len(archive.infolist())) > 0:
            found.rejects.append(Reject(path.name, f"it is damaged: its list lacks {lost} of {stated} files", lost))


def _stated(path: Path) -> int:
    """How many members a zip's end says that there are.

    Raises:
        UserError: too many to be listed.
    """
    with path.open("rb") as stream:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # with zip64's, as zipfile itself reads it
    count = int(end[4]) if end else 0
    if count > MOST_MEMBERS:
        raise UserError(f"{path} says that it holds {count:,} files; {MOST_MEMBERS:,} are the most that are listed")
    return count


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    return cast(BinaryIO, archive.open(info))


def _misnamed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """Why a member's own header is not the one that the zip's list has; empty if it is."""
    try:
        archive.open(info).close()
    except RuntimeError:  # a password is wanted
        return ""
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        return said(error)
    return ""


def _really_called_so(archive: zipfile.ZipFile, found: Found) -> Iterator[Entry]:
    """Entries but for those at the head of a folder whose own header calls them otherwise.

    The zip's list has no check sum: one wrong letter in it would make another class, and move the others' indices.
    """
    checked: set[str] = set()
    infos = archive.infolist()
    for entry in found.entries:
        folder = entry.name.rpartition("/")[0]
        if folder not in checked and entry.member is not None:
            if reason := _misnamed(archive, infos[entry.member]):
                found.rejects.append(Reject(entry.name, reason))
                found.folders.discard(folder)
                continue
            checked.add(folder)
        yield entry


def in_tar(path: Path, found: Found, tar: str) -> None:
    """Adds a tar's files, as ``TAR/NAME``, and the labels beside them.

    What is damaged is a reject, with the pictures lost as far as the tar's size tells.

    Args:
        path: path of the tar.
        found: to add to.
        tar: what it is called.

    Raises:
        UserError: it can't be opened.
    """
    facts, file = path.stat(), str(path)
    seen: set[str] = set()
    before, whole = len(found.entries), 0  # bytes of whole members
    damaged: list[tuple[int, str]] = []
    try:
        with path.open("rb", buffering=0) as stream:
            for member in members(stream, facts.st_size, lambda size, why: damaged.append((size, why))):
                whole += member.span
                if len(seen) > MOST_MEMBERS:
                    raise UserError(f"{path} holds more than {MOST_MEMBERS:,} files, the most that are listed")
                name = _checked(member.name, member.folder, found, seen, f"{tar}/")
                if name is None:
                    continue
                if name[len(key(name)) :].lower() in (".cls", ".json") and not member.special:
                    _label(stream, member, name, found)
                    continue
                place = (member.offset, member.size)
                mark = stamp(*place, facts.st_size, facts.st_mtime_ns)
                entry = Entry(name, file, place=place, stamp=mark)
                found.take(entry, member.size, entry.open, member.special)
    except OSError as error:
        raise UserError(f"{path} can't be read ({said(error)}); restore it, or move it away") from error
    count = len(found.entries) - before
    for size, why in damaged:
        lost = max(round(size * count / whole), 1) if whole else 1
        found.rejects.append(Reject(tar, f"it is damaged: {why}; about {lost} lost, by its size", lost))


def _checked(
    name: str, folder: bool, found: Found, seen: set[str], prefix: str = "", backslashes: bool = False
) -> str | None:
    """A member's name inside the place; None where it is a folder, passed over, or a reject."""
    try:
        clean = member_path(name, backslashes)
    except ValueError as error:
        found.rejects.append(Reject(prefix + name, str(error)))
        return None
    if not clean or is_hidden(clean):
        found.passed["hidden"] += bool(clean)
        return None
    found.folders.add(clean if folder else clean.rpartition("/")[0])
    if folder:
        return None
    if clean in seen:
        found.rejects.append(Reject(prefix + clean, TWICE))
        return None
    seen.add(clean)
    return prefix + clean


def _label(stream: RawIOBase, member: Member, name: str, found: Found) -> None:
    """Takes the label that a tar's .cls or .json holds."""
    is_json = name.lower().endswith(".json")
    try:
        if member.size > (most := MOST_JSON if is_json else MOST_LABEL):
            raise ValueError(f"more than {most:,} bytes, which is no label")
        stream.seek(member.offset)
        text = (stream.read(member.size) or b"").decode("utf-8-sig")
        label = _in_json(parsed(text)) if is_json else text.strip()
    except ValueError as error:
        reason = "it isn't UTF-8" if isinstance(error, UnicodeDecodeError) else said(error)
        found.unlabelled[key(name)] = f"no label in {name}: {reason}"
        return
    if label and label != "-1" and not (is_json and key(name) in found.labels):
        found.labels[key(name)] = label


def _in_json(value: Any) -> str | None:
    """The label in a sample's JSON, if it has one."""
    if not isinstance(value, dict):
        return None
    label = next((value[name] for name in ("cls", "label") if name in value), None)
    if label is None or (isinstance(label, int | str) and not isinstance(label, bool)):
        text = None if label is None else str(label).strip()
        if text is not None and len(text.encode()) > MOST_LABEL:
            raise ValueError(f"more than {MOST_LABEL:,} bytes, which is no label")
        return text
    raise ValueError(f"a {type(label).__name__} is none")
