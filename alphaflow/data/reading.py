"""Reading files that may be cut while they are read, and arrays that may not be what they say."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError, said

try:
    import resource
except ImportError:  # Windows
    ROOM = 128
else:
    ROOM = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 1)
    """Files that are kept open at once: a process may open four times as many."""

MOST_HEADER = 2**14
"""Bytes that hold any array's header that numpy takes."""


class Files:
    """Files that are read at any place, in any order. Of more than ``ROOM`` the latest is closed for another.

    Not memory-mapped: reading what a mapped file has lost since ends the process.

    Args:
        paths: of the files; they are opened as they are first read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [str(path) for path in paths]
        self._opened: dict[int, _Opened] = {}

    def fill(self, data: memoryview, number: int, offset: int) -> None:
        """Reads a file's bytes from ``offset`` on into ``data``.

        Raises:
            UserError: it ends before, or can't be read.
        """
        try:
            opened = self._open(number)  # held while it is read, whatever other threads open
            count = os.preadv(opened.descriptor, [data], offset)
        except OSError as error:
            raise UserError(f"{self.paths[number]} can't be read any more: {error.strerror}; restore it") from error
        if count != len(data):
            file = Path(self.paths[number])
            raise UserError(
                f"{file} was cut while it was in use: it ends before byte {offset + len(data)}; restore it, and look "
                f"for others with `alphaflow verify {file.parent}`"
            )

    def _open(self, number: int) -> _Opened:
        found = self._opened.get(number)
        if found is None:
            if len(self._opened) >= ROOM:
                self._opened.popitem()
            found = self._opened[number] = _Opened(os.open(self.paths[number], os.O_RDONLY))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_opened": {}}  # another process opens its own


class _Opened:
    """A file's descriptor, closed when nobody holds it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def read_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Of an array in a .npy of so many bytes: shape, whether Fortran's order, type, and where its values begin.

    Raises:
        ValueError: it is none, holds pickled objects, or ends before its values do.
    """
    start = io.BytesIO(stream.read(MOST_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(start)
    except Exception as error:  # numpy parses it as Python: there is hardly one that it can't raise
        raise ValueError(f"no array's header: {said(error)}") from error
    if dtype.hasobject:
        raise ValueError("pickled objects are refused: they can run code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - start.tell():
        raise ValueError(f"{dtype} {shape} in {size} bytes: it ends early, or its header is wrong")
    return shape, fortran, dtype, start.tell()


def read_array(stream: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """The array of a .npy of so many bytes; takes no more memory than those, whatever its header says.

    Raises:
        ValueError: as `read_header`.
    """
    read_header(stream, size)
    stream.seek(0)
    array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
