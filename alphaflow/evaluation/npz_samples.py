"""Pictures in an .npz, read as they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import torch

from ..data.arrays import DAMAGE, array, array_header, open_npz
from ..errors import UserError, said
from .sample_set import SampleBatch, SampleSet

LONGEST = 1000
"""Characters of a class's name."""


class NpzSamples(SampleSet):
    """An .npz with arr_0 (n, h, w, 1 or 3), 8-bit, and optionally arr_1, the labels (n,): ADM's format.

    Images are read from the file as they are needed, whether it is compressed or not; pickled objects are refused.

    Raises:
        UserError: there is no such file or arrays, or they are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        with open_npz(path) as file:
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

    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads the samples ``start`` … ``stop`` − 1."""
        channels, height, width = self.shape
        each = height * width * channels
        try:
            if self._stream is None or start < self._position:
                self._stream, self._position = open_npz(self.path).open("arr_0.npy"), 0
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
        return SampleBatch(start, pixels.permute(0, 3, 1, 2).contiguous(), labels)


def _as_number(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)
