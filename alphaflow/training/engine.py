"""A step's work: the loss, its gradient, the update. What the Trainer steers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..averages import average_name
from ..describe import Compact
from ..errors import UserError
from ..measurement import GradientMeasurement
from ..network import known
from ..objectives.objective import Objective
from ..parallel.device import fp32_products
from ..parallel.pieces import finite, scale, total_norm
from ..parallel.shared import Parallel, Shared
from ..parallel.world import World, average_gradients
from ..recipe import Recipe
from ..schedules import value_at
from ..types import Batch, Loss
from .ema import EMA
from .flops import example, forward_flops


@dataclass(frozen=True, kw_only=True, repr=False)
class MachineSetup(Compact):
    """How a recipe is run on a machine. It changes speed and memory; what is trained stays the same, but for rounding.

    Args:
        precision: ``"fp32"``, or ``"bf16"``: autocast, with weights, gradients and optimiser in fp32; None for the
            recipe's.
        tf32: whether products of fp32 matrices run in TF32 on a GPU; None for the recipe's.
        accumulate: a batch is worked on in so many parts, one after another; their gradients add up.
        recompute: keep less of the forward pass and compute it again in the backward pass (activation checkpointing),
            for networks with an attribute ``recompute``, as `DiT`.
        compile: compile the network with ``torch.compile``.
        parallel: among several processes, ``"ddp"`` keeps the network whole on each; ``"fsdp"`` splits weights,
            gradients and optimiser state among all; ``"hybrid"`` among the processes of each machine.
    """

    precision: Literal["fp32", "bf16"] | None = None
    tf32: bool | None = None
    accumulate: int = 1
    recompute: bool = False
    compile: bool = False
    parallel: Parallel = "ddp"

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", None):
            raise UserError(f"the precision is fp32 or bf16, got {self.precision!r}")
        if self.parallel not in ("ddp", "fsdp", "hybrid"):
            raise UserError(f"parallel is ddp, fsdp or hybrid, got {self.parallel!r}")
        if self.accumulate < 1:
            raise UserError(f"accumulate must be at least 1, got {self.accumulate}")

    def of(self, recipe: Recipe) -> MachineSetup:
        """The same setup, with the recipe's own where it leaves something open."""
        tf32 = recipe.tf32 if self.tf32 is None else self.tf32
        return replace(self, precision=self.precision or recipe.precision, tf32=tf32)


