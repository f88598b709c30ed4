"""Wasserstein distances: of numbers, and of points along random directions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def wasserstein(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """The 1-Wasserstein distance between two sets of numbers: the mean gap between their quantiles."""
    n, m = len(a), len(b)
    levels = torch.cat(
        [torch.arange(1, n + 1, dtype=torch.float64) / n, torch.arange(1, m + 1, dtype=torch.float64) / m]
    )
    levels = levels.sort().values
    widths = levels.diff(prepend=levels.new_zeros(1))
    middle = levels - widths / 2
    of_a = a.double().cpu().sort().values[(middle * n).long().clamp(max=n - 1)]
    of_b = b.double().cpu().sort().values[(middle * m).long().clamp(max=m - 1)]
    return float((widths * (of_a - of_b).abs()).sum())


Points = Float[Tensor, "n ..."]


def sliced_wasserstein(a: Points, b: Points, projections: int = 256, seed: int = 0) -> float:
    """The mean over random directions of the 1-Wasserstein distance along them (Bonneel et al. 2015).

    Args:
        a: points (n, …); a point is flattened.
        b: as many other points.
        projections: random directions.
        seed: seed of the directions.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"sliced_wasserstein compares equally many points of one shape, got {a.shape} and {b.shape}")
    a, b = a.flatten(1).double(), b.flatten(1).double()
    directions = torch.randn(
        a.shape[1], projections, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    directions = (directions / directions.norm(dim=0)).to(a.device)
    gap = (a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values
    return float(gap.abs().mean())
