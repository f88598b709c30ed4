"""What a run will cost: its phases, operations, memory, time. Counted on the network itself, not from a formula."""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .objectives.loss_function import LossFunction
from .training.flops import count_flops
from .training.trainer import Trainer
from .types import Batch

if TYPE_CHECKING:
    from .recipe import Recipe


def first_samples(recipe: Recipe, count: int) -> Batch:
    """The first samples of the recipe's data, on the CPU; the dataset moves on."""
    return next(iter(recipe.dataset))[slice(0, count)].drawn(torch.Generator().manual_seed(0))


SAMPLED = 1000
"""Steps of a run that are looked at to find its phases."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which a step costs the same.

    Attributes:
        name: what the objective does.
        step: a step inside it.
        steps: how many steps it has.
        flops: floating-point operations of a step's forward and backward passes, for one sample.
    """

    name: str
    step: int
    steps: int
    flops: float


def phases(recipe: Recipe, batch: int = 8) -> list[Phase]:
    """The phases of a recipe's training, found by the values of its schedules, and what a sample costs in each.

    Args:
        recipe: its networks, the objective's too, are not changed.
        batch: samples that are worked on to count.
    """
    found: dict[str, int] = {}
    count: Counter[str] = Counter()
    for step in range(0, recipe.steps, max(recipe.steps // SAMPLED, 1)):
        name = _kind(recipe.objective.scalars(step))
        found.setdefault(name, step)
        count[name] += 1
    model, objective = _copied(recipe, torch.device("cpu"))
    data = first_samples(recipe, batch)

    def work(step: int) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.autograd.backward(objective(model, data.x, data.cond, step, generator, ema=model).total)

    return [
        Phase(
            name,
            step,
            round(recipe.steps * count[name] / count.total()),
            count_flops(partial(work, step)) / len(data.x),
        )
        for name, step in found.items()
    ]


def _copied(recipe: Recipe, device: torch.device) -> tuple[nn.Module, LossFunction]:
    """Copies of the network and of the objective, all that they hold on one device: the recipe's may be on another."""
    model, objective = copy.deepcopy(recipe.model).to(device), copy.deepcopy(recipe.objective)
    objective.prepare(device)
    return model, objective


def _kind(scalars: dict[str, float]) -> str:
    alpha, share = scalars.get("alpha"), scalars.get("fm_share")
    if share == 1 or alpha == 1:
        return "flow matching" + (" (α = 1)" if alpha == 1 else "")
    if alpha is None:
        return "training"
    return "two-point (0 < α < 1)" if alpha > 0 else "JVP (α = 0)"


def activation_bytes(recipe: Recipe, step: int, batch: int) -> int:
    """Bytes that the forward pass of a step keeps for its backward pass, each storage once, parameters apart."""
    model, objective = _copied(recipe, torch.device("cpu"))
    data = first_samples(recipe, batch)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor._is_zerotensor():  # forward-mode differentiation has some, without memory
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(model, data.x, data.cond, step, torch.Generator().manual_seed(0), ema=model)
    del loss
    return sum(kept.values())


def seconds_a_step(recipe: Recipe, step: int, device: torch.device, count: int) -> float:
    """The median time of optimiser steps at this step of training, on the device; the recipe's networks stay.

    Args:
        recipe: recipe to time, at its own batch size.
        step: step at which its schedules are evaluated.
        device: device to run on.
        count: steps to time, after one to warm up.
    """
    model, objective = _copied(recipe, device)
    trainer = Trainer(replace(recipe, model=model, objective=objective), device=device, display=None)
    trainer.model.train()
    times = []
    with trainer.feed:
        for _ in range(count + 1):
            trainer.step = step
            before = time.perf_counter()
            trainer.train_step()
            times.append(time.perf_counter() - before)
    return statistics.median(times[1:])
