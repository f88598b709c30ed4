"""What every objective shares: drawing times and noise, guidance, the network's prediction, weighting, the loss.

A family adds one method, `Objective.target`: what the few-step samples (those with r < t) are trained towards. One
whose loss is no weighted squared error also overrides `Objective.few_step_loss`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..derivatives import Derivative, check_derivative, with_derivative
from ..describe import Compact
from ..flow import expand_like, interpolate, mean_square, velocity
from ..guidance import Guided, TrainedGuidance
from ..network import Upcast, upcast
from ..parallel.shared import may_be_split
from ..schedules import Scheduled, value_at
from ..sources import Coupling, Gaussian, Source, check_coupled, seen
from ..times import LogitNormal, PairDistribution, Pairing, Pairs, TimeDistribution
from ..types import Cond, Loss, Model, PerSample, Sample, Time
from ..weighting import AdaptiveWeighting, Weighting
from .guided import guided_velocity
from .records import Prediction, RegressionTarget, TrainingDraw


class LossFunction(ABC):
    """What training asks of an objective: a loss, and what belongs to it. `of` makes one of any function.

    Attributes:
        guidance: classifier-free guidance trained into the target velocity, or None.
        source: what stands at t = 1, and where sampling starts.
        derivative: how du/dt is taken, where the loss needs it.
    """

    guidance: TrainedGuidance | None = None
    source: Source = Gaussian()
    derivative: Derivative = "exact"

    @property
    def network(self) -> nn.Module | None:
        """A network of the objective's own that is trained beside the model, or None."""
        return None

    def scalars(self, step: int) -> dict[str, float]:
        """The scheduled values at a step, for logs."""
        return {}

    def takes_derivative(self, step: int) -> bool:
        """Whether the loss at a step needs du/dt."""
        return False

    def prepare(self, device: torch.device) -> None:
        """Moves what belongs to the objective to a device."""
        if self.network is not None:
            self.network.to(device)

    @abstractmethod
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
        """One batch's loss; arguments as `Objective` takes them."""

    @staticmethod
    def of(function: Callable[..., Loss]) -> LossFunction:
        """Any ``function(model, x, cond, step, generator) -> Loss`` as an objective."""
        return function if isinstance(function, LossFunction) else _Function(function)


class _Function(LossFunction):
    def __init__(self, function: Callable[..., Loss]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, ema: Model | None = None, start: int = 0) -> Loss:
        return self.function(*arguments)


