"""Consistency training, discrete (iCT) and continuous (sCM), on the straight path.

Both train jumps to the data only, r = 0: the network's estimate of the clean sample is f(z, t) = z − t·u(z, 0, t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..flow import expand_like, jump, mean_square
from ..pairs import Pairing
from ..schedules import Scheduled, value_at
from ..types import Model, PerSample, Sample, Time
from .eulerian import tangent, warmed
from .learned_weight import LearnedWeight
from .records import RegressionTarget, TrainingDraw
from .two_point import TwoPoint


@dataclass(frozen=True, kw_only=True, repr=False)
class ConsistencyTraining(TwoPoint):
    """Consistency training (arXiv 2303.01469) as iCT does it (arXiv 2310.14189), with f(z, t) = z − t·u(z, 0, t).

    f(z_t, t) is trained towards f⁻(z_s, s), s one interval nearer to the data on the even grid of N(k) intervals, in
    the pseudo-Huber metric √(‖Δ‖² + c²) − c with weight 1/(t − s). With T = α·ṽ + (1 − α)·u⁻(z_s, 0, s) and
    α = (t − s)/t, f(z_t, t) − f⁻(z_s, s) = −t·(u − T): α-Flow at r = 0, with another weight. Times are rounded up to
    the grid. ‖Δ‖² is the mean over elements, so iCT's c = 0.00054·√d is 0.00054 here.

    Args:
        intervals: N(k), a number or a schedule; iCT's is `DoublingIntervals(end=steps)`.
        c: constant of the pseudo-Huber metric.
        clamp: see `TwoPoint`.
        fm_share, times, guidance, teacher, ema_target: see `Objective`; ``weighting`` is that of samples with r = t, of
            which there are none by default.
    """

    fm_share: Scheduled = 0.0
    intervals: Scheduled = 128.0
    c: float = 0.00054
    pairing: ClassVar[Pairing] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c <= 0 or (not callable(self.intervals) and self.intervals < 1):
            raise ValueError(f"consistency training needs intervals >= 1 and c > 0, got {self}")

    def scalars(self, step: int) -> dict[str, float]:
        """fm_share and N at a step."""
        return {**super().scalars(step), "intervals": self._count(step)}

    def pairs(self, b: int, step: int, device: torch.device, generator: torch.Generator | None) -> tuple[Time, Time]:
        """Draws r = 0 and t, rounded up to the grid of this step."""
        r, t = super().pairs(b, step, device, generator)
        n = self._count(step)
        return r, (t * n).ceil().clamp(1, n) / n

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """α·ṽ + (1 − α)·u⁻(z_s, 0, s), which makes z_t − t·u the network's f⁻(z_s, s)."""
        z, r, t, v = draw.z, draw.r, draw.t, draw.v
        s = (t - 1 / self._count(step)).clamp(min=0)
        with torch.no_grad():
            u_s = model(jump(z, v, t, s), r, s, draw.cond)
        return self.between(v, u_s, (t - s) / t)

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """(√(‖f(z_t, t) − f⁻(z_s, s)‖² + c²) − c) / (t − s)."""
        error = draw.t.square() * mean_square(u - target.u)
        huber = (error + self.c**2).sqrt() - self.c
        return huber / (target.alpha * draw.t)

    def _count(self, step: int) -> float:
        return float(max(round(value_at(self.intervals, step)), 1))


@dataclass(frozen=True, kw_only=True, repr=False)
class ContinuousConsistency(LearnedWeight):
    """Continuous-time consistency training as sCM does it (arXiv 2410.11081), on the straight path.

    The tangent of f(z, t) = z − t·u(z, 0, t) along the path is g = df⁻/dt = ṽ − u⁻ − t·du⁻/dt. Its last part is warmed
    up from 0; g is normalised to g/(‖g‖ + c); u is trained towards u⁻ + g by e^{w(t)}·‖Δ‖² − w(t) with a learned w(t).
    Norms, also where c = 0.1 is added, are root mean squares over elements. sCM's TrigFlow factor cos(t) has no part on
    this path.

    Args:
        warmup: steps until the tangent is whole.
        c: constant of the tangent normalisation.
        adaptive: learn w(t) (`network`, trained beside the model); if not, ``weighting`` is used.
        fm_share, times, guidance, weighting, teacher: see `Objective`.
    """

    fm_share: Scheduled = 0.0
    warmup: int = 10_000
    c: float = 0.1
    adaptive: bool = True
    pairing: ClassVar[Pairing] = "zero"
    takes_ema_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 0 or self.c < 0:
            raise ValueError(f"ContinuousConsistency needs warmup >= 0 and c >= 0, got {self.warmup} and {self.c}")
        if self.adaptive:
            self.learn(1)

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ."""
        return draw.v

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """u⁻ + g/(‖g‖ + c), g = ṽ − u⁻ − ramp·t·du⁻/dt."""
        u, g = tangent(model, draw, warmed(step, self.warmup))
        g = g / (expand_like(mean_square(g).sqrt(), g) + self.c)
        return RegressionTarget(u + g, torch.ones_like(draw.t))

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """e^{w(t)}·‖u − target‖² − w(t)."""
        if self.network is None:
            return super().few_step_loss(u, target, draw)
        w: PerSample = self.network(draw.t)
        return w.exp() * mean_square(u - target.u) - w
