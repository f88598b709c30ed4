"""Improved MeanFlow (iMF, arXiv 2512.02012): MeanFlow as a regression of the velocity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..derivatives import total_derivative
from ..flow import expand, mean_square
from ..types import Cond, Model, Sample, Time
from .base import Objective
from .records import Draw, Prediction, Target


@dataclass(frozen=True, kw_only=True, repr=False)
class ImprovedMeanFlow(Objective):
    """V = u + (t − r)·sg(du/dt) is trained towards ṽ, with du/dt along the network's own velocity.

    MeanFlow differentiates along ε − x, which is not a function of z; here the direction is the *predicted* velocity
    v_θ(z_t, t): the network's velocity head if it has one (``DiT(velocity_head=…)``), trained beside u by ‖v_θ − ṽ‖²,
    else u(z_t, t, t). With ``guidance=GuidanceInputs()`` and a network that takes ``cond.guidance``
    (``DiT(guidance=True)``) the scale of guidance is chosen when sampling. A sample whose label was dropped is
    differentiated along its unconditional velocity.

    Args:
        fm_share, times, guidance, weighting, clamp, teacher, ema_target: see `Objective`.
    """

    def target(self, model: Model, draw: Draw, step: int) -> Target:
        """ṽ − (t − r)·du⁻/dt along v_θ: ‖u − target‖² is ‖V − ṽ‖²."""
        z, r, t, cond = draw.z, draw.r, draw.t, draw.cond
        with torch.no_grad():
            now = cond if self.guidance is None else self.guidance.instant(cond, t)
            direction = self.flow_model(model)(z, t, t, now).to(z.dtype)
        _, dudt = total_derivative(model, z, r, t, cond, direction)
        return Target(draw.v - expand(t - r, z) * dudt, torch.ones_like(t))

    def flow_model(self, model: Model) -> Model:
        """v_θ: the network's velocity head if it has one, else u(z, t, t)."""

        def head(z: Sample, r: Time, t: Time, cond: Cond) -> Sample:
            v: Sample
            _, v = model(z, t, t, cond, velocity=True)  # type: ignore[call-arg]
            return v

        return head if getattr(model, "velocity_head", 0) else model

    def predict(self, model: Model, draw: Draw) -> Prediction:
        """u, and the velocity head's own loss where there is one."""
        if not getattr(model, "velocity_head", 0):
            return super().predict(model, draw)
        u, v = model(draw.z, draw.r, draw.t, draw.cond, velocity=True)  # type: ignore[call-arg]
        error = mean_square(v - draw.v)
        return Prediction(u, self.weighting(error.detach(), torch.ones_like(error)) * error)
