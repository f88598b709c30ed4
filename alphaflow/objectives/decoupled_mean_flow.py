"""Decoupled MeanFlow: a flow model made a mean flow, with a learned weight."""

from __future__ import annotations

from dataclasses import dataclass

from ..flow import mean_square
from ..pairs import PairDistribution, TimePairs
from ..times import LogitNormal, TimeDistribution
from ..types import Model, PerSample, Sample
from .eulerian import mean_flow_target
from .learned_weight import LearnedWeight
from .records import RegressionTarget, TrainingDraw

CAUCHY = 0.01
"""The constant inside the logarithm."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DecoupledMeanFlow(LearnedWeight):
    """Decoupled MeanFlow (DMF, arXiv 2510.24474): MeanFlow's target, the loss log(e^−λ·‖Δ‖² + 0.01) + λ, λ learned.

    λ(r, t) is a small network (`LogWeight`) that samples with r = t train, too. The loss is log(‖Δ‖² + 0.01·e^λ), which
    grows with λ at all times: as λ falls, the gradient tends to that of log ‖Δ‖². The authors guide by
    ``Guidance(kappa=0.6, interval=(0.0, 0.7), dropped="plain")`` and start from a flow model, whose network they split:
    ``DiT(late=8)``. There each sample has both losses; here the batch is split by fm_share, which is half of their sum
    in expectation.

    Args:
        fm_share, times, guidance, teacher, ema_target, derivative: see `Objective`; ``weighting`` has no part here.
    """

    times: TimeDistribution | PairDistribution = TimePairs(
        LogitNormal(0.4, 1.0), r_times=LogitNormal(-1.2, 1.0), fm_times=LogitNormal(0.0, 1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.learn(2)

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ."""
        return draw.v

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """ṽ − (t − r)·du⁻/dt."""
        return mean_flow_target(model, draw, draw.v)

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """log(e^−λ·‖u − target‖² + 0.01) + λ."""
        return self._cauchy(u, target.u, draw)

    def flow_loss(self, u: Sample, draw: TrainingDraw) -> PerSample:
        """log(e^−λ·‖u − ṽ‖² + 0.01) + λ."""
        return self._cauchy(u, draw.v, draw)

    def _cauchy(self, u: Sample, target: Sample, draw: TrainingDraw) -> PerSample:
        assert self.network is not None
        weight: PerSample = self.network(draw.r, draw.t)
        return (mean_square(u - target) + CAUCHY * weight.exp()).log()
