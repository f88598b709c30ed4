"""Classifier-free guidance: trained into the target (`Guidance`), or applied while sampling (`CFG`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .printing import Compact
from .types import Cond, Model, Sample, Time

Interval = tuple[float, float]


def _check_interval(interval: Interval) -> None:
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"a guidance interval needs 0 <= t_min < t_max <= 1, got {interval}")


def inside(t: Time, interval: Interval) -> Tensor:
    """Where t_min < t < t_max, a mask (b,)."""
    return (t > interval[0]) & (t < interval[1])


@dataclass(frozen=True, repr=False)
class Guidance(Compact):
    """Guidance trained into the network, so that one evaluation samples with it.

    Where t_min < t < t_max the target velocity becomes
    ṽ = ω·v + κ·u⁻(z_t, t, t, y) + (1 − ω − κ)·u⁻(z_t, t, t, ∅), elsewhere ṽ = v
    (MeanFlow, arXiv 2505.13447, appendix on improved CFG; α-Flow uses the same). The effective scale is ω/(1 − κ).

    Args:
        omega: ω.
        kappa: κ.
        interval: (t_min, t_max); a sample exactly at an end is outside.
        label_drop: the share of samples inside the interval that lose their condition, before the formula is applied
            (all of its terms then see ∅). With ω = 1, κ = 0 this is plain label dropout, as `CFG` needs it.
        dropped: ``"guided"`` applies the formula to dropped samples too; ``"plain"`` gives them ṽ = v (MeanFlow's
            variant).
    """

    omega: float = 1.0
    kappa: float = 0.0
    interval: Interval = (0.0, 1.0)
    label_drop: float = 0.1
    dropped: Literal["guided", "plain"] = "guided"

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        if not 0 <= self.label_drop <= 1:
            raise ValueError(f"label_drop is a share of samples in [0, 1], got {self.label_drop}")
        if self.dropped not in ("guided", "plain"):
            raise ValueError(f"dropped is guided or plain, got {self.dropped!r}")

    @property
    def scale(self) -> float:
        """The effective guidance scale ω/(1 − κ)."""
        return self.omega / (1 - self.kappa) if self.kappa != 1 else math.inf

    def drop(self, cond: Cond, t: Time, generator: torch.Generator | None) -> tuple[Cond, Tensor]:
        """Drops conditions by chance inside the interval; returns the new condition and the mask (b,)."""
        chance = torch.rand(t.shape[0], device=t.device, generator=generator)
        mask = (chance < self.label_drop) & inside(t, self.interval)
        return cond.drop(mask), mask

    @torch.no_grad()
    def velocity(self, model: Model, z: Sample, t: Time, cond: Cond, v: Sample, dropped: Tensor) -> Sample:
        """The guided velocity ṽ (b, …), a constant to the optimiser.

        Runs the network only where it counts: inside the interval, for coefficients that are not zero, in one batch.

        Args:
            model: u(z, r, t, cond).
            z: (b, …) at time t.
            t: (b,).
            cond: the condition after `drop`.
            v: the conditional velocity ε − x (b, …).
            dropped: the mask (b,) that `drop` gave.
        """
        free = 1 - self.omega - self.kappa
        parts = [(self.kappa, cond)] if self.kappa else []
        parts += [(free, cond.null())] if abs(free) > 1e-12 else []
        where = inside(t, self.interval)
        if self.dropped == "plain":
            where = where & ~dropped
        if (not parts and self.omega == 1) or not where.any():
            return v
        mixed = self.omega * v[where]
        if parts:
            n, z_in, t_in = len(parts), z[where], t[where]
            times = t_in.repeat(n)
            conds = Cond.cat([part[where] for _, part in parts])
            outputs = model(z_in.repeat(n, *(1,) * (z.ndim - 1)), times, times, conds).to(v.dtype)
            for (coefficient, _), u in zip(parts, outputs.chunk(n), strict=True):
                mixed = mixed + coefficient * u
        guided = v.clone()
        guided[where] = mixed
        return guided


@dataclass(frozen=True, repr=False)
class CFG(Compact):
    """Classifier-free guidance while sampling (arXiv 2207.12598): u = u(∅) + scale·(u(y) − u(∅)) inside the interval.

    For flow models that were trained with dropped labels. Both evaluations go in one batch; each step inside the
    interval costs two evaluations.

    Args:
        scale: 1 is no guidance.
        interval: (t_min, t_max) in which it is applied (arXiv 2404.07724).
    """

    scale: float
    interval: Interval = (0.0, 1.0)

    def __post_init__(self) -> None:
        _check_interval(self.interval)

    def applies(self, t: float) -> bool:
        """Whether an evaluation at time t is guided. Both ends count as inside, so that (0, 1) means everywhere."""
        return self.scale != 1 and self.interval[0] <= t <= self.interval[1]

    def wrap(self, model: Model) -> Callable[[Sample, Time, Time, Cond], Sample]:
        """The guided model, to be called where `applies` says so."""

        def guided(z: Sample, r: Time, t: Time, cond: Cond) -> Sample:
            both = Cond.cat([cond, cond.null()])
            u = model(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), both)
            conditional, free = u.chunk(2)
            return free + self.scale * (conditional - free)

        return guided