class Engine:
    """The network, its averages and the optimiser, on this process's device.

    Args:
        recipe: what to train; its network is on the device already.
        setup: how.
        device: device to run on.
        world: the processes that share the work.

    Attributes:
        model: the network.
        averages: its moving averages, by name; ``ema`` is the first.
        network: the objective's own, or None.
        optimizer: optimiser of both networks.
    """

    def __init__(self, recipe: Recipe, setup: MachineSetup, device: torch.device, world: World) -> None:
        self.recipe = recipe
        self.setup = setup.of(recipe)
        self.device = device
        self.world = world
        self.model = recipe.model
        decays = recipe.ema if isinstance(recipe.ema, tuple) else (recipe.ema,)
        self.averages = {average_name(decay, first=not i): EMA(self.model, decay) for i, decay in enumerate(decays)}
        recipe.objective.prepare(device)
        self.network = recipe.objective.network
        if setup.recompute:
            network = known(self.model)
            if network.recompute is None:
                raise UserError(f"{type(self.model).__name__} has no attribute `recompute`: it can't recompute")
            network.recompute = True
        if self.setup.parallel != "ddp":
            _ = self.flops  # counted while this process has the whole network
        self._shared = Shared(self.model, world, device, self.setup.parallel, self._has_unused)
        for average in self.averages.values():
            self._shared.beside(average.model)
            average.follow(self.model)
        if setup.compile:
            self.model.compile()
        self.optimizer = _optimizer(recipe, [list(network.parameters()) for network in self.networks.values()])

    @cached_property
    def flops(self) -> float | None:
        """Operations of a forward pass of one sample, or None."""
        return forward_flops(self.recipe, self.device)

    @property
    def ema(self) -> EMA:
        """The average that samples are drawn with."""
        return next(iter(self.averages.values()))

    @property
    def split(self) -> bool:
        """Whether all processes must take part whenever the network, or an average, is called."""
        return self._shared.split

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is trained: the model, and the objective's own network if there is one."""
        return {"model": self.model} if self.network is None else {"model": self.model, "objective": self.network}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, each once, with its name: the model's, then the objective's own."""
        for prefix, network in self.networks.items():
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    yield (name if prefix == "model" else f"{prefix}.{name}"), parameter

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for _, parameter in self.named_parameters()]

    def gradient(self, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """The loss of this process's part of a batch; the gradient of the whole batch is left in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        with fp32_products(self.device, self.setup.tf32):
            return self._gradient(batch, step, generator)

    def _gradient(self, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        objective, b = self.recipe.objective, len(batch.x)
        parts, start = batch.split(-(-b // self.setup.accumulate)), self.world.rank * b
        losses = []
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._shared.adding_up():
                with self._precision():
                    more: dict[str, Any] = {"ema": self.ema.model, "start": start}
                    loss = objective(self._shared.called, part.x, part.cond, step, generator, **more)
                start += len(part.x)
                share = len(part.x) / b
                torch.autograd.backward(loss.total if len(parts) == 1 else loss.total * share)
            losses.append(loss)
        if self.network is not None:
            average_gradients([p for p in self.network.parameters() if p.requires_grad], self.world)
        return losses[0] if len(losses) == 1 else _joined(losses)

    def norm(self) -> Tensor:
        """The norm of the gradient, all parameters together; a scalar."""
        return total_norm([parameter.grad for parameter in self.parameters() if parameter.grad is not None])

    def update(self, step: int, norm: Tensor) -> None:
        """Clips the gradient, takes the optimiser's step, and takes the weights into the averages."""
        clip = self.recipe.clip
        if clip is not None:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)
            scale([p.grad for p in self.parameters() if p.grad is not None], factor)
        for group in self.optimizer.param_groups:
            group["lr"] = value_at(self.recipe.lr, step)
        self.optimizer.step()
        for average in self.averages.values():
            average.update()

    def remarks(self) -> list[str]:
        """What isn't compiled although that was asked for."""
        objective, last = self.recipe.objective, self.recipe.steps - 1
        taken = objective.takes_derivative(0) or objective.takes_derivative(last)
        way = objective.derivative_by(self.model)
        if not (self.setup.compile and taken and way == "torch.func.jvp"):
            return []
        return [
            f"the derivative of {type(self.model).__name__} is taken by {way} as written, uncompiled; what it predicts "
            'is compiled; with derivative="difference" in the objective both are'
        ]

    def check_probe(self) -> None:
        """Raises a UserError if gradients can't be measured in training: `GradientProbe`."""
        if not isinstance(self.recipe.objective, Objective):
            raise UserError(f"only an af.Objective can be probed, not {type(self.recipe.objective).__name__}")
        if self.split:
            raise UserError("a network that is split among processes can't be probed; leave out the probe")

    def probed(self, probe: GradientMeasurement | None, batch: Batch | None, step: int) -> dict[str, float]:
        """What a probe measures on a batch, after `check_probe`."""
        assert probe is not None
        assert batch is not None
        assert isinstance(self.recipe.objective, Objective)
        return probe(self.model, self.recipe.objective, batch, step)

    def broken(self) -> str:
        """The first weight, of a network or an average, that is not finite; empty if all are."""
        named = [*self.named_parameters()]
        named += [pair for average in self.averages.values() for pair in average.model.named_parameters()]
        whole = [finite(weight) for _, weight in named]
        (wrong,) = self.world.mean([float(not all(whole))])
        if not wrong:
            return ""
        return next((name for (name, _), fine in zip(named, whole, strict=True) if not fine), "of another process")

    def _has_unused(self) -> bool:
        """Whether the objective may leave parameters without a gradient, by trying it on two samples of each kind.

        Of an objective that isn't alphaflow's own anything is expected, and of a network that doesn't say.
        """
        if not isinstance(self.recipe.objective, Objective) or not known(self.model).static_graph:
            return True
        dtype = next(self.model.parameters()).dtype
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for shape in self.recipe.dataset.shapes:
            x, cond = example(self.recipe, shape, 2, self.device)
            generator = torch.Generator(self.device).manual_seed(0)
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self._precision():
                loss = self.recipe.objective(self.model, x.to(dtype), cond, 0, generator, ema=self.ema.model)
            gradients = torch.autograd.grad(loss.total, trained, allow_unused=True)
            if any(gradient is None for gradient in gradients):
                return True
        return False

    def _precision(self) -> Any:
        if self.setup.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _joined(losses: list[Loss]) -> Loss:
    """The loss of a batch from those of its parts."""
    per_sample = torch.cat([loss.per_sample for loss in losses])
    terms = {name: torch.cat([loss.terms[name] for loss in losses]) for name in losses[0].terms}
    return Loss(per_sample.mean(), per_sample, terms)


def _optimizer(recipe: Recipe, networks: list[list[nn.Parameter]]) -> torch.optim.Optimizer:
    """The recipe's, or Adam with a group for each network: split and whole parameters don't go into one."""
    groups = [[parameter for parameter in network if parameter.requires_grad] for network in networks]
    parameters = [parameter for group in groups for parameter in group]
    if not groups[0]:
        raise UserError("the network has no weight to train: an opened run's are frozen; give that run as `start=`")
    if recipe.optimizer is not None:
        return recipe.optimizer(parameters)
    adam = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    options: dict[str, Any] = {"betas": recipe.betas, "weight_decay": recipe.weight_decay, "fused": True}
    return adam([{"params": group} for group in groups if group], lr=value_at(recipe.lr, 0), **options)
