"""Shortcut Models and SplitMeanFlow: one long jump equals two shorter ones, both the network's own.

Errors are weighted by α⁻¹, not adaptively: nothing but the size of its error holds such a target to the data, and with
`AdaptiveWeighting`, which discounts large errors, training can run away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..flow import jump
from ..schedules import Scheduled
from ..types import Model, PerSample, Sample, Time
from ..weighting import InverseAlphaWeighting, Weighting
from .records import RegressionTarget, TrainingDraw
from .two_point import TwoPoint


@torch.no_grad()
def two_jumps(model: Model, draw: TrainingDraw, alpha: PerSample, finest: float = 0.0) -> tuple[Sample, Sample]:
    """The network's velocities of the jumps t → s → r, s = α·r + (1 − α)·t.

    u⁻(z_t, s, t), and u⁻(z_s, r, s) with z_s = z_t − (t − s)·u⁻(z_t, s, t): for α-Flow's target with the network's own
    velocity in place of ṽ.

    Args:
        model: u⁻.
        draw: of n samples.
        alpha: α of each (n,).
        finest: jumps this short or shorter are taken with the instantaneous velocity, u⁻(z, t, t).
    """
    z, r, t = draw.z, draw.r, draw.t

    def u(z: Sample, r: Time, t: Time) -> Sample:
        return model(z, torch.where(t - r <= finest + 1e-6, t, r), t, draw.cond)

    s = alpha * r + (1 - alpha) * t
    first = u(z, s, t)
    return first, u(jump(z, first, t, s), r, s)


@dataclass(frozen=True, kw_only=True, repr=False)
class Shortcut(TwoPoint):
    """Shortcut Models (arXiv 2410.12557): the target of a jump is the mean of two jumps half as long.

    α-Flow at α = ½ with the network's own velocity. A quarter of the batch learns jumps, the rest flow matching.
    The original: ``Shortcut(times=DyadicPairs(128), ema_target=True, weighting=UniformWeighting())``. On its dyadic
    grid the shortest jumps of a target are taken with the instantaneous velocity.

    Args:
        clamp: see `TwoPoint`.
        fm_share, times, guidance, weighting, teacher, ema_target: see `Objective`.
    """

    fm_share: Scheduled = 0.75
    weighting: Weighting = InverseAlphaWeighting()

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """½·u⁻(z_t, s, t) + ½·u⁻(z_s, r, s), s halfway."""
        half = torch.full_like(draw.t, 0.5)
        return self.between(*two_jumps(model, draw, half, self.paired.finest), half)


@dataclass(frozen=True, kw_only=True, repr=False)
class SplitMeanFlow(TwoPoint):
    """SplitMeanFlow (arXiv 2507.16884): the jump t → r equals t → s → r at a random s between.

    α-Flow with the network's own velocity and α ~ U(0, 1) for each sample. The paper's loss has no weight α⁻¹:
    ``weighting=UniformWeighting()``.

    Args:
        clamp: see `TwoPoint`.
        fm_share, times, guidance, weighting, teacher, ema_target: see `Objective`.
    """

    weighting: Weighting = InverseAlphaWeighting()

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """α·u⁻(z_t, s, t) + (1 − α)·u⁻(z_s, r, s)."""
        alpha = torch.rand(draw.t.shape, dtype=draw.t.dtype, device=draw.t.device, generator=draw.generator)
        alpha = alpha.clamp(1e-3, 1 - 1e-3)  # both jumps have a length
        return self.between(*two_jumps(model, draw, alpha), alpha)
