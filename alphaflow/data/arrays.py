"""Arrays in .npy and .npz files, which may not be what they say."""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError, said

MOST_HEADER = 2**14
"""Bytes that hold any array's header that numpy takes."""


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


DAMAGE = (OSError, EOFError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What zipfile and numpy raise on files that are damaged, encrypted, or packed in some other way."""

SMALL, MOST_PACKED = 2**26, 100
"""Bytes up to which an array is taken however well it is packed; a larger one takes a hundredth of them in the file."""

KINDS = {"f": "floats", "iu": "whole numbers", "iuU": "whole numbers or text", "U": "text"}
"""numpy's letters for kinds of values, in words."""


def open_npz(path: Path) -> zipfile.ZipFile:
    """An .npz, opened.

    Raises:
        UserError: it can't be.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} doesn't exist") from error
    except DAMAGE as error:
        raise UserError(f"{path} is not a readable .npz ({said(error)}); is it whole?") from error


def names_in(path: Path) -> list[str]:
    """The names of an .npz's arrays.

    Raises:
        UserError: it can't be opened.
    """
    with open_npz(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist()]


def array_header(file: zipfile.ZipFile, name: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Of an array in an .npz: shape, whether Fortran's order, type, and where its values begin.

    Raises:
        UserError: there is none, it holds pickled objects, or it would take far more memory than it takes in the file.
    """
    try:
        info = file.getinfo(f"{name}.npy")
        with file.open(info) as stream:
            header = read_header(stream, info.file_size)
        stored = min(info.compress_size, path.stat().st_size)
    except KeyError as error:
        raise UserError(f"{path} is incomplete: no {name}; make it again") from error
    except DAMAGE as error:
        raise UserError(f"{path}: {name} can't be read ({said(error)}); is it whole?") from error
    if info.file_size > max(SMALL, MOST_PACKED * stored):
        raise UserError(
            f"{path}: {name} would unpack from {stored:,} to {info.file_size:,} bytes, which only a file does that is "
            "made to fill memory; write it without compression if you mean it"
        )
    return header


def array(
    file: zipfile.ZipFile, name: str, path: Path, kinds: str, shape: Sequence[int | None]
) -> np.ndarray[Any, Any]:
    """An array of an .npz, if it is of one of these kinds and of this shape; None stands for any number above 0.

    Raises:
        UserError: it is not, or as `array_header`.
    """
    found, _, dtype, _ = array_header(file, name, path)
    right = len(found) == len(shape) and all(n == m or (m is None and n) for n, m in zip(found, shape, strict=True))
    if not right or dtype.kind not in kinds or (dtype.kind == "f" and dtype.itemsize > 8):
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise UserError(f"{path}: {name} must be {KINDS[kinds]} ({wanted}), got {dtype} {found}; make it again")
    return read_member(file, name, path)


def read_member(file: zipfile.ZipFile, name: str, path: Path) -> np.ndarray[Any, Any]:
    """An array of an .npz whose header was looked at (`array_header`).

    Raises:
        UserError: it can't be read.
    """
    try:
        with file.open(f"{name}.npy") as stream:
            return read_array(stream, file.getinfo(f"{name}.npy").file_size)
    except DAMAGE as error:
        raise UserError(f"{path}: {name} can't be read ({said(error)}); is it whole?") from error
