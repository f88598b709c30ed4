"""Pictures in an .npz, read as they are needed."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..data.reading import read_array, read_header
from ..errors import UserError, said
from .base import Block, Source

DAMAGE = (OSError, EOFError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What zipfile and numpy raise on files that are damaged, encrypted, or packed in some other way."""

SMALL, PACKED = 2**26, 100
"""Bytes up to which an array is taken however well it is packed; a larger one takes a hundredth of them in the file."""

LONGEST = 1000
"""Characters of a class's name."""

KINDS = {"f": "floats", "iu": "whole numbers", "iuU": "whole numbers or text", "U": "text"}
"""numpy's letters for kinds of values, in words."""


class Arrays(Source):
    """An .npz with arr_0 (n, h, w, 1 or 3), 8-bit, and optionally arr_1, the labels (n,): ADM's format.

    Images are read from the file as they are needed, whether it is compressed or not; pickled objects are refused.

    Raises:
        UserError: there is no such file or arrays, or they are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        with reading(path) as file:
            if "arr_0.npy" not in file.namelist():
                raise UserError(f"{path} holds no arr_0; expected images (n, h, w, c), 8-bit, under that name")
            shape, fortran, dtype, self._begin = array_header(file, "arr_0", path)
            if dtype != np.uint8 or len(shape) != 4 or not all(shape) or shape[3] not in (1, 3) or fortran:
                raise UserError(f"{path}: arr_0 must be 8-bit (n, h, w, 1 or 3), got {dtype} {shape}")
            labels = None
            if "arr_1.npy" in file.namelist():
                labels = array(file, "arr_1", path, "iuU", shape[:1])
                if labels.dtype.kind == "i" and labels.min() < 0:
                    raise UserError(
                        f"{path}: arr_1 holds the label {labels.min()}; labels are names, or numbers from 0 on"
                    )
                if labels.dtype.kind == "U" and np.char.str_len(labels).max() > LONGEST:
                    raise UserError(f"{path}: arr_1 holds names of more than {LONGEST:,} characters; shorten them")
        self._count, (height, width, channels) = shape[0], shape[1:]
        self.shape = (channels, height, width)
        names = [] if labels is None else [str(label) for label in labels.tolist()]
        self.class_names = sorted(set(names), key=_as_number)
        index = {name: i for i, name in enumerate(self.class_names)}
        self._index = None if labels is None else [index[name] for name in names]
        self._stream: IO[bytes] | None = None
        self._position = 0

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> Block:
        """Those from ``start`` up to ``stop``."""
        channels, height, width = self.shape
        each = height * width * channels
        try:
            if self._stream is None or start < self._position:
                self._stream, self._position = reading(self.path).open("arr_0.npy"), 0
                self._stream.read(self._begin)
            while self._position < start:
                skipped = min(start - self._position, 256)
                self._stream.read(skipped * each)
                self._position += skipped
            data = self._stream.read((stop - start) * each)
        except DAMAGE as error:
            raise UserError(f"{self.path} is damaged: {said(error)}; write it again") from error
        if len(data) != (stop - start) * each:
            raise UserError(f"{self.path} is damaged: arr_0 ends early; write it again")
        self._position = stop
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, height, width, channels)
        labels = None if self._index is None else torch.tensor(self._index[start:stop])
        return Block(start, pixels.permute(0, 3, 1, 2).contiguous(), labels)


def reading(path: Path) -> zipfile.ZipFile:
    """An .npz, opened.

    Raises:
        UserError: it can't be.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file")
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} doesn't exist") from error
    except DAMAGE as error:
        raise UserError(f"{path} is no readable .npz ({said(error)}); is it whole?") from error


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
    if info.file_size > max(SMALL, PACKED * stored):
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
    try:
        with file.open(f"{name}.npy") as stream:
            return read_array(stream, file.getinfo(f"{name}.npy").file_size)
    except DAMAGE as error:
        raise UserError(f"{path}: {name} can't be read ({said(error)}); is it whole?") from error


def _as_number(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)
