"""What a training run consists of. This module doesn't import torch: help pages stay quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from .averages import PowerLaw
from .errors import UserError, is_number, is_whole
from .schedules import value_at

if TYPE_CHECKING:
    import torch

    from .autoencoders.autoencoder import Autoencoder
    from .averages import Average
    from .data.dataset import Dataset
    from .objectives.loss_function import LossFunction
    from .samplers import Sampler
    from .schedules import Scheduled


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training run consists of.

    Args:
        model: the network u(z, r, t, cond), a ``torch.nn.Module``.
        objective: what it is trained for: an `Objective`, or any ``function(model, x, cond, step, generator) -> Loss``.
        dataset: what it is trained on, a `Dataset` or what `Dataset.of` takes for one.
        steps: optimiser steps.
        samplers: how to sample, ``(ODE(1), Consistency(2))``: one for each number of network evaluations, which each
            sampler knows; the cheapest draws the pictures while training. ``()`` for none.
        autoencoder: turns samples into pixels, an `Autoencoder`; None where samples are pixels in [-1, 1].
        lr: learning rate, a number or a schedule.
        betas, weight_decay: settings of Adam (AdamW where weight_decay > 0).
        optimizer: makes another optimiser from the parameters, in place of Adam; ``lr`` still sets its rate.
        ema: the decay of the weights' average, or a `PowerLaw`; or several of them, the first of which is sampled with.
        clip: the gradient's norm is clipped to this; None for no clipping.
        precision: ``"fp32"``, or ``"bf16"``: autocast, with weights, gradients and optimiser in fp32. As with ``tf32``,
            `MachineSetup` may say otherwise.
        tf32: whether products of fp32 matrices run in TF32 on a GPU; None for as PyTorch is set.
    """

    model: torch.nn.Module
    objective: LossFunction
    dataset: Dataset
    steps: int
    samplers: Sequence[Sampler]
    autoencoder: Autoencoder | None = None
    lr: Scheduled = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None
    ema: Average | tuple[Average, ...] = 0.9999
    clip: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool | None = None

    def __post_init__(self) -> None:
        from .autoencoders.autoencoder import Autoencoder
        from .data.dataset import Dataset

        object.__setattr__(self, "dataset", Dataset.of(self.dataset))
        if self.autoencoder is not None:
            Autoencoder.of(self.autoencoder)
        if not is_whole(self.steps) or self.steps < 1:
            raise UserError(f"a recipe needs at least 1 step, a whole number, got steps={self.steps!r}")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"the precision is fp32 or bf16, got {self.precision!r}")
        averages = self.ema if isinstance(self.ema, tuple) else (self.ema,)
        wrong_decay = [d for d in averages if not isinstance(d, PowerLaw) and not (is_number(d) and 0 <= d < 1)]
        if wrong_decay or not averages:
            raise UserError(f"the EMA decay must lie in [0, 1), or be a PowerLaw, got {self.ema!r}")
        if not callable(self.lr) and not is_number(self.lr):
            raise UserError(f"the learning rate is a finite number or a schedule, got {self.lr!r}")
        if not (is_number(rate := value_at(self.lr, 0)) and rate >= 0):
            raise UserError(f"the learning rate must not be negative, nor infinite, got {rate!r}")
        clip: Any = self.clip
        if clip is not None and not (isinstance(clip, Real) and float(clip) > 0):
            raise UserError(f"clip is a positive norm, or None for no clipping, got {self.clip!r}")
        optimizer: Any = self.optimizer
        if optimizer is not None and not callable(optimizer):
            kind = type(optimizer).__name__
            raise UserError(f"optimizer is a function of the parameters, lambda p: {kind}(p), not an optimiser")
        object.__setattr__(self, "samplers", _checked(self.samplers))
        self._check_parts()
        self._bind_source()

    def _check_parts(self) -> None:
        """Whether network, objective and data go together; a function as the objective becomes one."""
        from .network import check_declared, known
        from .objectives.loss_function import LossFunction

        check_declared(self.model)
        object.__setattr__(self, "objective", LossFunction.of(self.objective))
        guidance, network = self.objective.guidance, known(self.model)
        if network.takes_guidance not in (None, guidance is not None and guidance.inputs):
            raise UserError(
                "guidance as a network input needs both sides: DiT(guidance=True) and guidance=af.GuidanceInputs()"
            )
        knows, has = network.classes, self.dataset.classes
        if knows is not None and has is not None and has > knows:
            raise UserError(f"the network has {knows} classes and the data {has}; give it classes=dataset.classes")

    def _bind_source(self) -> None:
        """Samplers that draw from the source get the objective's, unless they name one."""
        from .samplers import Consistency
        from .sources import Gaussian

        bound = [
            replace(sampler, source=self.objective.source)
            if isinstance(sampler, Consistency) and sampler.source is None and self.objective.source != Gaussian()
            else sampler
            for sampler in self.samplers
        ]
        object.__setattr__(self, "samplers", tuple(bound))

    @property
    def samplers_by_nfe(self) -> dict[int, Sampler]:
        """The samplers by the number of network evaluations that a sample costs with them, fewest first."""
        return {sampler.nfe: sampler for sampler in sorted(self.samplers, key=lambda sampler: sampler.nfe)}

    @property
    def decoder(self) -> Autoencoder:
        """What turns samples into pixels: the autoencoder, or `Pixels` where there is none."""
        from .autoencoders.pixels import Pixels

        return Pixels() if self.autoencoder is None else self.autoencoder


def _checked(samplers: Any) -> tuple[Sampler, ...]:
    """A recipe's samplers, each of another number of network evaluations."""
    if isinstance(samplers, Mapping):
        listed = "".join(f"af.{sampler!r}, " for sampler in samplers.values()).strip()
        raise UserError(f"samplers are a sequence, each knows its NFE: write samplers=({listed}), not {samplers!r}")
    if not isinstance(samplers, Sequence) or isinstance(samplers, str):
        raise UserError(
            f"samplers are a sequence, for example samplers=(af.ODE(1), af.Consistency(2)), not {samplers!r}"
        )
    known: dict[int, Any] = {}
    for sampler in samplers:
        try:
            nfe = sampler.nfe
        except AttributeError as error:
            raise UserError(f"a sampler knows its number of network evaluations; {sampler!r} has no nfe") from error
        if not is_whole(nfe) or nfe < 1:
            raise UserError(f"a sampler knows its number of network evaluations, nfe >= 1; {sampler!r} has {nfe!r}")
        if nfe in known:
            raise UserError(
                f"{known[nfe]!r} and {sampler!r} both take {nfe} network evaluations; a recipe has one of each"
            )
        known[nfe] = sampler
    return tuple(samplers)
