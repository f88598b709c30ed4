"""Classifier-free guidance: trained in at one scale (`Guidance`) or many (`GuidanceInputs`), or in sampling (`CFG`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .describe import Compact
from .errors import UserError, is_number
from .guidance_input import WHOLE, Interval, check_interval, inside, packed, scale_at
from .network import Upcast
from .types import Cond, Model, PerSample, Sample, Time


@dataclass(frozen=True)
class Mix:
    """What each sample's guided velocity is mixed from: ṽ = data·v + own·u⁻(z_t, t, t, y) + free·u⁻(z_t, t, t, ∅).

    Attributes:
        data, own, free: coefficients (b,). What has none is not evaluated.
    """

    data: PerSample
    own: PerSample
    free: PerSample


class TrainedGuidance(ABC):
    """Guidance that is trained into a network, as an objective uses it.

    Attributes:
        inputs: scale and interval are inputs of the network.
    """

    inputs: ClassVar[bool] = False

    @abstractmethod
    def drop(self, cond: Cond, r: Time, t: Time, generator: torch.Generator | None) -> tuple[Cond, Tensor]:
        """The condition to train with, some of it dropped by chance, and the mask (b,) of where it was."""

    @abstractmethod
    def mix(self, cond: Cond, t: Time, dropped: Tensor) -> Mix | None:
        """The mixture at times t (b,), after `drop`; None where it is v for all samples, whatever t is."""

    @abstractmethod
    def instant(self, cond: Cond, t: Time) -> Cond:
        """The condition under which the network's instantaneous velocity at time t is the guided one."""

    @abstractmethod
    def unconditional(self, cond: Cond) -> Cond:
        """The condition under which it is the unconditional one."""


@dataclass(frozen=True, repr=False)
class Guidance(Compact, TrainedGuidance):
    """Guidance trained into the network, so that one evaluation samples with it.

    Where t_min ≤ t ≤ t_max the target velocity becomes
    ṽ = ω·v + κ·u⁻(z_t, t, t, y) + (1 − ω − κ)·u⁻(z_t, t, t, ∅), elsewhere ṽ = v
    (MeanFlow, arXiv 2505.13447, appendix on improved CFG; α-Flow uses the same). The effective scale is ω/(1 − κ).

    Args:
        omega: ω.
        kappa: κ.
        interval: (t_min, t_max), both ends inside.
        label_drop: the share of samples that lose their condition, before the formula is applied (all of its terms then
            see ∅). With ω = 1, κ = 0 this is plain label dropout, as `CFG` needs it.
        dropped: ``"guided"``: samples are dropped inside the interval only, and the formula is applied to them too
            (α-Flow's official runs); ``"plain"``: they are dropped at every t, and have ṽ = v (MeanFlow).
    """

    omega: float = 1.0
    kappa: float = 0.0
    interval: Interval = WHOLE
    label_drop: float = 0.1
    dropped: Literal["guided", "plain"] = "guided"

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not 0 <= self.label_drop <= 1:
            raise ValueError(f"label_drop is a share of samples in [0, 1], got {self.label_drop}")
        if self.dropped not in ("guided", "plain"):
            raise ValueError(f"dropped is guided or plain, got {self.dropped!r}")

    @property
    def scale(self) -> float:
        """The effective guidance scale ω/(1 − κ)."""
        return self.omega / (1 - self.kappa) if self.kappa != 1 else math.inf

    def drop(self, cond: Cond, r: Time, t: Time, generator: torch.Generator | None) -> tuple[Cond, Tensor]:
        """Drops conditions by chance, where ``dropped`` says; returns the new condition and the mask (b,)."""
        mask = torch.rand(t.shape[0], device=t.device, generator=generator) < self.label_drop
        if self.dropped == "guided":
            mask = mask & inside(t, self.interval)
        return cond.drop(mask), mask

    def mix(self, cond: Cond, t: Time, dropped: Tensor) -> Mix | None:
        """ω, κ and 1 − ω − κ inside the interval; for dropped samples, whose y is ∅, ω and 1 − ω."""
        free = 1 - self.omega - self.kappa
        free = 0.0 if abs(free) < 1e-12 else free
        if self.omega == 1 and self.kappa == 0:
            return None
        where = inside(t, self.interval)
        if self.dropped == "plain":
            where = where & ~dropped
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        own = torch.where(dropped, 1 - self.omega, one * self.kappa)
        return Mix(
            torch.where(where, self.omega, one),
            torch.where(where, own, 0),
            torch.where(where & ~dropped, free, zero),
        )

    def instant(self, cond: Cond, t: Time) -> Cond:
        """The condition itself: the network knows one scale only."""
        return cond

    def unconditional(self, cond: Cond) -> Cond:
        """∅ for all samples."""
        return cond.null()


