"""What is known of a set of pictures or clips, and what metrics need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..features.builtin import UNPUBLISHED
from ..metrics.frechet import Features, Moments
from ..metrics.inception_score import Score
from ..types import Labels
from .catalogue import METRICS


@dataclass(frozen=True)
class Space:
    """A set in one extractor's features.

    Attributes:
        count: features: samples, or their frames.
        moments: moments of all samples; None where not wanted.
        halves: moments of two random halves; None where not wanted.
        features: all of them, (count, d), in the samples' order; None where not wanted.
        weights: SHA-256 of the extractor's file; empty for pixels.
    """

    count: int
    moments: Moments | None = None
    halves: tuple[Moments, Moments] | None = None
    features: Features | None = field(default=None, repr=False)
    weights: str = ""


@dataclass(frozen=True)
class Statistics:
    """What is known of a set of pictures or clips.

    Attributes:
        count: samples; 0 where a file doesn't say.
        shape: shape of one sample, (c, h, w) or (c, f, h, w); empty where a file doesn't say.
        spaces: feature statistics by extractor.
        score: the Inception Score, where wanted.
        labels: (count,), or None.
    """

    count: int
    shape: tuple[int, ...]
    spaces: Mapping[str, Space]
    score: Score | None = None
    labels: Labels | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Needs:
    """What is gathered in one extractor's features."""

    moments: bool = False
    features: bool = False
    score: bool = False
    halves: bool = False


def needs_of(metrics: Sequence[str], *, real: bool = False, keep: bool = False) -> dict[str, Needs]:
    """What metrics need: by extractor.

    Args:
        metrics: their names.
        real: of a reference: no Inception Score, and in unpublished features also halves.
        keep: features too, whatever the metrics.
    """
    found: dict[str, Needs] = {}
    for name in metrics:
        metric = METRICS[name]
        if real and metric.family == "pairs":
            continue
        needs = found.get(metric.extractor, Needs(features=keep))
        if metric.family == "fd":
            needs = replace(needs, moments=True, halves=needs.halves or (real and metric.extractor in UNPUBLISHED))
        elif metric.family == "is":
            needs = replace(needs, score=not real)
        else:
            needs = replace(needs, features=True)
        found[metric.extractor] = needs
    return {name: needs for name, needs in found.items() if needs != Needs()}


def random_halves(total: int) -> tuple[Tensor, Tensor]:
    """The indices of two random halves (seed 0); the second has one more of an odd number."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[: total // 2], order[total // 2 :]
