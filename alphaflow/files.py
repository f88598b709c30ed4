"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError

LITTER = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db",
          "ehthumbs.db", "desktop.ini")  # fmt: skip
"""What systems and file managers leave; whatever begins with a dot is hidden anyway."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; renames it into place if the block ends well, removes it if not.

    What is written may be a file or a folder. A folder that stands in the place is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    remove(beside)
    try:
        yield beside
        put(beside, path)
    finally:
        remove(beside)


@contextmanager
def adding(path: Path) -> Iterator[Path]:
    """As `replacing` for a folder, but nothing is replaced: in its place is nothing, or an empty folder.

    Raises:
        UserError: there is anything, from the beginning or at the end; or it is the folder that one is in.
    """
    path = check_apart(path)
    check_writable(path, folder=True)
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty; give another `out=`")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside
        try:
            beside.rename(path)
        except OSError as error:
            raise UserError(f"{path} was made by another meanwhile, and nothing is written; give another") from error
    finally:
        remove(beside)


def _beside(path: Path) -> Path:
    """A name beside a path, of what this process writes for it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def put(beside: Path, path: Path) -> None:
    """Renames a file or a folder into its place; what stands there is replaced."""
    if beside.is_dir() and path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.old.tmp")
        path.replace(old)
        beside.replace(path)
        remove(old)
    else:
        beside.replace(path)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder, and puts back what they were about to replace.

    Only what bears a name that is given here, and whose process is no longer there.
    """
    for leftover in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\.(.+)\.(?:(\d+)-[0-9a-f]{8}(\.old)?|writing)\.tmp", leftover.name)
        if found is None or (found[2] is not None and _runs(int(found[2]))):
            continue
        place = leftover.with_name(found[1])
        if found[3] and not place.exists():
            leftover.rename(place)
        else:
            remove(leftover)


def _runs(process: int) -> bool:
    """Whether a process of this number is there, and not this one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's; or a number that no process can have
        return process < 2**31
    return True


def hold(folder: Path, doing: str) -> FileLock:
    """Takes a folder for this process, until the lock is released or the process ends, however it does.

    Args:
        folder: which; it is there.
        doing: what for, ``"trained"``; others may do something else there.

    Raises:
        UserError: another process has it, and which.
    """
    lock = FileLock(folder / f".{doing}.lock", 0, thread_local=False, is_singleton=True)
    told, own = folder / f".{doing}.json", {"process": os.getpid(), "host": socket.gethostname()}
    try:
        lock.acquire()
    except Timeout as error:
        by: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            by = parsed(told.read_text(encoding="utf-8"))
        if not isinstance(by, dict) or not {"process", "host", "since"} <= by.keys():
            by = {}
        if own.items() <= by.items():  # this one, before the folder got another name
            return lock
        who = "process {process} on {host}, since {since}".format(**by) if by else "another process"
        raise UserError(f"{folder} is being {doing.partition('-')[0]} by {who}; wait for it, or end it") from error
    except NotImplementedError:  # a file system without locks
        return lock
    with suppress(OSError):  # a full disk
        write_json(told, {**own, "since": datetime.now(UTC).isoformat(timespec="seconds")})
    return lock


def check_writable(place: Path, *, folder: bool = False) -> None:
    """Refuses, before long work, a place where its results can't be written.

    Args:
        place: a file, or a folder, that is there or will be.
        folder: which of them.

    Raises:
        UserError: so it is.
    """
    if place.exists() and place.is_dir() != folder:
        raise UserError(f"{place} is {'no' if folder else 'a'} folder; give a {'folder' if folder else 'file'}")
    there = place if folder else place.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{place} can't be written: {there} is not a folder, or you may not write there")


def foreign(file: Path, parameter: str) -> UserError:
    """The error for a file that would be replaced although alphaflow didn't write it; names the parameter to change."""
    return UserError(f"{file} exists, and nothing says that alphaflow wrote it; choose another {parameter}")


def check_apart(place: Path) -> Path:
    """A folder's full name; a UserError for the one that is worked in, which would be replaced under one's feet."""
    if place.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise UserError(f"{place} is the folder that you are in, or above it; give another")
    return place.resolve()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, about 1 GB/s."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parsed(text: str | bytes) -> Any:
    """JSON's value; whatever is wrong with the text is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a file's name that isn't UTF-8
        data = json.dumps(value, indent=2).encode()
    with replacing(path) as beside, beside.open("wb") as stream:
        stream.write(data + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there. A folder goes at once, or it is swept later."""
    if path.is_dir() and not path.is_symlink():
        if not path.name.endswith(".tmp"):
            path = path.rename(_beside(path))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
