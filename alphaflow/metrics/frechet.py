"""The Fréchet distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "n d"]


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and unbiased covariance (d, d) of a set of features, in float64."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(features: Features) -> Moments:
        """The moments of features (n, d), n ≥ 2."""
        features = features.double()
        return Moments(features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1]))


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖µ_a − µ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) (FID, arXiv 1706.08500, eq. 6).

    The trace of the root is the sum of the square roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric:
    real and stable where covariances are singular.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = root @ b.covariance @ root
    cross = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float(distance)
