"""The Fréchet distance between two sets of features, and the moments that it is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "n d"]

BUFFERED = 1024
"""Rows that `RunningMoments` gathers before it multiplies them."""


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and unbiased covariance (d, d) of a set of features, in float64."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(features: Features) -> Moments:
        """The moments of features (n, d), n ≥ 2."""
        running = RunningMoments()
        running.add(features)
        return running.moments()

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance (d, d); negative eigenvalues, which are rounding, count as 0."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root


class RunningMoments:
    """Mean and covariance of features that come in parts, in float64, and of several such sets together.

    Parts are merged by their means and their sums of squares about them (Chan, Golub and LeVeque 1979), which loses no
    digits where the mean is large beside the deviation.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._scatter = torch.zeros(())
        self._waiting: list[Tensor] = []

    @property
    def count(self) -> int:
        """Features so far."""
        return self._count + sum(map(len, self._waiting))

    def add(self, features: Features) -> None:
        """Takes features (n, d) in; n = 0 is nothing."""
        wide = features.device.type != "mps"  # which has no float64
        self._waiting.append(features.double() if wide else features.cpu().double())
        if sum(map(len, self._waiting)) >= BUFFERED:
            self._flush()

    def merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Takes another set in: its number, its mean (d,), and the sum of outer products about that mean (d, d)."""
        if not self._count:
            self._count, self._mean, self._scatter = count, mean, scatter
        elif count:
            total = self._count + count
            gap = mean.to(self._mean.device) - self._mean
            spread = torch.outer(gap, gap) * (self._count * count / total)
            self._scatter = self._scatter + scatter.to(gap.device) + spread  # anew: others hold what was there
            self._mean, self._count = self._mean + gap * (count / total), total

    def parts(self) -> tuple[int, Tensor, Tensor]:
        """What `merge` takes, of all features so far."""
        self._flush()
        return self._count, self._mean, self._scatter

    def moments(self) -> Moments:
        """The moments of all features so far, at least two.

        Raises:
            ValueError: fewer than two.
        """
        count, mean, scatter = self.parts()
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {count}")
        return Moments(mean.cpu(), scatter.cpu() / (count - 1))

    def _flush(self) -> None:
        features = [part for part in self._waiting if len(part)]
        self._waiting = []
        if features:
            x = torch.cat(features)
            mean = x.mean(0)
            x = x - mean
            self.merge(len(x), mean, x.T @ x)


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖µ_a − µ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) (FID, arXiv 1706.08500, eq. 6).

    The trace of the root is the sum of the singular values of Σ_a^½ Σ_b^½: real, and exact to rounding where
    covariances are singular (eigenvalues of Σ_a Σ_b that are 0 come out as 1e-16, and their roots as 1e-8, two thousand
    times). A root is kept by its moments: measuring much against one set costs its root once.

    Raises:
        ValueError: features of other widths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"these are moments of {len(a.mean)} and of {len(b.mean)} features; they can't be compared")
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float(distance)
