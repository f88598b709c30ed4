"""Files in zips and tars, without unpacking them: every one, or what is known of those that are lost."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from ...errors import UserError, said
from ...files import parsed
from .entry import Entry, Reject, stamp
from .folders import Found
from .names import inside, is_hidden, key

BLOCK = 512
"""Bytes of a tar's headers, and at whose multiples they begin."""

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
        raise UserError(f"{path} is no folder, and no readable zip or tar ({said(error)}); is it whole?") from error
    with archive:
        seen: set[str] = set()
        for place, info in enumerate(archive.infolist()):
            folder = info.orig_filename.endswith(("/", "\\"))
            name = _checked(info.orig_filename, folder, found, seen, backslashes=True)
            if name is None:
                continue
            special = "a link, which a zip's files can't be" if stat.S_ISLNK(info.external_attr >> 16) else ""
            if found.wants(name, info.file_size, partial(_member, archive, info), special):
                found.entries.append(Entry(name, str(path), member=place, stamp=stamp(info.CRC, info.file_size)))
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


def _really_called_so(archive: zipfile.ZipFile, found: Found) -> Iterator[Entry]:
    """Entries but for those at the head of a folder whose own header calls them otherwise.

    The zip's list has no check sum: one wrong letter in it would make another class, and move the others' indices.
    """
    checked: set[str] = set()
    infos = archive.infolist()
    for entry in found.entries:
        folder = entry.name.rpartition("/")[0]
        if folder not in checked and entry.member is not None:
            try:
                archive.open(infos[entry.member]).close()
            except RuntimeError:  # a password is wanted
                pass
            except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
                found.rejects.append(Reject(entry.name, said(error)))
                continue
            checked.add(folder)
        yield entry


def in_tar(path: Path, found: Found, tar: str) -> None:
    """Adds a tar's files, as ``TAR/NAME``, and the labels beside them.

    What is damaged is a reject, with the pictures lost as far as the tar's size tells.

    Args:
        path: of the tar.
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
            for member in _members(stream, facts.st_size, lambda size, why: damaged.append((size, why))):
                whole += _padded(member.size) + BLOCK
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
                if found.wants(name, member.size, entry.open, member.special):
                    found.entries.append(entry)
    except OSError as error:
        raise UserError(f"{path} can't be read ({said(error)}); restore it, or move it away") from error
    count = len(found.entries) - before
    for size, why in damaged:
        lost = max(round(size * count / whole), 1) if whole else 1
        found.rejects.append(Reject(tar, f"it is damaged: {why}; at least {lost} lost, by its size", lost))


class Member(NamedTuple):
    """A tar's member: its name, where its bytes begin, how many they are, and what it is."""

    name: str
    offset: int
    size: int
    folder: bool = False
    special: str = ""


def _members(stream: RawIOBase, size: int, damage: Callable[[int, str], None]) -> Iterator[Member]:
    """A tar's members up to the file's end, past what is damaged.

    Args:
        stream: the tar.
        size: in bytes.
        damage: is told how many bytes are no members that can be read, and where.
    """
    end = 0  # of the last member that is known
    try:
        with tarfile.TarFile(fileobj=cast(IO[bytes], stream), ignore_zeros=True) as archive:
            while end < size:
                stream.seek(end)
                member = _plain(stream.read(BLOCK) or b"", end)
                begin, following = end, 0 if member is None else member.offset + _padded(member.size)
                if member is None:
                    info = _by_tarfile(archive, end)
                    if info is None:
                        break
                    plain = info.isreg() and info.sparse is None
                    special = "" if plain or info.isdir() else "no regular file: a link, a device, or one with holes"
                    member = Member(info.name, info.offset_data, info.size * plain, info.isdir(), special)
                    begin, following = info.offset, archive.offset
                if begin > end:
                    damage(begin - end, f"no file's header at byte {end:,}")
                end = following
                if member.offset + member.size > size:
                    damage(end - size, f"it ends in the middle of {member.name}")
                    return
                yield member
    except tarfile.TarError as error:
        if not end:
            damage(size, said(error))
            return
    if end < size and _holds_something(stream, end, size):
        damage(size - end, f"no file's header at byte {end:,}")
    elif end >= size:
        damage(0, "it ends without a tar's mark of its end")


def _plain(header: bytes, at: int) -> Member | None:
    """A regular file by its header, as POSIX and GNU write nearly all; None where `tarfile` must look.

    That takes 46 µs a member, most of the time of listing a large data set, and this 5.
    """
    if len(header) < BLOCK or header[156] not in b"0\0" or header[124] & 0x80:
        return None
    try:
        size, total = (int(field.strip(b" \0"), 8) for field in (header[124:136], header[148:156]))
    except ValueError:
        return None
    name = header[:100].partition(b"\0")[0]
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != total or name.endswith(b"/"):
        return None
    folder = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    path = (folder + b"/" + name if folder else name).decode("utf-8", "surrogateescape")
    return Member(path, at + BLOCK, size)


def _by_tarfile(archive: tarfile.TarFile, at: int) -> tarfile.TarInfo | None:
    """The next member of any kind from a place on, past what is none; None at the end."""
    archive.firstmember, archive.offset, archive.members = None, at, []  # type: ignore[attr-defined]
    archive.fileobj.seek(at)
    return archive.next()


def _padded(size: int) -> int:
    """Bytes that so many take in a tar."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _holds_something(stream: RawIOBase, start: int, stop: int) -> bool:
    """Whether there are bytes other than zero."""
    stream.seek(start)
    while start < stop:
        data = stream.read(min(stop - start, 2**20)) or b""
        if not data or data.strip(b"\0"):
            return bool(data)
        start += len(data)
    return False


def _checked(
    name: str, folder: bool, found: Found, seen: set[str], prefix: str = "", backslashes: bool = False
) -> str | None:
    """A member's name inside the place; None where it is a folder, passed over, or a reject."""
    try:
        clean = inside(name, backslashes)
    except ValueError as error:
        found.rejects.append(Reject(prefix + name, str(error)))
        return None
    if not clean or is_hidden(clean):
        found.passed["hidden"] += bool(clean)
        return None
    if folder:
        found.folders.append(prefix + clean)
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
