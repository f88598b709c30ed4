"""The Inception Score of samples that come in parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SEED = 2020
"""torch-fidelity's, of the order in which samples fall into splits, and of KID's subsets."""


@dataclass(frozen=True)
class Score:
    """A mean over splits or subsets, and the standard deviation among them."""

    mean: float
    std: float


class InceptionScore:
    """exp E KL(p(y|x) ‖ p(y)) (arXiv 1606.03498, section 4), the mean over splits.

    Each split needs only its sums of p and of p·log p, so that samples can come in any order and from several
    processes; float64. Splits are torch-fidelity's: equal parts of a permutation of all samples, from its seed.

    Args:
        total: samples there will be.
        splits: parts, at most ``total``.
    """

    def __init__(self, total: int, splits: int = 10) -> None:
        if not 1 <= splits <= total:
            raise ValueError(f"the Inception Score of {splits} splits needs at least as many samples, got {total}")
        order = np.random.RandomState(SEED).permutation(total)
        split = np.empty(total, dtype=np.int64)
        bounds = [i * total // splits for i in range(splits + 1)]
        for i in range(splits):
            split[order[bounds[i] : bounds[i + 1]]] = i
        self._split, self._splits = torch.from_numpy(split), splits
        self._sums = torch.zeros(splits, 0, dtype=torch.float64)
        self._negentropy = torch.zeros(splits, dtype=torch.float64)

    def add(self, logits: Float[Tensor, "n classes"], start: int) -> None:
        """Takes the logits of samples ``start``, ``start`` + 1, … in."""
        log_p = logits.cpu().double().log_softmax(dim=1)
        p = log_p.exp()
        split = self._split[start : start + len(p)]
        if not self._sums.numel():
            self._sums = torch.zeros(self._splits, p.shape[1], dtype=torch.float64)
        self._sums.index_add_(0, split, p)
        self._negentropy.index_add_(0, split, (p * log_p).sum(1))

    def merge(self, sums: Tensor, negentropy: Tensor) -> None:
        """Takes the sums of another process in."""
        if sums.numel():  # it had samples
            self._sums = sums + self._sums if self._sums.numel() else sums
            self._negentropy += negentropy

    def parts(self) -> tuple[Tensor, Tensor]:
        """What `merge` takes: sums of p (splits, classes) and of Σ p·log p (splits,)."""
        return self._sums, self._negentropy

    def score(self) -> Score:
        """The mean over splits, and their standard deviation."""
        count = torch.bincount(self._split, minlength=self._splits).double()
        q = self._sums / count[:, None]
        scores = (self._negentropy / count - torch.special.xlogy(q, q).sum(1)).exp()
        return Score(float(scores.mean()), float(scores.std(correction=0)))
