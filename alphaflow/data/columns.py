"""Arrays of n rows of which any may be fetched: in memory, in a .npy, or in an .npz."""

from __future__ import annotations

import math
import struct
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, reason, said
from .arrays import DAMAGE, array_header, open_npz, read_array, read_header, read_member
from .dataset import Indices
from .open_files import Files

Values: TypeAlias = Tensor | np.ndarray[Any, Any] | Path | str
"""What an array may be given as: values, or the path of a .npy."""

LOCAL = struct.Struct("<4s22xHH")
"""What precedes a member in a zip: its mark, and how long its name and its extra field are."""


class Column(ABC):
    """An array (n, …).

    Attributes:
        shape: its shape.
        dtype: its type, NumPy's or PyTorch's.
        place: where it lies, for messages: a path, or nothing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | torch.dtype
    place: str = ""

    @abstractmethod
    def rows(self, indices: Indices) -> Tensor:
        """A copy of these rows: floats of the array's own precision up to float32, int64, bool, or uint8."""

    @property
    def kind(self) -> str:
        """``f`` of floats, ``i`` of whole numbers, ``p`` of 8-bit ones that may be pixels, ``b`` of True and False."""
        if isinstance(self.dtype, torch.dtype):
            floats = self.dtype.is_floating_point
            return {torch.uint8: "p", torch.bool: "b"}.get(self.dtype, "f" if floats else "i")
        return "p" if self.dtype == np.uint8 else self.dtype.kind.replace("u", "i")

    def all(self) -> Tensor:
        """All rows."""
        return self.rows(np.arange(self.shape[0]))

    @staticmethod
    def of(name: str, given: Values) -> Column:
        """Values that are given, or lie in a .npy.

        Raises:
            UserError: it is neither, can't be read, or holds what no tensor can.
        """
        if isinstance(given, Tensor):
            if given.is_complex() or given.is_sparse or given.is_quantized:
                raise UserError(f"{name} is {given.dtype}, {given.layout}; give a plain tensor of real numbers")
            return _Tensors(given.detach())
        if isinstance(given, np.ndarray):
            _check_kind(name, given.dtype)
            return _Numpy(given)
        if isinstance(given, Path | str):
            return _of_npy(name, Path(given))
        raise UserError(f"{name} is a tensor, a NumPy array, or the path of a .npy, not a {type(given).__name__}")


class _Tensors(Column):
    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape, self.dtype = tuple(values.shape), values.dtype

    def rows(self, indices: Indices) -> Tensor:
        return self.values[torch.from_numpy(np.ascontiguousarray(indices)).to(self.values.device)]


class _Numpy(Column):
    def __init__(self, values: np.ndarray[Any, Any], place: str = "") -> None:
        self.values = values
        self.shape, self.dtype, self.place = values.shape, values.dtype, place

    def rows(self, indices: Indices) -> Tensor:
        return _tensor(self.values[indices])


class _Stored(Column):
    """Rows in a file that is read where they lie: not mapped, for reading a mapped file that was cut ends the process.

    Args:
        file: path of the file.
        shape: shape of the array, in C's order.
        dtype: its type.
        offset: where in the file it begins.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
        self.shape, self.dtype, self.place = shape, dtype, str(file)
        self._offset, self._stored = offset, dtype
        self._files = Files([file])
        self._stamp = _stamp(file)

    def rows(self, indices: Indices) -> Tensor:
        if _stamp(Path(self.place)) != self._stamp:
            raise UserError(f"{self.place} was changed or cut while it was in use; restore it, or begin anew with it")
        size = math.prod(self.shape[1:]) * self._stored.itemsize
        out = np.empty((len(indices), *self.shape[1:]), self._stored)
        data = out.reshape(-1).view(np.uint8).data
        starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 2) != 1)
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(indices)], strict=True):  # neighbours at once
            self._files.fill(data[start * size : end * size], 0, self._offset + int(indices[start]) * size)
        return _tensor(out)


def _tensor(rows: np.ndarray[Any, Any]) -> Tensor:
    """Rows, a copy already, as a tensor: in this machine's order of bytes, in a type that PyTorch has."""
    kind = rows.dtype.kind
    if kind == "f" and rows.dtype.itemsize != 2:
        with np.errstate(over="ignore"):  # it is then infinite, and said to be
            rows = rows.astype(np.float32)
    elif kind == "f":
        rows = rows.astype(np.float16)
    elif kind in "iu" and rows.dtype != np.uint8:
        rows = rows.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(rows))


def _check_kind(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise UserError(f"{name} holds Python objects; give an array of numbers, all samples of one shape")
    if dtype.kind not in "fiub":
        raise UserError(f"{name} holds {dtype}; give an array of real numbers")


def _of_npy(name: str, path: Path) -> Column:
    """An array in a .npy; one in Fortran's order, whose rows lie apart, is read at once."""
    if path.suffix == ".npz":
        raise UserError(f"{name}: {path} is an .npz, which is given as x alone, with all arrays in it by their names")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: {path} is not a file")
        with path.open("rb") as stream:
            size = path.stat().st_size
            shape, fortran, dtype, offset = read_header(stream, size)
            _check_kind(f"{name}, {path},", dtype)
            if not _apart(shape, fortran):
                return _Stored(path, shape, dtype, offset)
            stream.seek(0)
            return _Numpy(read_array(stream, size), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{name}: {path} doesn't exist") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {path} can't be read as a .npy ({reason(error)})") from error


def _apart(shape: tuple[int, ...], fortran: bool) -> bool:
    return fortran and len(shape) > 1


def columns_of_npz(path: Path) -> dict[str, Column]:
    """All arrays of an .npz by name: read where they lie, or, those that are compressed, at once.

    Raises:
        UserError: it, or an array in it, can't be read, or holds what no tensor can.
    """
    found: dict[str, Column] = {}
    with open_npz(path) as file:
        for member in file.namelist():
            name = member.removesuffix(".npy")
            shape, fortran, dtype, begin = array_header(file, name, path)
            _check_kind(f"{name} in {path}", dtype)
            info = file.getinfo(member)
            if info.compress_type != zipfile.ZIP_STORED or _apart(shape, fortran):
                found[name] = _Numpy(read_member(file, name, path), str(path))
                continue
            try:
                with path.open("rb") as stream:
                    found[name] = _Stored(path, shape, dtype, _start(stream, info) + begin)
            except DAMAGE as error:
                raise UserError(f"{path}: {name} can't be read ({said(error)}); is it whole?") from error
    return found


def _start(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin in its zip."""
    stream.seek(info.header_offset)
    mark, name, extra = LOCAL.unpack(stream.read(LOCAL.size))
    if mark != b"PK\x03\x04":
        raise zipfile.BadZipFile("no member where one should be")
    return int(info.header_offset + LOCAL.size + name + extra)


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does: its size and the time of its last change."""
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"{file} can't be read any more: {reason(error)}; restore it") from error
    return found.st_size, found.st_mtime_ns
