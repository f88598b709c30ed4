"""α-Flow and its limits: trajectory flow matching (α = 1), MeanFlow (α = 0)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..flow import expand_like, jump
from ..schedules import Constant, Scheduled, value_at
from ..types import Model, Sample
from .records import RegressionTarget, TrainingDraw
from .two_point import TwoPoint


@dataclass(frozen=True, kw_only=True, repr=False)
class AlphaFlow(TwoPoint):
    """α-Flow (arXiv 2510.20771): one dial from trajectory flow matching (α = 1) to MeanFlow (α = 0).

    Args:
        alpha: α, a number or a schedule (the curriculum: `Sigmoid(end=steps)`).
        clamp: bound on targets at 0 < α ≤ 1, see `TwoPoint`; the official runs have 4.
        fm_share, times, guidance, weighting, teacher, ema_target: see `Objective`.
    """

    alpha: Scheduled = Constant(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.alpha):
            _check_alpha(self.alpha)

    def scalars(self, step: int) -> dict[str, float]:
        """α and fm_share at a step."""
        return {"alpha": value_at(self.alpha, step), **super().scalars(step)}

    def takes_derivative(self, step: int) -> bool:
        """At α = 0."""
        return value_at(self.alpha, step) == 0 and super().takes_derivative(step)

    def direction(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ at α = 0."""
        return draw.v if value_at(self.alpha, step) == 0 else None

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """The few-step target at this step's α."""
        z, r, t, v, cond = draw.z, draw.r, draw.t, draw.v, draw.cond
        alpha = _check_alpha(value_at(self.alpha, step))
        ones = torch.ones_like(t)

        if alpha == 1:  # trajectory flow matching: ṽ
            return self.between(v, None, ones)

        if alpha == 0:  # MeanFlow (arXiv 2505.13447, eq. 10): ṽ − (t − r)·du⁻/dt
            _, dudt = draw.derivative(model, v)
            return RegressionTarget(v - expand_like(t - r, z) * dudt, ones)

        # 0 < α < 1: a step of length α(t − r) along ṽ, then the network's own jump from there
        s = alpha * r + (1 - alpha) * t
        with torch.no_grad():
            u_s = model(jump(z, v, t, s), r, s, cond)
        return self.between(v, u_s, alpha * ones)


def _check_alpha(alpha: float) -> float:
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}; a schedule must stay inside too")
    return alpha


@dataclass(frozen=True, kw_only=True, repr=False)
class MeanFlow(AlphaFlow):
    """MeanFlow (arXiv 2505.13447): α-Flow at α = 0, a quarter of the batch few-step by default."""

    alpha: Scheduled = Constant(0.0)
    fm_share: Scheduled = 0.75


@dataclass(frozen=True, kw_only=True, repr=False)
class TrajectoryFlowMatching(AlphaFlow):
    """Trajectory flow matching (arXiv 2510.20771): α-Flow at α = 1."""

    alpha: Scheduled = Constant(1.0)
