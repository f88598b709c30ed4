"""Pictures in an .npz, read as they are needed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..errors import UserError
from .base import Block, Source


class Arrays(Source):
    """An .npz with arr_0 (n, h, w, 1 or 3), 8-bit, and optionally arr_1, the labels (n,): ADM's format.

    Images are read from the file as they are needed, whether it is compressed or not; pickled objects are refused.

    Raises:
        UserError: there is no such file or arrays, or they are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._stream: IO[bytes] | None = None
        with reading(path) as file:
            if "arr_0.npy" not in file.namelist():
                raise UserError(f"{path} holds no arr_0; expected images (n, h, w, c), 8-bit, under that name")
            with file.open("arr_0.npy") as stream:
                shape, fortran, dtype = array_header(stream, path)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or fortran:
                raise UserError(f"{path}: arr_0 must be 8-bit (n, h, w, 1 or 3), got {dtype} {shape}")
            self._labels: np.ndarray[Any, Any] | None = None
            if "arr_1.npy" in file.namelist():
                with file.open("arr_1.npy") as stream:
                    self._labels = np.lib.format.read_array(stream, allow_pickle=False)
        self._count, (height, width, channels) = shape[0], shape[1:]
        self.shape = (channels, height, width)
        found = [] if self._labels is None else sorted({str(label) for label in self._labels.tolist()}, key=_as_number)
        self.class_names = found
        index = {name: i for i, name in enumerate(found)}
        self._index = None if self._labels is None else [index[str(label)] for label in self._labels.tolist()]
        self._position = 0

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> Block:
        """Those from ``start`` up to ``stop``."""
        channels, height, width = self.shape
        each = height * width * channels
        if self._stream is None or start < self._position:
            self._stream, self._position = reading(self.path).open("arr_0.npy"), 0
            array_header(self._stream, self.path)
        try:
            while self._position < start:
                skipped = min(start - self._position, 256)
                self._stream.read(skipped * each)
                self._position += skipped
            data = self._stream.read((stop - start) * each)
        except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
            raise UserError(f"{self.path} is damaged: {error}; write it again") from error
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
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} doesn't exist") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no readable .npz ({error}); is it whole?") from error


def array_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of the array that begins here.

    Raises:
        UserError: it is none, or holds pickled objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no readable .npz ({error}); is it whole?") from error
    if dtype.hasobject:
        raise UserError(f"{path}: pickled objects are refused, since they can run code; write plain arrays")
    return shape, fortran, dtype


def _as_number(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)
