"""Two sets of handwritten digits that come with the package: as images, and as motions of the pen."""

from __future__ import annotations

from importlib import resources
from typing import ClassVar

import numpy as np
import torch

from ..types import Batch, Cond
from .dataset import IndexedDataset, Indices


class Digits(IndexedDataset):
    """1,797 real handwritten digits, 8×8, ten classes, in [-1, 1]: shape (1, 8, 8).

    Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
    https://doi.org/10.24432/C50P49, CC BY 4.0. Each pixel counts the ink in a 4×4 block of a 32×32 scan: 0 … 16.

    Args:
        batch_size: samples a batch.
        seed: seed of the order; None takes torch's global seed.
    """

    shape: tuple[int, ...] = (1, 8, 8)
    class_names = tuple("0123456789")
    _file: ClassVar[tuple[str, str, float]] = ("digits.npz", "ink", 8)
    """The file, its array, and which value lies in the middle."""

    def __init__(self, batch_size: int = 128, seed: int | None = None) -> None:
        super().__init__(batch_size, seed)
        self.config = {"batch_size": batch_size}
        name, values, middle = self._file
        with resources.files("alphaflow.data").joinpath(name).open("rb") as file, np.load(file) as arrays:
            given, labels = arrays[values], arrays["labels"]
        self._x = torch.from_numpy(given.astype(np.float32) / middle - 1).view(-1, *self.shape)
        self._labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self._x)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The digits at these indices; nothing is augmented."""
        picked = torch.from_numpy(np.ascontiguousarray(indices))
        return Batch(self._x[picked], Cond(labels=self._labels[picked]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, seed={self.seed})"


class PenDigits(Digits):
    """10,992 real digits as motions of the pen that wrote them: eight points (x, y), in [-1, 1]: shape (2, 8).

    Pen-Based Recognition of Handwritten Digits, E. Alpaydin and F. Alimoglu, UCI Machine Learning Repository (1996),
    https://doi.org/10.24432/C5MG6K, CC BY 4.0. By 44 writers on a tablet; points evenly spaced along the line, in a box
    of 100 × 100.

    Args:
        batch_size: samples a batch.
        seed: seed of the order; None takes torch's global seed.
    """

    shape = (2, 8)
    _file = ("pen_digits.npz", "points", 50)
