"""The handwritten digits that come with the package."""

from __future__ import annotations

from importlib import resources

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

    shape = (1, 8, 8)
    class_names = tuple("0123456789")

    def __init__(self, batch_size: int = 128, seed: int | None = None) -> None:
        super().__init__(batch_size, seed)
        with resources.files("alphaflow.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
            ink, labels = arrays["ink"], arrays["labels"]
        self._x = torch.from_numpy(ink.astype(np.float32) / 8 - 1)[:, None]
        self._labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self._x)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The digits at these indices; nothing is augmented."""
        picked = torch.from_numpy(np.ascontiguousarray(indices))
        return Batch(self._x[picked], Cond(labels=self._labels[picked]))

    def __repr__(self) -> str:
        return f"Digits(batch_size={self.batch_size}, seed={self.seed})"
