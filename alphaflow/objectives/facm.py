"""FACM: flow-anchored consistency models (arXiv 2507.03738)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..flow import expand_like, mean_square
from ..pairs import Pairing
from ..types import Model, PerSample, Sample
from .cosine import dissimilarity
from .objective import Objective
from .records import RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class FACM(Objective):
    """Flow-anchored consistency: an accelerator at r = 0 and a flow-matching anchor at r = t.

    Accelerator: u_avg = ṽ − t·du⁻/dt, target u⁻ − a·clip(u⁻ − u_avg, −1, 1) with a = 1 − (1 − t)^p, loss e/(e + c)^½
    (denominator detached) times cos((1 − t)·π/2). Anchor: ‖u − ṽ‖² + 1 − cosine similarity over channels
    (`dissimilarity`).

    The paper gives both losses to every sample; here the batch is split by fm_share, half and half by default, which
    is half of their sum in expectation.

    Args:
        p: exponent of the weight a.
        c: constant of the accelerator's loss.
        fm_share, times, guidance, teacher: see `Objective`; ``weighting`` has no part here.
    """

    p: float = 0.5
    c: float = 1e-3
    pairing: ClassVar[Pairing] = "zero"
    takes_ema_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p <= 0 or self.c <= 0:
            raise ValueError(f"FACM needs p > 0 and c > 0, got {self.p} and {self.c}")

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """ṽ."""
        return draw.v

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """u⁻ − a·clip(u⁻ − u_avg, −1, 1)."""
        t = expand_like(draw.t, draw.z)
        u, dudt = draw.derivative(model, draw.v)
        average = draw.v - t * dudt
        a = 1 - (1 - t) ** self.p
        return RegressionTarget(u - a * (u - average).clamp(-1, 1), torch.ones_like(draw.t))

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """cos((1 − t)·π/2)·e/(e + c)^½."""
        e = mean_square(u - target.u)
        return torch.cos((1 - draw.t) * (math.pi / 2)) * e / (e.detach() + self.c).sqrt()

    def flow_loss(self, u: Sample, draw: TrainingDraw) -> PerSample:
        """‖u − ṽ‖² + 1 − cos(u, ṽ)."""
        return mean_square(u - draw.v) + dissimilarity(u, draw.v)
