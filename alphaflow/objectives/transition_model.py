"""Transition models (TiM): MeanFlow's target by differences, in a loss of length and direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..derivatives import Derivative
from ..errors import is_number
from ..flow import mean_square
from ..schedules import Scheduled
from ..types import Model, PerSample, Sample
from .cosine import dissimilarity
from .eulerian import mean_flow_target
from .loss_function import Differentiated
from .objective import Objective
from .records import RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class TransitionModel(Objective):
    """Transition models (TiM, arXiv 2509.04394): ṽ − (t − r)·du⁻/dt, du/dt a difference on the sample's own path.

    x and ε are fixed there, whatever guidance makes of ṽ, and the network in training is differentiated, with
    ``ema_target`` too. Loss: w·e/(e + c), its denominator detached, e = ‖u − target‖² + 1 − cosine similarity over
    channels (dimension 1), w = (tan t − tan r + 1)^−½, so 1 where r = t. A tenth of the batch has r = 0.
    The authors guide by ``guidance=Guidance(kappa=0.75, interval=(0.3, 0.8)), ema_target=True``. Their differences
    leave 0 ≤ r ≤ t ≤ 1; these don't (`total_derivative`).

    Args:
        c: constant of the loss.
        fm_share, zero_share, times, guidance, teacher, ema_target, derivative: see `Objective`; ``weighting`` has no
            part here.
    """

    zero_share: Scheduled = 0.1
    derivative: Derivative = "difference"
    c: float = 1e-5
    differentiated: ClassVar[Differentiated] = "network"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.c) and self.c > 0):
            raise ValueError(f"TransitionModel needs c > 0, got {self.c}")

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """x₁ − x."""
        return draw.path

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """ṽ − (t − r)·du⁻/dt."""
        assert draw.path is not None, "a draw without its path"
        return mean_flow_target(model, draw, draw.path)

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """(tan t − tan r + 1)^−½·e/(e + c)."""
        return self._relative(u, target.u) / (draw.t.tan() - draw.r.tan() + 1).sqrt()

    def flow_loss(self, u: Sample, draw: TrainingDraw) -> PerSample:
        """e/(e + c)."""
        return self._relative(u, draw.v)

    def _relative(self, u: Sample, target: Sample) -> PerSample:
        e = mean_square(u - target) + dissimilarity(u, target)
        return e / (e.detach() + self.c)
