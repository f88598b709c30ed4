"""Wasserstein distances: of numbers, and of points along random directions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "n ..."]


def wasserstein(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """The 1-Wasserstein distance between two sets of numbers: the mean gap between their quantiles."""
    return float(_by_column(a.double().cpu()[:, None], b.double().cpu()[:, None]))


def sliced_wasserstein(a: Points, b: Points, projections: int = 256, seed: int = 0) -> float:
    """The mean over random directions of the 1-Wasserstein distance along them (Bonneel et al. 2015).

    Args:
        a: points (n, …); a point is flattened.
        b: points (m, …) of the same shape.
        projections: random directions.
        seed: seed of the directions.

    Raises:
        ValueError: the points are of different shapes.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"sliced_wasserstein compares points of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.flatten(1).double(), b.flatten(1).double()
    directions = torch.randn(
        a.shape[1], projections, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    directions = (directions / directions.norm(dim=0)).to(a.device)
    return float(_by_column(a @ directions, b @ directions).mean())


def _by_column(a: Tensor, b: Tensor) -> Tensor:
    """The distance between the numbers in each column of (n, k) and of (m, k): (k,)."""
    a, b = a.sort(dim=0).values, b.sort(dim=0).values
    n, m = len(a), len(b)
    if n == m:
        return (a - b).abs().mean(dim=0)
    steps = (torch.arange(1, size + 1, dtype=torch.float64, device=a.device) / size for size in (n, m))
    levels = torch.cat(list(steps)).sort().values
    widths = levels.diff(prepend=levels.new_zeros(1))
    middle = levels - widths / 2
    rows_a, rows_b = ((middle * size).long().clamp(max=size - 1) for size in (n, m))
    return (widths[:, None] * (a[rows_a] - b[rows_b]).abs()).sum(dim=0)
