"""Targets between two points of the path: what α-Flow, Shortcut, SplitMeanFlow and consistency training share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..flow import expand_like
from ..types import PerSample, Sample
from .objective import Objective
from .records import RegressionTarget


@dataclass(frozen=True, kw_only=True, repr=False)
class TwoPoint(Objective):
    """The jump t → r is trained towards the mean velocity of t → s → r, s = α·r + (1 − α)·t.

    Args:
        clamp: the target's elements are clipped to ±clamp; None for no clipping. Targets with du⁻/dt never are: at
            α = 0 it has no effect, as in the official MeanFlow runs.
        fm_share, times, guidance, weighting, teacher, ema_target: see `Objective`.
    """

    clamp: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clamp is not None and self.clamp <= 0:
            raise ValueError(f"clamp must be positive, or None for no clipping, got {self.clamp}")

    def between(self, first: Sample, second: Sample | None, alpha: PerSample) -> RegressionTarget:
        """α·first + (1 − α)·second: the velocities of t → s and of s → r (n, …), and α (n,); None where s = r."""
        weight = expand_like(alpha, first)
        u: Tensor = first if second is None else weight * first + (1 - weight) * second
        return RegressionTarget(u if self.clamp is None else u.clamp(-self.clamp, self.clamp), alpha)
