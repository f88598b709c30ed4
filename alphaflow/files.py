"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; renames it into place if the block ends well, removes it if not.

    What is written may be a file or a folder. A folder that stands in the place is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    remove(beside)
    try:
        yield beside
        put(beside, path)
    finally:
        remove(beside)


def put(beside: Path, path: Path) -> None:
    """Renames a file or a folder into its place; what stands there is replaced."""
    if beside.is_dir() and path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
        path.replace(old)
        beside.replace(path)
        remove(old)
    else:
        beside.replace(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, about 1 GB/s."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    """Removes a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