@dataclass(frozen=True, repr=False)
class GuidanceInputs(Compact, TrainedGuidance):
    """Guidance whose scale and interval are inputs of the network, chosen when sampling.

    In training each sample draws a scale ω, log-uniform in ``scales``, and an interval [t_min, t_max]; the network sees
    them as ``cond.guidance`` (b, 3), and inside the interval its target is v_g = v + (1 − 1/ω)·(v_c − v_u), where v_c
    is the network's instantaneous velocity under y and ω, v_u that under ∅ and ω = 1 (improved MeanFlow, arXiv
    2512.02012). In expectation that is v_u + ω·(v − v_u). Outside the interval ω counts as 1. Samples with r = t have
    the interval [0, 1], so a network's instantaneous velocity always is the guided one; those that lose their label
    keep ṽ = v.

    Args:
        scales: the range of ω, ω ≥ 1.
        own: whether v_c has a part in the target. Without, it is ω·v + (1 − ω)·v_u, the same in expectation with one
            evaluation less, and samples that lose their label have ω = 1 (TVM, arXiv 2511.19797).
        starts, ends: the ranges that t_min and t_max are drawn from, uniformly.
        label_drop: the share of samples that lose their condition.
    """

    inputs: ClassVar[bool] = True
    scales: Interval = (1.0, 8.0)
    starts: Interval = (0.0, 0.5)
    ends: Interval = (0.5, 1.0)
    label_drop: float = 0.1
    own: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.scales[0] <= self.scales[1]:
            raise ValueError(f"guidance scales need 1 <= low <= high, got {self.scales}")
        if not 0 <= self.starts[0] <= self.starts[1] <= self.ends[0] <= self.ends[1] <= 1:
            raise ValueError(f"intervals need 0 <= starts <= ends <= 1, got {self.starts} and {self.ends}")
        if not 0 <= self.label_drop <= 1:
            raise ValueError(f"label_drop is a share of samples in [0, 1], got {self.label_drop}")

    def drop(self, cond: Cond, r: Time, t: Time, generator: torch.Generator | None) -> tuple[Cond, Tensor]:
        """Drops conditions by chance and adds what was drawn as ``cond.guidance``; also returns the mask (b,)."""
        chance, scale, start, end = torch.rand(4, t.shape[0], dtype=t.dtype, device=t.device, generator=generator)
        mask = chance < self.label_drop
        low, high = math.log(self.scales[0]), math.log(self.scales[1])
        omega = torch.exp(low + (high - low) * scale)
        if not self.own:
            omega = torch.where(mask, 1, omega)
        t_min = torch.where(r == t, 0, self.starts[0] + (self.starts[1] - self.starts[0]) * start)
        t_max = torch.where(r == t, 1, self.ends[0] + (self.ends[1] - self.ends[0]) * end)
        return cond.drop(mask).replace(guidance=packed(omega, t_min, t_max)), mask

    def mix(self, cond: Cond, t: Time, dropped: Tensor) -> Mix | None:
        """1, 1 − 1/ω and −(1 − 1/ω), or ω, 0 and 1 − ω, with the ω that counts at t; v itself for dropped samples."""
        omega = torch.where(dropped, 1, scale_at(cond, t)).to(t.dtype)
        if not self.own:
            return Mix(omega, torch.zeros_like(omega), 1 - omega)
        more = 1 - 1 / omega
        return Mix(torch.ones_like(t), more, -more)

    def instant(self, cond: Cond, t: Time) -> Cond:
        """The same condition with the scale that counts at time t (1 outside the interval), in the interval [0, 1]."""
        return cond.replace(guidance=packed(scale_at(cond, t)))

    def unconditional(self, cond: Cond) -> Cond:
        """∅ and ω = 1 for all samples."""
        return cond.null().replace(guidance=packed(torch.ones_like(cond.guidance[:, 0])))


@dataclass(frozen=True, repr=False)
class CFG(Compact):
    """Classifier-free guidance while sampling (arXiv 2207.12598): u = u(∅) + scale·(u(y) − u(∅)) inside the interval.

    For flow models that were trained with dropped labels. Both evaluations go in one batch; each step inside the
    interval costs two evaluations.

    Args:
        scale: 1 is no guidance.
        interval: (t_min, t_max) in which it is applied (arXiv 2404.07724), both ends inside.
    """

    scale: float
    interval: Interval = WHOLE

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not is_number(self.scale):
            raise UserError(f"a guidance scale is a finite number, 1 for none, got {self.scale!r}")

    def applies(self, t: float) -> bool:
        """Whether an evaluation at time t is to be guided: inside the interval, unless the scale is 1."""
        return self.scale != 1 and bool(inside(t, self.interval))

    def wrap(self, model: Model) -> Guided:
        """The guided model, to be called where `applies` says so."""
        return Guided(model, self.scale)


@dataclass(frozen=True)
class Guided:
    """A model under classifier-free guidance, as a model: two evaluations in one batch."""

    model: Model
    scale: float

    def __call__(self, z: Sample, r: Time, t: Time, cond: Cond) -> Sample:
        """u(∅) + scale·(u(y) − u(∅))."""
        both = Cond.cat([cond, cond.null()])
        u = Upcast(self.model)(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), both)
        conditional, free = u[: z.shape[0]], u[z.shape[0] :]
        guided: Sample = free + self.scale * (conditional - free)
        return guided
