"""What an objective and its family hand to each other: a draw, a target, a prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..types import Cond, PerSample, Sample, Time


@dataclass(frozen=True)
class Draw:
    """One training draw. The first ``few`` samples have r ≤ t as drawn, the others r = t.

    Attributes:
        z: z_t (b, …).
        r, t: times (b,).
        v: ṽ, the target velocity after guidance (b, …).
        cond: the condition after labels were dropped.
        few: how many samples are few-step ones: a count, not a mask, so that shapes are the same at every step.
        generator: the source of what else a family draws.
    """

    z: Sample
    r: Time
    t: Time
    v: Sample
    cond: Cond
    few: int
    generator: torch.Generator | None = None

    def few_step(self) -> Draw:
        """Only the few-step samples."""
        return self._part(slice(self.few), self.few)

    def flow(self) -> Draw:
        """Only the samples with r = t."""
        return self._part(slice(self.few, None), 0)

    def _part(self, n: slice, few: int) -> Draw:
        return replace(self, z=self.z[n], r=self.r[n], t=self.t[n], v=self.v[n], cond=self.cond[n], few=few)


@dataclass(frozen=True)
class Target:
    """What few-step samples are trained towards.

    Attributes:
        u: the target (n, …), without gradient.
        alpha: α of each sample (n,), for its weight; 1 where a family has none.
    """

    u: Sample
    alpha: PerSample


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for a draw.

    Attributes:
        u: the mean velocity (b, …), with gradient.
        auxiliary: a further loss of each sample (b,), with gradient, or None.
    """

    u: Sample
    auxiliary: PerSample | None = None
