"""The kernel distance (KID): unbiased at any number of samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .frechet import Features
from .inception_score import SEED, Score

SUBSETS, SIZE = 100, 1000
"""KID's, as torch-fidelity has them."""

CHUNK = 2048


def kernel_distance(real: Features, fake: Features, subsets: int = SUBSETS, size: int = SIZE) -> Score:
    """KID: the squared MMD with the kernel (x·y/d + 1)³, unbiased, over random subsets (arXiv 1801.01401, section 4).

    Subsets are torch-fidelity's, from its seed. In float64.

    Args:
        real: (n, d).
        fake: (m, d).
        subsets: how many.
        size: size of a subset of each side.

    Raises:
        ValueError: a side has fewer samples than a subset.
    """
    for name, features in (("real", real), ("generated", fake)):
        if len(features) < size:
            raise ValueError(f"KID draws subsets of {size} samples, but there are {len(features)} {name} ones")
    rng = np.random.RandomState(SEED)
    drawn = [
        (rng.choice(len(fake), size, replace=False), rng.choice(len(real), size, replace=False)) for _ in range(subsets)
    ]
    if (len(real) + len(fake)) ** 2 < 3 * subsets * size**2:  # the whole kernel is less work than its parts
        values = _from_whole(real, fake, drawn)
    else:
        values = torch.stack([_mmd(_rows(fake, i), _rows(real, j)) for i, j in drawn])
    return Score(float(values.mean()), float(values.std(correction=0)))


def squared_mmd(a: Features, b: Features) -> float:
    """The unbiased squared MMD of two sets (n, d), (m, d) with KID's kernel, in float64; n, m ≥ 2."""
    return float(_mmd(a.double(), b.double()))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _rows(features: Features, rows: np.ndarray) -> Tensor:
    return features[torch.from_numpy(rows)].double()


def _mmd(a: Tensor, b: Tensor) -> Tensor:
    aa, bb, ab = _kernel(a, a), _kernel(b, b), _kernel(a, b)
    own = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
    return own[0] + own[1] - 2 * ab.mean()


def _from_whole(real: Features, fake: Features, drawn: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
    """The same values from the kernel of all pairs: the sum over a subset is sᵀKs, with s its indicator."""
    size = len(drawn[0][0])
    s_fake, s_real = (x.new_zeros(len(x), len(drawn), dtype=torch.float64) for x in (fake, real))
    for column, (i, j) in enumerate(drawn):
        s_fake[torch.from_numpy(i), column] = 1
        s_real[torch.from_numpy(j), column] = 1
    total = fake.new_zeros(len(drawn), dtype=torch.float64)
    for a, s_a, b, s_b in ((fake, s_fake, fake, s_fake), (real, s_real, real, s_real), (fake, s_fake, real, s_real)):
        weight = 1 / (size * (size - 1)) if a is b else -2 / size**2
        for start in range(0, len(a), CHUNK):
            rows = slice(start, start + CHUNK)
            for first in range(0, len(b), CHUNK):
                columns = slice(first, first + CHUNK)
                kernel = _kernel(a[rows].double(), b[columns].double())
                if a is b and start == first:
                    kernel.fill_diagonal_(0)
                total += weight * (s_a[rows] * (kernel @ s_b[columns])).sum(0)
    return total
