"""Weights of a sample's squared error. A weight is a constant to the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from .describe import Compact
from .types import PerSample


class Weighting(Protocol):
    """Turns squared errors into weights: ``weighting(error, alpha) -> weight``, all (b,)."""

    def __call__(self, error: PerSample, alpha: PerSample, /) -> PerSample:
        """The weight of each sample, from its mean squared error ‖Δ‖² (detached) and its α."""
        ...


@dataclass(frozen=True, repr=False)
class InverseAlphaWeighting(Compact):
    """w = α⁻¹: the loss as the α-Flow objective states it (arXiv 2510.20771)."""

    def __call__(self, error: PerSample, alpha: PerSample) -> PerSample:
        """Weights (b,)."""
        return 1 / alpha


@dataclass(frozen=True, repr=False)
class UniformWeighting(Compact):
    """w = 1, whatever α: the plain squared error of Shortcut Models and SplitMeanFlow."""

    def __call__(self, error: PerSample, alpha: PerSample) -> PerSample:
        """Weights (b,)."""
        return torch.ones_like(error)


@dataclass(frozen=True, repr=False)
class AdaptiveWeighting(Compact):
    """w = α^{2p−1} / (‖Δ‖² + c)^p: large errors count less (MeanFlow, arXiv 2505.13447, section 4.3).

    α is 1 for samples with r = t and for the MeanFlow branch; w stands in place of α⁻¹. At p = 1 it is α-Flow's
    α / (‖Δ‖² + c). Because Δ = α·δ, where δ tends to MeanFlow's residual, w·Δ tends to δ/‖δ‖^{2p} as α → 0: MeanFlow's
    weighted gradient, at every p, as long as c ≪ ‖Δ‖²; with ``scale_c`` always.

    Args:
        c: keeps the weights of small errors finite.
        p: how much less; at 0 w = α⁻¹.
        scale_c: c·α² in place of c, as ‖Δ‖² falls (SoFlow, arXiv 2512.15657).
    """

    c: float = 1e-3
    p: float = 1.0
    scale_c: bool = False

    def __call__(self, error: PerSample, alpha: PerSample) -> PerSample:
        """Weights (b,)."""
        c = self.c * alpha.square() if self.scale_c else self.c
        return alpha ** (2 * self.p - 1) / (error + c) ** self.p
