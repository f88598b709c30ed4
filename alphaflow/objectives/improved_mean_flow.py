"""Improved MeanFlow (iMF, arXiv 2512.02012): MeanFlow as a regression of the velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..derivatives import with_derivative
from ..flow import mean_square
from ..network import known
from ..types import Cond, Direction, Model, PerSample, Sample, Time
from .eulerian import mean_flow_target
from .objective import Objective
from .records import Prediction, RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class ImprovedMeanFlow(Objective):
    """V = u + (t − r)·sg(du/dt) is trained towards ṽ, with du/dt along the network's own velocity.

    MeanFlow differentiates along ε − x, which is not a function of z; here the direction is the *predicted* velocity
    v_θ(z_t, t): the network's velocity head if it has one (``DiT(velocity_head=…)``), trained beside u by ‖v_θ − ṽ‖²,
    else u(z_t, t, t). With ``guidance=GuidanceInputs()`` and a network that takes ``cond.guidance``
    (``DiT(guidance=True)``) the scale of guidance is chosen when sampling. A sample whose label was dropped is
    differentiated along its unconditional velocity.

    Args:
        fm_share, times, guidance, weighting, teacher, ema_target, derivative: see `Objective`.
    """

    def wants_own(self, step: int) -> bool:
        """Always: v_θ is the derivative's direction."""
        return True

    def along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """v_θ(z_t, t)."""
        return draw.own

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """ṽ − (t − r)·du⁻/dt along v_θ: ‖u − target‖² is ‖V − ṽ‖²."""
        assert draw.own is not None, "a draw of another family"
        return mean_flow_target(model, draw, draw.own)

    def flow_model(self, model: Model) -> Model:
        """v_θ: the network's velocity head if it has one, else u(z, t, t)."""

        def head(z: Sample, r: Time, t: Time, cond: Cond) -> Sample:
            v: Sample
            _, v = model(z, t, t, cond, velocity=True)  # type: ignore[call-arg]
            return v

        return head if known(model).velocity_head else model

    def predict(self, model: Model, draw: TrainingDraw, along: Sample | Direction | None = None) -> Prediction:
        """u, and v_θ where the network has a head for it."""
        if not known(model).velocity_head:
            return super().predict(model, draw, along)
        if along is None:
            u, v = model(draw.z, draw.r, draw.t, draw.cond, velocity=True)  # type: ignore[call-arg]
            return Prediction(u, v)
        more: dict[str, Any] = {"derivative": self.derivative, "velocity": True}
        (u, v), dudt = with_derivative(model, draw.z, draw.r, draw.t, draw.cond, along, **more)
        return Prediction(u, v, dudt)

    def auxiliary_loss(self, prediction: Prediction, draw: TrainingDraw) -> PerSample | None:
        """‖v_θ − ṽ‖², weighted, where the network has a head for v_θ."""
        if prediction.v is None:
            return None
        error = mean_square(prediction.v - draw.v)
        return self.weighting(error.detach(), torch.ones_like(error)) * error
