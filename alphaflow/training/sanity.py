"""Data that can't be meant: said of the first batch, and where a batch goes wrong."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..network import known
from ..pixel_values import first_not_finite, is_picture_shape

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..types import Batch, Cond

SCALE = (0.05, 4.0)
"""Root mean squares of samples that pass unremarked: noise has 1."""


def not_finite(batch: Batch) -> str:
    """The first sample of a batch that is not finite, and in what; empty if all are."""
    tensors = {"x": batch.x, "std": batch.std, **batch.cond.tensors}
    for name, tensor in tensors.items():
        row = first_not_finite(tensor) if tensor is not None and tensor.is_floating_point() else None
        if row is not None:
            return f"the data are not finite: sample {row} of the batch, in its {name}"
    return ""


def check_mask(cond: Cond) -> None:
    """Whether every sample that has tokens has one that isn't masked; not asked of a GPU.

    Raises:
        ValueError: one hasn't.
    """
    mask = cond.tensors.get("mask")
    if mask is not None and mask.device.type == "cpu" and not bool(mask.any(1).all()):
        sample = int((~mask.any(1)).nonzero()[0])
        raise ValueError(
            f"all tokens of sample {sample} of the batch are masked; leave one, such as an empty sentence's"
        )


def check_conditions(recipe: Recipe, has: Collection[str]) -> None:
    """Whether the data have the conditions that the recipe's network and source take, and no others.

    Asked of a network that says which (`Network.conditions`). Labels may go unused, for folders of classes have them,
    and so may the mask that comes with all tokens.

    Args:
        recipe: recipe of the run.
        has: the names of the data's conditions.

    Raises:
        UserError: a condition is missing, or nobody takes it.
    """
    network, source, name = known(recipe.model), recipe.objective.source, type(recipe.model).__name__
    data = f"the data ({recipe.dataset.kind_name})"
    missing = sorted(set(source.conditions) - set(has))
    if missing:
        raise UserError(
            f"{source!r} starts from the condition `{missing[0]}`, which {data} lack: add it, or take another source"
        )
    if network.conditions is None:
        return
    takes = set(network.conditions)
    extra = sorted(set(has) - takes - set(source.conditions) - {"labels", "mask"})
    if extra:
        listed = ", ".join(network.conditions) or "none"
        raise UserError(
            f"{data} have the condition `{extra[0]}`, which {name} doesn't take: it takes {listed}; "
            f"give the network {extra[0]}=…, or data without it"
        )
    missing = sorted(takes - {"guidance", "mask"} - set(has))
    if missing:
        raise UserError(
            f"{name} takes the condition `{missing[0]}`, which {data} lack: add it, or make the network without"
        )


def remarks(recipe: Recipe, batch: Batch, processes: int = 1) -> list[str]:
    """What of a recipe's data is allowed, but hardly meant; a line each.

    Args:
        recipe: recipe of the run.
        batch: its first one, or this process's part of it.
        processes: number of processes that share a batch.
    """
    found = []
    takes = known(recipe.model).conditions
    if takes is not None and "labels" in batch.cond.tensors and "labels" not in takes:
        found.append("the data have labels, and the network takes none: it is trained without classes")
    x = batch.x.float()
    size = len(batch.x) * processes
    indexed = recipe.dataset.indexed
    if indexed is not None and len(indexed) < size:
        found.append(f"the data set holds {len(indexed)} samples, and a batch {size}: a step sees them several times")
    elif len(x) > 1 and bool((x == x[:1]).all()):
        found.append("all samples of the first batch are equal")
    low, high = float(x.min()), float(x.max())
    rms = float(x.square().mean().sqrt())
    shape = recipe.dataset.shape
    pixels = recipe.decoder.plain and is_picture_shape(shape)
    if pixels and (low >= 0 or max(-low, high) > 1.01):
        found.append(
            f"the first batch's values lie in [{low:.3g}, {high:.3g}]; without an autoencoder, samples are taken for "
            "pixels in [-1, 1]"
        )
    elif not SCALE[0] <= rms <= SCALE[1] and torch.isfinite(x).all():
        found.append(
            f"the root mean square of the first batch is {rms:.3g}, of the noise 1: check that this scale is intended"
        )
    return found
