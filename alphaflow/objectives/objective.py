"""What every objective shares: drawing times and noise, guidance, the network's prediction, weighting, the loss.

A family adds one method, `Objective.target`: what the few-step samples (those with r < t) are trained towards. One
whose loss is no weighted squared error also overrides `Objective.few_step_loss`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..derivatives import Derivative, check_derivative, with_derivative
from ..describe import Compact
from ..flow import expand_like, interpolate, mean_square, velocity
from ..guidance import Guided, TrainedGuidance
from ..network import Upcast, upcast
from ..pairs import PairDistribution, Pairing, Pairs
from ..parallel.shared import may_be_split
from ..schedules import Scheduled, value_at
from ..sources import Coupling, Gaussian, Source, check_coupled, seen
from ..times import LogitNormal, TimeDistribution
from ..types import Cond, Direction, Loss, Model, PerSample, Sample, Time
from ..weighting import AdaptiveWeighting, Weighting
from .guided import guided_velocity
from .loss_function import LossFunction
from .records import Prediction, RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class Objective(Compact, LossFunction):
    """An objective: ``objective(model, x, cond, step, generator) -> Loss``.

    All randomness comes from ``generator``; nothing that is passed in is changed; x has any trailing shape.

    Args:
        fm_share: the share of a batch with r = t, a number or a schedule; ⌊share·b⌋ samples of the whole batch, however
            it is worked on in parts.
        zero_share: the share of a batch whose r is 0, counted likewise: so many of the few-step samples, all of them at
            most. If ⌊fm_share·b⌋ was rounded, it may be one sample more.
        times: where on the path to train: a distribution of times, or of pairs (`TimePairs`, `GapPairs`,
            `DyadicPairs`).
        guidance: classifier-free guidance trained into the target velocity, or None.
        weighting: how squared errors are weighted.
        balance: each few-step sample's loss is divided by itself and multiplied by the mean loss of those with r = t,
            both constants to the optimiser (AnyFlow, github.com/NVlabs/AnyFlow): all count the same, whatever their
            weights. The mean is that of the samples that are worked on at once; if none has r = t, nothing is scaled.
        teacher: a trained network whose instantaneous velocity stands in place of ε − x (distillation), or None.
        source: what stands at t = 1: noise, a condition plus noise, or any function of (noise, cond).
        coupling: which x₁ of a batch goes with which sample; None for as they are drawn.
        ema_target: every u⁻ in a target comes from the weights' moving average (θ⁻) instead of the network itself.
        derivative: how the network's derivative is taken, where the target needs it: ``"exact"``, or ``"difference"``
            for networks with layers that can't be differentiated forward (`total_derivative`).
    """

    fm_share: Scheduled = 0.5
    zero_share: Scheduled = 0.0
    times: TimeDistribution | PairDistribution = LogitNormal(-0.4, 1.0)
    guidance: TrainedGuidance | None = None
    weighting: Weighting = AdaptiveWeighting()
    balance: bool = False
    teacher: Model | None = None
    source: Source = Gaussian()
    coupling: Coupling | None = None
    ema_target: bool = False
    derivative: Derivative = "exact"

    pairing: ClassVar[Pairing] = "sorted"
    """How a plain distribution of times is paired."""
    takes_ema_target: ClassVar[bool] = True
    """Whether u⁻ may be another network than the one in training."""
    wants_velocity: ClassVar[bool] = True
    """Whether few-step targets contain ṽ: if not, theirs is the path's own, without guidance and teacher."""

    def __post_init__(self) -> None:
        if isinstance(self.times, type) or not isinstance(self.times, TimeDistribution):
            raise ValueError(f"times is a distribution such as LogitNormal(), got {self.times!r}")
        if self.guidance is not None and not isinstance(self.guidance, TrainedGuidance):
            raise ValueError(f"guidance is Guidance(…) or GuidanceInputs(…), got {self.guidance!r}")
        check_derivative(self.derivative)
        object.__setattr__(self, "source", Source.of(self.source))
        check_coupled(self.source, self.coupling)
        if self.ema_target and not self.takes_ema_target:
            raise ValueError(f"{type(self).__name__}'s target starts at the network's own output: no ema_target")
        if self.pairing == "zero" and not self.paired.zero:
            raise ValueError(f"{type(self).__name__} needs r = 0: give a plain distribution, not {self.times}")
        self._check_shares()

    def _check_shares(self) -> None:
        fixed = {
            name: share
            for name, share in (("fm_share", self.fm_share), ("zero_share", self.zero_share))
            if not callable(share)
        }
        for name, share in fixed.items():
            _check_share(share, name)
        if self.zero_share != 0 and (self.paired.zero or self.paired.finest):
            raise ValueError(f"zero_share has no part here: r is 0 anyway, or on a grid, with {self.paired}")
        if sum(fixed.values()) > 1 + 1e-9:
            raise ValueError(f"fm_share + zero_share are shares of one batch, got {self.fm_share} + {self.zero_share}")
        if self.balance and fixed.get("fm_share") in (0, 1):
            raise ValueError("balance needs few-step samples and some with r = t: an fm_share between 0 and 1")

    @property
    def paired(self) -> Pairs:
        """The distribution of pairs that ``times`` is, or is made."""
        return Pairs.of(self.times, self.pairing)

    def share(self, step: int) -> float:
        """``fm_share`` at a step."""
        return _check_share(value_at(self.fm_share, step))

    def few(self, b: int, step: int, start: int = 0) -> int:
        """How many of b samples, numbers ``start`` and on of the whole batch, are few-step.

        Parts of a batch, counted so, have ⌊share·size⌋ samples with r = t together.
        """
        share = self.share(step)
        return b - math.floor(share * (start + b) + 1e-9) + math.floor(share * start + 1e-9)

    def zeros(self, b: int, step: int, start: int = 0) -> int:
        """How many of these few-step samples have r = 0."""
        part, before = self._zero_part(step), self.few(start, step)
        return math.floor(part * (before + self.few(b, step, start)) + 1e-9) - math.floor(part * before + 1e-9)

    def _zero_part(self, step: int) -> float:
        """The part of the few-step samples that has r = 0."""
        most, share = 1 - self.share(step), _check_share(value_at(self.zero_share, step), "zero_share")
        return min(share / most, 1) if most > 0 else 0

    def scalars(self, step: int) -> dict[str, float]:
        """The scheduled values at a step, for logs."""
        zero = {"zero_share": value_at(self.zero_share, step)} if self.zero_share != 0 else {}
        return {"fm_share": self.share(step), **zero}

    def takes_derivative(self, step: int) -> bool:
        """Whether the loss at a step needs a derivative: a family that has `along` does, for its few-step samples."""
        return type(self).along is not Objective.along and self.share(step) < 1

    @abstractmethod
    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """The target of the few-step samples, which ``draw`` consists of. ``model`` is u⁻."""

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """The loss (n,) of few-step samples: their squared error, weighted."""
        error = mean_square(u - target.u)
        return self.weighting(error.detach(), target.alpha) * error

    def flow_loss(self, u: Sample, draw: TrainingDraw) -> PerSample:
        """The loss (n,) of samples with r = t: their squared error, weighted with α = 1."""
        error = mean_square(u - draw.v)
        return self.weighting(error.detach(), torch.ones_like(draw.t)) * error

    def wants_own(self, step: int) -> bool:
        """Whether few-step targets need u⁻(z_t, t, t, y) at a step."""
        return False

    def along(self, draw: TrainingDraw, step: int) -> Sample | Direction | None:
        """The direction of the derivative that the target of the few-step samples, which ``draw`` consists of, needs.

        dz/dt where it is that of a path on which r stays (`Direction.of`); None for no derivative. It is then taken
        along with the prediction, where both are of the same network: `TrainingDraw.derivative`.
        """
        return None

    def predict(self, model: Model, draw: TrainingDraw, along: Sample | Direction | None = None) -> Prediction:
        """The network's prediction for a draw, with gradient; with its derivative of the few-step samples if asked."""
        if along is None:
            return Prediction(model(draw.z, draw.r, draw.t, draw.cond))
        graph, z, r, t = self.differentiated == "with gradient", draw.z, draw.r, draw.t
        u, dudt = with_derivative(model, z, r, t, draw.cond, along, derivative=self.derivative, graph=graph)
        return Prediction(u, dudt=dudt)

    def auxiliary_loss(self, prediction: Prediction, draw: TrainingDraw) -> PerSample | None:
        """A further loss of each sample (b,), with gradient, or None."""
        return None

    def flow_model(self, model: Model) -> Model:
        """What gives the network's instantaneous velocity at (z, t, t): the network itself."""
        return model

    def prepare(self, device: torch.device) -> None:
        """Moves the objective's own network and its teacher to a device; the teacher is frozen, in evaluation mode."""
        super().prepare(device)
        teacher = self.teacher.model if isinstance(self.teacher, Guided) else self.teacher
        if isinstance(teacher, nn.Module):
            teacher.to(device).eval().requires_grad_(False)

    def pairs(self, b: int, step: int, device: torch.device, generator: torch.Generator | None) -> tuple[Time, Time]:
        """Draws the times (r, t) of b few-step samples: two tensors (b,)."""
        return self.paired.pairs(b, device, generator)

    def __call__(
        self,
        model: Model,
        x: Sample,
        cond: Cond | None = None,
        step: int = 0,
        generator: torch.Generator | None = None,
        *,
        ema: Model | None = None,
        start: int = 0,
    ) -> Loss:
        """One batch's loss.

        Args:
            model: u(z, r, t, cond) -> (b, …).
            x: clean samples (b, …), floating point.
            cond: what the model is conditioned on; None for nothing.
            step: the training step, for schedules.
            generator: the source of all randomness, on x's device.
            ema: the weights' moving average, for ``ema_target``.
            start: the number in the whole batch of x's first sample, where others of it are worked on apart.

        Raises:
            ValueError: x is not a floating-point batch, the model's output has another shape, or ``ema`` is missing.
        """
        if not x.is_floating_point() or x.ndim < 2 or not len(x):
            raise ValueError(f"x must be floating point of shape (b, …), b ≥ 1, got {x.dtype} {tuple(x.shape)}")
        if x.dtype in (torch.float16, torch.bfloat16):  # times would lose their digits
            x = x.float()
        if self.ema_target and ema is None:
            raise ValueError(f"{type(self).__name__} has ema_target: pass the averaged network as ema")
        model = Upcast(model)
        frozen = Upcast(ema) if self.ema_target and ema is not None else model  # u⁻
        n, zeros = self.few(len(x), step, start), self.zeros(len(x), step, start)
        draw = self.draw(frozen, x, cond or Cond(), step, generator, few=n, zeros=zeros, predicted=frozen is model)
        along = self._along(draw, step) if frozen is model or self.differentiated != "target" else None
        prediction = self.predict(model, draw, along)
        u, draw = upcast(prediction.u, x), draw.completed(prediction)
        target = self._target(frozen, draw, step)
        per_sample = self._per_sample(u, target, draw, prediction)
        goal, alpha = torch.cat([target.u, draw.v[n:]]), torch.cat([target.alpha, torch.ones_like(draw.t[n:])])
        return Loss(per_sample.mean(), per_sample, _terms(u.detach(), goal, draw.v, alpha))

    def _per_sample(self, u: Sample, target: RegressionTarget, draw: TrainingDraw, prediction: Prediction) -> PerSample:
        """The loss of each sample (b,)."""
        n = draw.few
        few_step = self.few_step_loss(u[:n], target, draw.few_step()) if n else draw.t[:0]
        flow = self.flow_loss(u[n:], draw.flow()) if n < len(u) else draw.t[:0]
        if self.balance and 0 < n < len(u):
            few_step = few_step * (flow.detach().mean() / (few_step.detach() + 1e-5))
        if not n and prediction.dudt is not None and prediction.dudt.requires_grad:
            flow = flow + 0 * prediction.dudt.sum()  # the backward pass of a network that is split is everybody's
        auxiliary = self.auxiliary_loss(prediction, draw)
        per_sample = torch.cat([few_step, flow])
        return per_sample if auxiliary is None else per_sample + auxiliary

    def _few_step(self, draw: TrainingDraw, step: int) -> TrainingDraw | None:
        """The few-step samples; where others have some, of a network that may be split, one sample; else None."""
        if draw.few:
            return draw.few_step()
        return draw.part(slice(1), few=1) if may_be_split() and self.share(step) < 1 else None

    def _along(self, draw: TrainingDraw, step: int) -> Sample | Direction | None:
        """The direction of the samples whose derivative comes with the prediction; None where none does."""
        few = self._few_step(draw, step)
        return None if few is None else self.along(few, step)

    def _target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """The few-step samples' target, of n = 0 too."""
        few, n = self._few_step(draw, step), draw.few
        target = RegressionTarget(draw.v, draw.t) if few is None else self.target(model, few, step).detached()
        return RegressionTarget(target.u[:n], target.alpha[:n])

    def draw(
        self,
        model: Model,
        x: Sample,
        cond: Cond,
        step: int,
        generator: torch.Generator | None,
        *,
        few: int | None = None,
        zeros: int | None = None,
        predicted: bool = False,
    ) -> TrainingDraw:
        """Draws times and x₁, drops conditions, mixes guidance into the velocity, by u⁻ = ``model``.

        ``few`` is the number of few-step samples, and ``zeros`` how many of these have r = 0; None for what the shares
        make of a whole batch, or of so many. If u⁻ is about to be ``predicted`` for this draw, what it will say of the
        samples with r = t is left for later (`TrainingDraw.completed`).
        """
        b = x.shape[0]
        few = self.few(b, step) if few is None else few
        zeros = math.floor(self._zero_part(step) * few + 1e-9) if zeros is None else zeros
        r, t = self.pairs(few, step, x.device, generator)
        r = torch.cat([torch.zeros_like(r[:zeros]), r[zeros:]])
        same = self.paired.sample(b - few, x.device, generator)
        r, t = torch.cat([r, same]).to(x.dtype), torch.cat([t, same]).to(x.dtype)
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        x1 = self.source(noise, cond)
        if self.coupling is not None:
            x1 = x1[self.coupling(x, x1)]
        z, path, cond = interpolate(x, x1, t), velocity(x, x1), seen(cond, self.source, model)
        dropped = torch.zeros_like(t, dtype=torch.bool)
        if self.guidance is not None:
            cond, dropped = self.guidance.drop(cond, r, t, generator)
        draw = TrainingDraw(z, r, t, path, cond, few, generator, path=path, how=self.derivative)
        if self.wants_velocity or few == b:
            return self._guided(model, draw, dropped, step, predicted)
        flow = self._guided(model, draw.flow(), dropped[few:], step, predicted)
        rest = None if flow.rest is None else torch.cat([torch.zeros_like(t[:few]), flow.rest])
        return replace(draw, v=torch.cat([path[:few], flow.v]), rest=rest)

    def _guided(self, model: Model, draw: TrainingDraw, dropped: Tensor, step: int, predicted: bool) -> TrainingDraw:
        """The draw with ṽ, of the teacher and of guidance, in place of its path's velocity."""
        z, t, v, cond = draw.z, draw.t, draw.v, draw.cond
        if self.teacher is not None:
            with torch.no_grad():
                v = Upcast(self.teacher)(z, t, t, cond.without("guidance")).to(v.dtype)
        network, wanted = self.flow_model(Upcast(model)), self.wants_own(step)
        guided = guided_velocity(
            self.guidance, network, z, t, cond, v, dropped, few=draw.few, predicted=predicted, wanted=wanted
        )
        return replace(draw, v=guided.v, rest=guided.rest, own=guided.own)


def _terms(u: Sample, goal: Sample, v: Sample, alpha: PerSample) -> dict[str, Tensor]:
    """The loss's parts, each (b,): ``mse`` = ‖u − target‖², ``residual`` = mse ÷ α², ``tfm`` = ‖u − ṽ‖², and ``tc``.

    The target lies α of the way from u⁻ to where it leads, so that mse falls with α²; the residual compares at any α.
    α⁻¹·‖u − target‖² has the gradient of tfm + tc, where tc = 2·uᵀ·sg[(u − target)/α − (u − ṽ)]. In the MeanFlow
    branch that is 2(t − r)·uᵀ·du⁻/dt: trajectory flow matching plus trajectory consistency (α-Flow, arXiv 2510.20771).
    """
    mse, consistency = mean_square(u - goal), (u - goal) / expand_like(alpha, u) - (u - v)
    tc = 2 * (u * consistency).flatten(1).mean(1)
    return {"mse": mse, "residual": mse / alpha.square(), "tfm": mean_square(u - v), "tc": tc}


def _check_share(share: float, name: str = "fm_share") -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is a share of the batch in [0, 1], got {share}")
    return share
