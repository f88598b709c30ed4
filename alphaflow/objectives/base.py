"""What every objective shares: drawing times and noise, guidance, the network's prediction, weighting, the loss.

A family adds one method, `Objective.target`: what the few-step samples (those with r < t) are trained towards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..flow import expand, interpolate, mean_square, velocity
from ..guidance import Guidance
from ..printing import Compact
from ..schedules import Scheduled, value_at
from ..times import LogitNormal, TimeDistribution, TimePairs
from ..types import Cond, Loss, Model, PerSample, Sample, Time
from ..weighting import Adaptive, Weighting


@dataclass(frozen=True)
class Draw:
    """One training draw. The first ``few`` samples have r < t, the others r = t.

    Attributes:
        z: z_t (b, …).
        r, t: times (b,).
        v: ṽ, the target velocity after guidance (b, …).
        cond: the condition after labels were dropped.
        few: how many samples have r < t: a count, not a mask, so that shapes are the same at every step.
    """

    z: Sample
    r: Time
    t: Time
    v: Sample
    cond: Cond
    few: int

    def few_step(self) -> Draw:
        """Only the samples with r < t."""
        n = slice(self.few)
        return replace(self, z=self.z[n], r=self.r[n], t=self.t[n], v=self.v[n], cond=self.cond[n])


@dataclass(frozen=True)
class Target:
    """What few-step samples are trained towards.

    Attributes:
        u: the target (n, …), without gradient.
        alpha: α of each sample (n,), for its weight; 1 in the MeanFlow branch.
    """

    u: Sample
    alpha: PerSample


@dataclass(frozen=True, kw_only=True, repr=False)
class Objective(Compact, ABC):
    """An objective: ``objective(model, x, cond, step, generator) -> Loss``.

    All randomness comes from ``generator``; nothing that is passed in is changed; x has any trailing shape.

    Args:
        times: where on the path to train: a distribution of times, or `TimePairs` of one.
        guidance: classifier-free guidance trained into the target velocity, or None.
        weighting: how squared errors are weighted.
        clamp: the few-step target's elements are clipped to ±clamp; None for no clipping.
    """

    times: TimeDistribution = LogitNormal(-0.4, 1.0)
    guidance: Guidance | None = None
    weighting: Weighting = Adaptive()
    clamp: float | None = None

    def __post_init__(self) -> None:
        if self.clamp is not None and self.clamp <= 0:
            raise ValueError(f"clamp must be positive, or None for no clipping, got {self.clamp}")

    def scalars(self, step: int) -> dict[str, float]:
        """The scheduled values at a step, for logs."""
        return {"fm_share": self.share(step)}

    @abstractmethod
    def share(self, step: int) -> float:
        """The share of samples with r = t at a step."""

    @abstractmethod
    def target(self, model: Model, draw: Draw, step: int) -> Target:
        """The target of the few-step samples, which ``draw`` consists of."""

    def __call__(
        self, model: Model, x: Sample, cond: Cond | None = None, step: int = 0, generator: torch.Generator | None = None
    ) -> Loss:
        """One batch's loss.

        Args:
            model: u(z, r, t, cond) -> (b, …).
            x: clean samples (b, …), floating point.
            cond: what the model is conditioned on; None for nothing.
            step: the training step, for schedules.
            generator: the source of all randomness, on x's device.

        Raises:
            ValueError: x is no floating-point batch, or the model's output has another shape.
        """
        if not x.is_floating_point() or x.ndim < 2:
            raise ValueError(f"x must be floating point of shape (b, …), got {x.dtype} {tuple(x.shape)}")
        draw = self.draw(model, x, Cond() if cond is None else cond, step, generator)
        u = model(draw.z, draw.r, draw.t, draw.cond)
        if u.shape != x.shape:
            raise ValueError(f"the model must return u with z's shape {tuple(x.shape)}, got {tuple(u.shape)}")
        goal, alpha = draw.v, torch.ones_like(draw.t)
        if draw.few:
            target = self.target(model, draw.few_step(), step)
            few_step = target.u if self.clamp is None else target.u.clamp(-self.clamp, self.clamp)
            goal = torch.cat([few_step, draw.v[draw.few :]])
            alpha = torch.cat([target.alpha, alpha[draw.few :]])
        error = mean_square(u - goal)
        per_sample = self.weighting(error.detach(), alpha) * error
        return Loss(per_sample.mean(), per_sample, _terms(u.detach(), goal, draw.v, alpha, error.detach()))

    def draw(self, model: Model, x: Sample, cond: Cond, step: int, generator: torch.Generator | None) -> Draw:
        """Draws times and noise, drops labels, mixes guidance into the velocity."""
        b = x.shape[0]
        share = self.share(step)
        check_share(share)
        few = b - math.floor(share * b + 1e-9)
        pairs = self.times if isinstance(self.times, TimePairs) else TimePairs(self.times)
        r, t = pairs.pairs(few, x.device, generator)
        same = pairs.sample(b - few, x.device, generator)
        r, t = torch.cat([r, same]).to(x.dtype), torch.cat([t, same]).to(x.dtype)
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        z, v = interpolate(x, noise, t), velocity(x, noise)
        if self.guidance is not None:
            cond, dropped = self.guidance.drop(cond, t, generator)
            v = self.guidance.velocity(model, z, t, cond, v, dropped)
        return Draw(z, r, t, v, cond, few)


def _terms(u: Sample, goal: Sample, v: Sample, alpha: PerSample, error: PerSample) -> dict[str, Tensor]:
    """The loss's parts, each (b,): ``mse`` = ‖u − target‖², ``tfm`` = ‖u − ṽ‖², and ``tc``.

    α⁻¹·‖u − target‖² has the gradient of tfm + tc, where tc = 2·uᵀ·sg[(u − target)/α − (u − ṽ)]. In the MeanFlow
    branch that is 2(t − r)·uᵀ·du⁻/dt: trajectory flow matching plus trajectory consistency (α-Flow, arXiv 2510.20771).
    """
    consistency = (u - goal) / expand(alpha, u) - (u - v)
    return {"mse": error, "tfm": mean_square(u - v), "tc": 2 * (u * consistency).flatten(1).mean(1)}


def check_share(share: Scheduled) -> None:
    """Raises ValueError where a plain number is no share."""
    if not callable(share) and not 0 <= value_at(share, 0) <= 1:
        raise ValueError(f"fm_share is a share of the batch in [0, 1], got {share}")
