"""Gradient conflict: the angle between the gradients of the parts of MeanFlow's loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..objectives.objective import Objective
from ..types import Batch
from .decomposition import TimeBins, decompose

LOSSES = ("tfm", "tc", "fm")

PAIRS = tuple(itertools.combinations(LOSSES, 2))


@dataclass(frozen=True)
class GradientConflict:
    """How the gradients of L_TFM, L_TC and L_FM′ (see `LossTerms`) relate, at one point of training.

    Attributes:
        cosine: ``"tfm_tc"``, ``"tfm_fm"``, ``"tc_fm"`` ↦ cosine of the gradients averaged over all batches. NaN where
            one of them is zero.
        batch_cosine: the same, of single batches' gradients, averaged: what one training step of that size sees.
        norm: loss ↦ norm of its averaged gradient; ``"meanflow"`` is that of ∇L_TFM + ∇L_TC.
        variance: loss ↦ trace of the covariance of a single sample's gradient, estimated from the spread between
            batches. Empty for a single batch.
        loss: loss ↦ value.
        groups: layer group ↦ its own cosines and norms (``"norm_tfm"``, …).
        bins: loss by (r, t): rows r, columns t, on an even grid; None where there was no sample.
        samples: how many samples were measured.
    """

    cosine: dict[str, float]
    batch_cosine: dict[str, float]
    norm: dict[str, float]
    variance: dict[str, float]
    loss: dict[str, float]
    groups: dict[str, dict[str, float]] = field(repr=False)
    bins: dict[str, list[list[float | None]]] = field(repr=False)
    samples: int = 0


def measure_conflict(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    step: int = 0,
    generator: torch.Generator | None = None,
    bins: int = 10,
) -> GradientConflict:
    """Measures gradient conflict on some batches. Leaves the network as it was, its ``grad`` included.

    The gradients are exact, of each loss's mean over a batch. The network is in evaluation mode meanwhile.

    Args:
        model: the network.
        objective: gives times, guidance and teacher.
        batches: batches of one size, on the model's device.
        step: the training step, for schedules.
        generator: generator for times, noise, and dropped labels.
        bins: number of bins of the loss by (r, t), along each axis.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights, groups = list(trained.values()), [layer_group(name) for name in trained]
    mean = {name: [torch.zeros_like(weight) for weight in weights] for name in LOSSES}
    loss = dict.fromkeys((*LOSSES, "meanflow"), 0.0)
    time_bins = TimeBins(bins)
    n = len(batches)
    each = []
    with _eval_mode(model):
        for batch in batches:
            parts = decompose(model, objective, batch, step, generator)
            gradients = {name: _gradient(getattr(parts, name), weights) for name in LOSSES}
            each.append(_dots(gradients, groups)["all"])
            for name in LOSSES:
                torch._foreach_add_(mean[name], gradients[name], alpha=1 / n)
            for name in loss:
                loss[name] += float(getattr(parts, name).detach().mean()) / n
            time_bins.add(parts.r, parts.t, tfm=parts.tfm, tc=parts.tc, meanflow=parts.meanflow)
    by_group, size = _dots(mean, groups), len(batches[0].x)
    whole = by_group.pop("all")
    spread = {name: sum(dots[name, name] for dots in each) - n * whole[name, name] for name in LOSSES}
    return GradientConflict(
        cosine=_cosines(whole),
        batch_cosine={f"{a}_{b}": sum(_cosine(dots, a, b) for dots in each) / n for a, b in PAIRS},
        norm={**{name: math.sqrt(whole[name, name]) for name in LOSSES}, "meanflow": _sum_norm(whole)},
        variance={name: size * value / (n - 1) for name, value in spread.items()} if n > 1 else {},
        loss=loss,
        groups={group: {**_cosines(own), **_norms(own)} for group, own in by_group.items()},
        bins={"samples": time_bins.samples.tolist(), **time_bins.means()},
        samples=n * size,
    )


def layer_group(name: str) -> str:
    """The layer that a parameter belongs to: ``blocks.3`` for ``blocks.3.mlp.out.weight``, else its first name."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdecimal() else first


def _gradient(loss: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss.mean(), weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


Dots = dict[tuple[str, str], float]


def _dots(gradients: Mapping[str, list[Tensor]], groups: list[str]) -> dict[str, Dots]:
    """Inner products of every two gradients, by layer group and over ``"all"``."""
    found: dict[str, Dots] = {"all": {}, **{group: {} for group in groups}}
    for a, b in itertools.combinations_with_replacement(LOSSES, 2):
        products = torch.stack([(x * y).sum() for x, y in zip(gradients[a], gradients[b], strict=True)]).cpu().double()
        for group, product in [*zip(groups, products.tolist(), strict=True), ("all", float(products.sum()))]:
            found[group][a, b] = found[group].get((a, b), 0.0) + product
    return found


def _cosine(dots: Dots, a: str, b: str) -> float:
    scale = math.sqrt(dots[a, a]) * math.sqrt(dots[b, b])
    return dots[a, b] / scale if scale else math.nan


def _cosines(dots: Dots) -> dict[str, float]:
    return {f"{a}_{b}": _cosine(dots, a, b) for a, b in PAIRS}


def _norms(dots: Dots) -> dict[str, float]:
    return {f"norm_{name}": math.sqrt(dots[name, name]) for name in LOSSES}


def _sum_norm(dots: Dots) -> float:
    return math.sqrt(max(dots["tfm", "tfm"] + dots["tc", "tc"] + 2 * dots["tfm", "tc"], 0.0))


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, before in training.items():
            module.training = before
