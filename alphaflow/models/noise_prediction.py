"""A network that predicts the noise, at the steps of DDPM's schedule, as a velocity of the straight path."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..flow import expand_like
from ..network import Network
from ..types import Cond, Sample, Time

STEPS = 1000
"""Steps of the schedule (DDPM, arXiv 2006.11239), whose β run from 1e-4 to 0.02 evenly."""

KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64), dim=0)
"""ᾱ of each step."""

RATIOS = (1 / KEPT - 1).log() / 2
"""log √(1/ᾱ − 1) of each step, which is log t/(1 − t)."""


INNER = "inner."


class NoisePrediction(Network):
    """u(z, r, t, y) of a network ε̂(x_τ, τ, y) that was trained as DiT was (arXiv 2212.09748), by the exact identity.

    DDPM's x_τ = √ᾱ·x + √(1 − ᾱ)·ε is the straight path's z_t = (1 − t)·x + t·ε, times √ᾱ/(1 − t), at the t whose
    t/(1 − t) = √(1/ᾱ − 1). So ε̂ is asked for z_t/√((1 − t)² + t²) at that τ, and v = ε̂ − x̂ = (ε̂ − z_t)/(1 − t). Euler
    steps of `ODE` then are DDIM's (arXiv 2010.02502). Between the schedule's steps τ is interpolated, in log t/(1 − t);
    beyond its ends, t < 0.0099 and t > 0.9937, it is the last one, and 1 − t is kept above 0.0063.

    It knows no jumps. It is a good teacher, and a poor start for few-step training, since 1/(1 − t) makes its errors
    large where jumps begin.

    Args:
        inner: the network, a `DiT` which is called with τ for both times.
    """

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner = inner
        self.config = {"inner": inner} if inner.config is not None else None
        self.classes, self.conditions = inner.classes, inner.conditions

    def forward(self, z: Sample, r: Time, t: Time, cond: Cond | None = None) -> Sample:
        """The velocity at t, whatever r is: (b, …)."""
        ratios = RATIOS.to(t.device)
        clipped = t.double().clamp(*ratios[[0, -1]].sigmoid().tolist())
        at = clipped.logit()
        above = torch.searchsorted(ratios, at.detach()).clamp(1, STEPS - 1)
        low, high = ratios[above - 1], ratios[above]
        tau = (above - 1 + (at - low) / (high - low)).to(t.dtype)
        rest = (1 - clipped).to(t.dtype)
        size = (rest.square() + (1 - rest).square()).sqrt()
        noise = self.inner(z / expand_like(size, z).to(z.dtype), tau, tau, cond)
        u: Tensor = (noise - z) / expand_like(rest, z)
        return u

    def adapt(
        self, weights: Mapping[str, Tensor], *, of_images: bool = False, of_flow: bool = False
    ) -> dict[str, Tensor]:
        """Another noise predictor's weights as the inner network takes them."""
        inner = {name.removeprefix(INNER): weight for name, weight in weights.items() if name.startswith(INNER)}
        fitted = self.inner.adapt(inner, of_images=of_images, of_flow=of_flow)
        return {f"{INNER}{name}": weight for name, weight in fitted.items()}