@dataclass(frozen=True, kw_only=True, repr=False)
class Objective(Compact, LossFunction):
    """An objective: ``objective(model, x, cond, step, generator) -> Loss``.

    All randomness comes from ``generator``; nothing that is passed in is changed; x has any trailing shape.

    Args:
        fm_share: the share of a batch with r = t, a number or a schedule; ⌊share·b⌋ samples of the whole batch, however
            it is worked on in parts.
        times: where on the path to train: a distribution of times, or of pairs (`TimePairs`, `DyadicPairs`).
        guidance: classifier-free guidance trained into the target velocity, or None.
        weighting: how squared errors are weighted.
        teacher: a trained network whose instantaneous velocity stands in place of ε − x (distillation), or None.
        source: what stands at t = 1: noise, a condition plus noise, or any function of (noise, cond).
        coupling: which x₁ of a batch goes with which sample; None for as they are drawn.
        ema_target: every u⁻ in a target comes from the weights' moving average (θ⁻) instead of the network itself.
        derivative: how du/dt is taken, where the target needs it: ``"exact"``, or ``"difference"`` for networks with
            layers that can't be differentiated forward (`total_derivative`).
    """

    fm_share: Scheduled = 0.5
    times: TimeDistribution | PairDistribution = LogitNormal(-0.4, 1.0)
    guidance: TrainedGuidance | None = None
    weighting: Weighting = AdaptiveWeighting()
    teacher: Model | None = None
    source: Source = Gaussian()
    coupling: Coupling | None = None
    ema_target: bool = False
    derivative: Derivative = "exact"

    pairing: ClassVar[Pairing] = "sorted"
    """How a plain distribution of times is paired."""
    takes_ema_target: ClassVar[bool] = True
    """Whether u⁻ may be another network than the one in training."""
    wants_own: ClassVar[bool] = False
    """Whether few-step targets need u⁻(z_t, t, t, y)."""

    def __post_init__(self) -> None:
        if not callable(self.fm_share):
            _check_share(self.fm_share)
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

    def scalars(self, step: int) -> dict[str, float]:
        """The scheduled values at a step, for logs."""
        return {"fm_share": self.share(step)}

    def takes_derivative(self, step: int) -> bool:
        """Whether the loss at a step needs du/dt: a family that has a `direction` does, for its few-step samples."""
        return type(self).direction is not Objective.direction and self.share(step) < 1

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

    def direction(self, draw: TrainingDraw, step: int) -> Sample | None:
        """dz/dt of the few-step samples, which ``draw`` consists of, if their target needs du⁻/dt; else None.

        It is then taken along with the prediction, where both are of the same network: `TrainingDraw.derivative`.
        """
        return None

    def predict(self, model: Model, draw: TrainingDraw, along: Sample | None = None) -> Prediction:
        """The network's prediction for a draw, with gradient; with du/dt of the few-step samples if dz/dt is given."""
        if along is None:
            return Prediction(model(draw.z, draw.r, draw.t, draw.cond))
        u, dudt = with_derivative(model, draw.z, draw.r, draw.t, draw.cond, along, derivative=self.derivative)
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
        n, given = self.few(len(x), step, start), Cond() if cond is None else cond
        draw = self.draw(frozen, x, given, step, generator, few=n, predicted=frozen is model)
        along = self._along(draw, step) if frozen is model else None
        prediction = self.predict(model, draw, along)
        u, draw = upcast(prediction.u, x), draw.completed(prediction)
        target = self._target(frozen, draw, step, own=frozen is model)
        few_step = self.few_step_loss(u[:n], target, draw.few_step()) if n else draw.t[:0]
        flow = self.flow_loss(u[n:], draw.flow()) if n < len(x) else draw.t[:0]
        per_sample = torch.cat([few_step, flow])
        auxiliary = self.auxiliary_loss(prediction, draw)
        if auxiliary is not None:
            per_sample = per_sample + auxiliary
        goal, alpha = torch.cat([target.u, draw.v[n:]]), torch.cat([target.alpha, torch.ones_like(draw.t[n:])])
        return Loss(per_sample.mean(), per_sample, _terms(u.detach(), goal, draw.v, alpha))

    def _along(self, draw: TrainingDraw, step: int) -> Sample | None:
        """dz/dt of the samples whose du/dt comes with the prediction; None where none does.

        Where others have few-step samples, a network that may be split takes it of one sample here, too.
        """
        if draw.few:
            return self.direction(draw.few_step(), step)
        if may_be_split() and self.share(step) < 1:
            return None if self.direction(draw.part(slice(1), few=1), step) is None else draw.v[:1]
        return None

    def _target(self, model: Model, draw: TrainingDraw, step: int, own: bool) -> RegressionTarget:
        """The few-step samples' target, of n = 0 too; ``own``: u⁻ is the network in training.

        Where others have few-step samples, a network that may be split runs here, too.
        """
        if draw.few:
            return self.target(model, draw.few_step(), step).detached()
        if may_be_split() and self.share(step) < 1:
            one = draw.part(slice(1), few=1)
            if not own or self.direction(one, step) is None:  # else the derivative comes with the prediction
                self.target(model, one, step)
        return RegressionTarget(draw.v[:0], draw.t[:0])

    def draw(
        self,
        model: Model,
        x: Sample,
        cond: Cond,
        step: int,
        generator: torch.Generator | None,
        *,
        few: int | None = None,
        predicted: bool = False,
    ) -> TrainingDraw:
        """Draws times and x₁, drops conditions, mixes guidance into the velocity, by u⁻ = ``model``.

        ``few`` is the number of few-step samples; None for what fm_share makes of a whole batch. If u⁻ is about to be
        ``predicted`` for this draw, what it will say of the samples with r = t is left for later
        (`TrainingDraw.completed`).
        """
        b = x.shape[0]
        few = self.few(b, step) if few is None else few
        r, t = self.pairs(few, step, x.device, generator)
        same = self.paired.sample(b - few, x.device, generator)
        r, t = torch.cat([r, same]).to(x.dtype), torch.cat([t, same]).to(x.dtype)
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        x1 = self.source(noise, cond)
        if self.coupling is not None:
            x1 = x1[self.coupling(x, x1)]
        z, v, cond = interpolate(x, x1, t), velocity(x, x1), seen(cond, self.source, model)
        dropped = torch.zeros_like(t, dtype=torch.bool)
        if self.guidance is not None:
            cond, dropped = self.guidance.drop(cond, r, t, generator)
        if self.teacher is not None:
            with torch.no_grad():
                v = Upcast(self.teacher)(z, t, t, cond.without("guidance")).to(v.dtype)
        flow, wanted = self.flow_model(Upcast(model)), self.wants_own
        guided = guided_velocity(
            self.guidance, flow, z, t, cond, v, dropped, few=few, predicted=predicted, wanted=wanted
        )
        return TrainingDraw(z, r, t, guided.v, cond, few, generator, guided.rest, guided.own, how=self.derivative)


def _terms(u: Sample, goal: Sample, v: Sample, alpha: PerSample) -> dict[str, Tensor]:
    """The loss's parts, each (b,): ``mse`` = ‖u − target‖², ``residual`` = mse ÷ α², ``tfm`` = ‖u − ṽ‖², and ``tc``.

    The target lies α of the way from u⁻ to where it leads, so that mse falls with α²; the residual compares at any α.
    α⁻¹·‖u − target‖² has the gradient of tfm + tc, where tc = 2·uᵀ·sg[(u − target)/α − (u − ṽ)]. In the MeanFlow
    branch that is 2(t − r)·uᵀ·du⁻/dt: trajectory flow matching plus trajectory consistency (α-Flow, arXiv 2510.20771).
    """
    mse, consistency = mean_square(u - goal), (u - goal) / expand_like(alpha, u) - (u - v)
    tc = 2 * (u * consistency).flatten(1).mean(1)
    return {"mse": mse, "residual": mse / alpha.square(), "tfm": mean_square(u - v), "tc": tc}


def _check_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"fm_share is a share of the batch in [0, 1], got {share}")
    return share
