"""Metrics from nearest neighbours: precision and recall, label agreement, the nearest themselves.

Distances are computed in blocks, so that memory doesn't grow with the number of pairs, and in float64: the expanded
squares lose digits in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Labels
from .frechet import Features

_ROWS, _COLUMNS = 2048, 4096


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: fakes that look real (precision), reals that the fakes cover (recall)."""

    precision: float
    recall: float


@dataclass(frozen=True)
class Neighbours:
    """The nearest members of a set, nearest first.

    Attributes:
        indices: (n, k), in the set.
        distances: (n, k), Euclidean.
    """

    indices: Tensor
    distances: Tensor


def precision_recall(real: Features, fake: Features, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991, eq. 1 and 2).

    A set's manifold is the union of balls around its members, each reaching to the member's k-th nearest neighbour
    (itself not counted). Precision is the share of fakes in the reals' manifold, recall the reverse.

    Raises:
        ValueError: a set has k members or fewer.
    """
    for name, features in (("real", real), ("generated", fake)):
        if len(features) <= k:
            raise ValueError(f"precision and recall need more than k = {k} {name} samples, got {len(features)}")
    reach_real, reach_fake = (nearest(features, features, k + 1).distances[:, k] for features in (real, fake))
    real_covered, fake_covered = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in (real, fake))
    for rows, columns, distances in distance_blocks(fake, real):
        fake_covered[rows] |= (distances <= reach_real[columns]).any(dim=1)
        real_covered[columns] |= (distances <= reach_fake[rows, None]).any(dim=0)
    return PrecisionRecall(float(fake_covered.double().mean()), float(real_covered.double().mean()))


def nearest(points: Features, centres: Features, k: int) -> Neighbours:
    """Each point's k nearest centres, or all where there are fewer."""
    k = min(k, len(centres))
    indices = torch.empty(len(points), k, dtype=torch.long, device=points.device)
    found = torch.full((len(points), k), torch.inf, dtype=torch.float64, device=points.device)
    for rows, columns, distances in distance_blocks(points, centres):
        here = torch.arange(columns.start, columns.stop, device=points.device).expand_as(distances)
        both = torch.cat([found[rows], distances], dim=1)
        which = torch.cat([indices[rows], here], dim=1)
        found[rows], picked = both.topk(k, dim=1, largest=False)
        indices[rows] = which.gather(1, picked)
    return Neighbours(indices, found)


def label_agreement(real: Features, real_labels: Labels, fake: Features, fake_labels: Labels, k: int = 5) -> float:
    """The share of fakes whose k nearest reals vote for the fake's label.

    The most frequent label among the k wins; of equally frequent ones, that of the nearest neighbour.
    """
    classes = int(real_labels.max()) + 1
    votes = real_labels[nearest(fake, real, k).indices.to(real_labels.device)]
    counts = votes.new_zeros(len(fake), classes).scatter_add_(1, votes, torch.ones_like(votes))
    best = counts.gather(1, votes)
    first_best = (best == best.max(dim=1, keepdim=True).values).int().argmax(dim=1)
    voted = votes.gather(1, first_best[:, None])[:, 0]
    return float((voted == fake_labels.to(voted.device)).double().mean())


def distance_blocks(points: Features, centres: Features) -> Iterator[tuple[slice, slice, Tensor]]:
    """Distances (rows, columns) block by block, in float64."""
    for start in range(0, len(points), _ROWS):
        rows = slice(start, min(start + _ROWS, len(points)))
        part = points[rows].double()
        for first in range(0, len(centres), _COLUMNS):
            columns = slice(first, min(first + _COLUMNS, len(centres)))
            yield rows, columns, torch.cdist(part, centres[columns].double())
