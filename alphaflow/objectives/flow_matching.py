"""Flow matching (arXiv 2210.02747; rectified flow, arXiv 2209.03003)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..schedules import Scheduled
from ..types import Model
from .objective import Objective
from .records import RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class FlowMatching(Objective):
    """r = t for every sample, target ṽ: the network learns the instantaneous velocity."""

    fm_share: Scheduled = field(default=1.0, init=False)

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """Never asked for: there are no few-step samples."""
        raise AssertionError("flow matching has no few-step samples")
