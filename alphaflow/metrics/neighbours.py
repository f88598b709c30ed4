"""Metrics from nearest neighbours: precision and recall, label agreement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Labels
from .frechet import Features

_CHUNK = 2048


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: fakes that look real (precision), reals that the fakes cover (recall)."""

    precision: float
    recall: float


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
    return PrecisionRecall(_covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k)))


def label_agreement(real: Features, real_labels: Labels, fake: Features, fake_labels: Labels, k: int = 5) -> float:
    """The share of fakes whose k nearest reals vote for the fake's label.

    The most frequent label among the k wins; of equally frequent ones, that of the nearest neighbour.
    """
    agreeing = 0
    classes = int(real_labels.max()) + 1
    for part, labels in zip(_chunks(fake), _chunks(fake_labels), strict=True):
        nearest = _distances(part, real).topk(min(k, len(real)), dim=1, largest=False).indices
        votes = real_labels[nearest]
        counts = torch.zeros(len(part), classes, dtype=torch.long).scatter_add_(1, votes, torch.ones_like(votes))
        best = counts.gather(1, votes)
        first_best = (best == best.max(dim=1, keepdim=True).values).int().argmax(dim=1)
        agreeing += int((votes.gather(1, first_best[:, None])[:, 0] == labels).sum())
    return agreeing / len(fake)


def _chunks(rows: Tensor) -> tuple[Tensor, ...]:
    """Rows in parts, so that distances to all others fit into memory."""
    return torch.split(rows, _CHUNK)


def _distances(a: Features, b: Features) -> Tensor:
    """Euclidean distances (len(a), len(b)), in float64: the expanded squares lose digits in float32."""
    return torch.cdist(a.double(), b.double())


def _radii(features: Features, k: int) -> Tensor:
    """The distance of each member to its k-th nearest other member: (n,)."""
    nearest = [_distances(part, features).kthvalue(k + 1, dim=1).values for part in _chunks(features)]
    return torch.cat(nearest)


def _covered(points: Features, centres: Features, radii: Tensor) -> float:
    """The share of points inside at least one ball."""
    inside = [(_distances(part, centres) <= radii).any(dim=1) for part in _chunks(points)]
    return float(torch.cat(inside).double().mean())
