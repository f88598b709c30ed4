"""Align Your Flow: flow maps by normalised tangents, as continuous consistency models are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import is_number
from ..flow import expand_like, mean_square
from ..pairs import PairDistribution
from ..schedules import Scheduled
from ..times import LogitNormal, TimeDistribution
from ..types import Model, PerSample, Sample
from .eulerian import tangent, warmed
from .objective import Objective
from .records import RegressionTarget, TrainingDraw

LAST = 0.99
"""What the tangent's second part counts after the warm-up."""


@dataclass(frozen=True, kw_only=True, repr=False)
class AlignYourFlow(Objective):
    """Align Your Flow's Eulerian map distillation (AYF-EMD, arXiv 2506.14603), with a teacher or on data.

    The jump's end, z_t − (t − r)·u, is trained to move by −g/(‖g‖ + c), g = ṽ − u⁻ − κ·(t − r)·du⁻/dt, ‖g‖ the 2-norm
    of a sample; κ is warmed up from 0 to 0.99. With a teacher ṽ is its velocity, which has less variance than ε − x:
    the paper starts the network from the teacher's weights. The loss has a constant value, about; what is logged as
    ``mse`` is the error of u, that of the jump's end ÷ (t − r)².

    Args:
        warmup: steps until the tangent is whole.
        c: constant of the tangent normalisation.
        fm_share, times, guidance, teacher, derivative: see `Objective`; ``weighting`` is that of samples with r = t, of
            which there are none by default.
    """

    fm_share: Scheduled = 0.0
    times: TimeDistribution | PairDistribution = LogitNormal(-0.8, 1.0)
    warmup: int = 10_000
    c: float = 0.1
    takes_ema_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.warmup >= 0 and is_number(self.c) and self.c >= 0):
            raise ValueError(f"AlignYourFlow needs warmup >= 0 and c >= 0, got {self.warmup} and {self.c}")

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ."""
        return draw.v

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """u⁻ + g/(‖g‖ + c)/(t − r)."""
        u, g = tangent(model, draw, LAST * warmed(step, self.warmup))
        g = g / (expand_like(g.flatten(1).norm(dim=1), g) + self.c)
        gap = (draw.t - draw.r).clamp(min=1e-6)  # a jump of no length has no weight
        return RegressionTarget(u + g / expand_like(gap, g), torch.ones_like(gap))

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """(t − r)²·‖u − target‖²: that of the jump's end."""
        return (draw.t - draw.r).square() * mean_square(u - target.u)
