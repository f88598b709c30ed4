"""What a training run consists of. This module doesn't import torch: help pages stay quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from .errors import UserError, is_number, is_whole
from .schedules import value_at

if TYPE_CHECKING:
    import torch

    from .autoencoders.autoencoder import Autoencoder
    from .averages import Average
    from .data.dataset import Dataset
    from .objectives.objective import Objective
    from .samplers import Sampler
    from .schedules import Scheduled


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training run consists of.

    Args:
        model: the network u(z, r, t, cond), a ``torch.nn.Module``.
        objective: what it is trained for.
        dataset: what it is trained on, a `Dataset` or what `Dataset.of` takes for one.
        steps: optimiser steps.
        samplers: how to sample, by number of network evaluations: ``{1: ODE(1), 2: Consistency(2)}``.
        autoencoder: turns samples into pixels, an `Autoencoder`; None where samples are pixels in [-1, 1].
        lr: learning rate, a number or a schedule.
        betas, weight_decay: of Adam (AdamW where weight_decay > 0).
        optimizer: makes another optimiser from the parameters, in place of Adam; ``lr`` still sets its rate.
        ema: the decay of the weights' average, or a `PowerLaw`; or several of them, the first of which is sampled with.
        clip: the gradient's norm is clipped to this; None for no clipping.
        precision: ``"fp32"``, or ``"bf16"``: autocast, with weights, gradients and optimiser in fp32. As with ``tf32``,
            `Setup` (``--precision``) may say otherwise.
        tf32: whether products of fp32 matrices run in TF32 on a GPU; None for as PyTorch is set.
    """

    model: torch.nn.Module
    objective: Objective
    dataset: Dataset
    steps: int
    samplers: Mapping[int, Sampler]
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
        wrong_decay = [d for d in averages if not hasattr(d, "decay") and not (is_number(d) and 0 <= d < 1)]
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
        samplers: Any = self.samplers
        if not isinstance(samplers, Mapping):
            raise UserError(f"samplers are given by their evaluations, {{1: ODE(1)}}, not as {self.samplers!r}")
        trained = getattr(getattr(self.objective, "guidance", None), "inputs", False)
        taken = getattr(self.model, "takes_guidance", None)  # a network of the user's own need not say
        if taken is not None and bool(taken) != trained:
            raise UserError(
                "guidance as a network input needs both sides: DiT(guidance=True) and guidance=af.GuidanceInputs()"
            )
        knows, has = getattr(self.model, "config", {}).get("classes"), self.dataset.classes
        if knows is not None and has is not None and has > knows:
            raise UserError(f"the network has {knows} classes and the data {has}; give it classes=dataset.classes")
        wrong = [(nfe, sampler.nfe) for nfe, sampler in self.samplers.items() if sampler.nfe != nfe]
        if wrong:
            raise UserError(f"the sampler listed for {wrong[0][0]} evaluations takes {wrong[0][1]}; list it under that")

    @property
    def decoder(self) -> Autoencoder:
        """What turns samples into pixels: the autoencoder, or `Pixels` where there is none."""
        from .autoencoders.pixels import Pixels

        return Pixels() if self.autoencoder is None else self.autoencoder
