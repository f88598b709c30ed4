"""The energy distance between two sets of points."""

from __future__ import annotations

from torch import Tensor

from .neighbours import distance_blocks
from .wasserstein import Points


def energy_distance(a: Points, b: Points) -> float:
    """2·E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ (Székely and Rizzo 2013), 0 only where both are distributed alike.

    Unbiased: pairs of a point with itself are left out, so that it is 0 on average between sets of one distribution,
    and may be slightly negative. In float64, in blocks: memory doesn't grow with the number of pairs.

    Args:
        a: points (n, …), n ≥ 2; a point is flattened.
        b: points (m, …) of the same shape, m ≥ 2.

    Raises:
        ValueError: the points are of different shapes, or a set has fewer than two.
    """
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise ValueError(f"energy_distance compares at least 2 points each, of one shape: {a.shape} and {b.shape}")
    a, b = a.flatten(1), b.flatten(1)
    n, m = len(a), len(b)
    return 2 * _sum(a, b) / (n * m) - _sum(a, a) / (n * (n - 1)) - _sum(b, b) / (m * (m - 1))


def _sum(a: Tensor, b: Tensor) -> float:
    """The sum of the distances of all pairs."""
    total = 0.0
    for rows, columns, distances in distance_blocks(a, b):
        if a is b and rows.start < columns.stop and columns.start < rows.stop:  # cdist's zeros are only nearly so
            for i in range(max(rows.start, columns.start), min(rows.stop, columns.stop)):
                distances[i - rows.start, i - columns.start] = 0
        total += float(distances.sum())
    return total
