"""α-Flow and its limits, trajectory flow matching (α = 1) and MeanFlow (α = 0); and SoFlow, which is α-Flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import is_number
from ..flow import jump
from ..pairs import PairDistribution, TimePairs
from ..schedules import Constant, Exponential, Scheduled, value_at
from ..times import LogitNormal, TimeDistribution
from ..types import Model, Sample
from ..weighting import AdaptiveWeighting, Weighting
from .eulerian import mean_flow_target
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

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ at α = 0."""
        return draw.v if value_at(self.alpha, step) == 0 else None

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """The few-step target at this step's α."""
        z, r, t, v = draw.z, draw.r, draw.t, draw.v
        alpha = _check_alpha(value_at(self.alpha, step))
        ones = torch.ones_like(t)

        if alpha == 1:  # trajectory flow matching: ṽ
            return self.between(v, None, ones)

        if alpha == 0:
            along = self.along(draw, step)
            assert along is not None
            return mean_flow_target(model, draw, along)

        # 0 < α < 1: a step of length α(t − r) along ṽ, then the network's own jump from there
        s = alpha * r + (1 - alpha) * t
        with torch.no_grad():
            u_s = model(jump(z, v, t, s), r, s, draw.cond)
        return self.between(v, u_s, alpha * ones)


def _check_alpha(alpha: float) -> float:
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}; a schedule must stay inside too")
    return alpha


@dataclass(frozen=True, kw_only=True, repr=False)
class MeanFlow(AlphaFlow):
    """MeanFlow (arXiv 2505.13447): α-Flow at α = 0, a quarter of the batch few-step by default.

    Args:
        direction: β: the derivative is taken along (1 − β)·ṽ + β·v_θ, with the network's own velocity
            v_θ = u⁻(z_t, t, t) (arXiv 2605.09235). 0 is MeanFlow, 1 improved MeanFlow (`ImprovedMeanFlow`). Any but 0
            costs that evaluation of the few-step samples.
        alpha, clamp: see `AlphaFlow`; the direction counts at α = 0.
        fm_share, times, guidance, weighting, teacher, ema_target, derivative: see `Objective`.
    """

    alpha: Scheduled = Constant(0.0)
    fm_share: Scheduled = 0.75
    direction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.direction):
            raise ValueError(f"direction is a finite number β, 0 for ṽ and 1 for v_θ, got {self.direction!r}")
        if self.direction != 0 and not callable(self.alpha) and self.alpha != 0:
            raise ValueError(f"a direction is that of the derivative, which α = {self.alpha} doesn't have")

    def wants_own(self, step: int) -> bool:
        """Whether v_θ has a part in the direction."""
        return self.direction != 0 and value_at(self.alpha, step) == 0

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """(1 − β)·ṽ + β·v_θ at α = 0."""
        v = super().along(draw, step)
        return v if v is None or draw.own is None else torch.lerp(v, draw.own, self.direction)


@dataclass(frozen=True, kw_only=True, repr=False)
class TrajectoryFlowMatching(AlphaFlow):
    """Trajectory flow matching (arXiv 2510.20771): α-Flow at α = 1."""

    alpha: Scheduled = Constant(1.0)


@dataclass(frozen=True, kw_only=True, repr=False)
class SoFlow(AlphaFlow):
    """SoFlow (arXiv 2512.15657), which is α-Flow with these settings; α ends at 0.002, so nothing is differentiated.

    Its α falls over all of training: ``SoFlow(alpha=Exponential(end=steps, first=0.1, last=0.002, clamp=0.0))``.
    The default has 400,000 steps. In the authors' code r stays 1e-4 below t, and few-step samples count half.

    Args:
        alpha, clamp: see `AlphaFlow`.
        fm_share, times, guidance, weighting, teacher, ema_target: see `Objective`.
    """

    alpha: Scheduled = Exponential(end=400_000, first=0.1, last=0.002, clamp=0.0)
    fm_share: Scheduled = 0.75
    times: TimeDistribution | PairDistribution = TimePairs(
        LogitNormal(0.2, 0.8), "min", r_times=LogitNormal(-1.0, 0.8), fm_times=LogitNormal(-0.2, 1.0)
    )
    weighting: Weighting = AdaptiveWeighting(c=0.01, scale_c=True)
