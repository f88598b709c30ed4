"""What an objective and its family hand to each other: a draw, a target, a prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..derivatives import Derivative, total_derivative
from ..flow import expand_like
from ..types import Cond, Direction, Model, PerSample, Sample, Time


@dataclass(frozen=True)
class TrainingDraw:
    """One training draw. The first ``few`` samples have r ≤ t as drawn, the others r = t.

    Attributes:
        z: z_t (b, …).
        r, t: times (b,).
        v: ṽ, the target velocity after guidance (b, …); in ``rest`` what it still lacks.
        cond: the condition after labels were dropped.
        few: how many samples are few-step ones: a count, not a mask, so that shapes are the same at every step.
        generator: the source of what else a family draws.
        rest: ṽ is v + rest·u⁻(z_t, t, t, y), (b,), where guidance needs what the network is about to predict; or None.
        own: u⁻(z_t, t, t, y) (b, …) of the few-step samples, where the family asks for it; or None.
        derived: u⁻(z_t, r, t) and its derivative, where the prediction came with them; or None.
        path: dz/dt of the sample's own path, x₁ − x (b, …), which ``v`` is without guidance and teacher.
        how: how else the derivative is taken.
    """

    z: Sample
    r: Time
    t: Time
    v: Sample
    cond: Cond
    few: int
    generator: torch.Generator | None = None
    rest: PerSample | None = None
    own: Sample | None = None
    derived: tuple[Sample, Sample] | None = None
    path: Sample | None = None
    how: Derivative = "exact"

    def completed(self, prediction: Prediction) -> TrainingDraw:
        """The draw with what the network's prediction for it tells: all of ṽ where r = t, and the derivative."""
        v, derived = self.v, None
        if self.rest is not None:
            instant = prediction.u if prediction.v is None else prediction.v
            v = v + expand_like(self.rest, v) * instant.detach().to(v.dtype)
        if prediction.dudt is not None:
            derived = prediction.u[: len(prediction.dudt)].detach(), prediction.dudt
        return replace(self, v=v, rest=None, derived=derived)

    def derivative(self, model: Model, along: Sample | Direction) -> tuple[Sample, Sample]:
        """u⁻(z_t, r, t) and its derivative in a direction, or along a path with this dz/dt (`total_derivative`).

        As the prediction brought them, else taken now.
        """
        if self.derived is not None:
            return self.derived
        return total_derivative(model, self.z, self.r, self.t, self.cond, along, derivative=self.how)

    def few_step(self) -> TrainingDraw:
        """Only the few-step samples."""
        return self.part(slice(self.few), self.few)

    def flow(self) -> TrainingDraw:
        """Only the samples with r = t."""
        return self.part(slice(self.few, None), 0)

    def part(self, n: slice, few: int) -> TrainingDraw:
        """Only the samples that a slice picks, of which so many are few-step ones."""
        rest, own, path = (None if x is None else x[n] for x in (self.rest, self.own, self.path))
        z, r, t, v, cond = self.z[n], self.r[n], self.t[n], self.v[n], self.cond[n]
        return replace(self, z=z, r=r, t=t, v=v, cond=cond, few=few, rest=rest, own=own, path=path)


@dataclass(frozen=True)
class RegressionTarget:
    """What few-step samples are trained towards.

    Attributes:
        u: the target (n, …), without gradient.
        alpha: α of each sample (n,), for its weight; 1 where a family has none.
    """

    u: Sample
    alpha: PerSample

    def detached(self) -> RegressionTarget:
        """The same target as a constant."""
        return RegressionTarget(self.u.detach(), self.alpha)


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for a draw.

    Attributes:
        u: the mean velocity (b, …), with gradient.
        v: the instantaneous velocity (b, …), with gradient, of networks that predict it beside u; or None.
        dudt: u's derivative for the few-step samples (n, …), where it was asked for; or None.
    """

    u: Sample
    v: Sample | None = None
    dudt: Sample | None = None
