"""Sample pictures while training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.dataset import describe_data
from ..media.previews import Picture
from ..pixel_values import to_bytes
from ..runs.labels import balanced_labels
from ..types import Cond

if TYPE_CHECKING:
    from ..recipe import Recipe

GRID_SEED = 2**31 - 1
"""Of the noise behind sample pictures: the same at every step, apart from training's own randomness."""


def sample_picture(recipe: Recipe, model: nn.Module, device: torch.device) -> Picture | None:
    """One batch of samples by the recipe's cheapest sampler; None for data that are neither images nor clips.

    Of images eight for each class, a column a class; of clips one each; of 16 classes at most.
    """
    if not recipe.samplers or len(recipe.dataset.shape) not in (3, 4):
        return None
    data = describe_data(recipe.dataset)
    classes = data["sampled_classes"]
    columns = min(classes or 8, 16)
    count = columns * (8 if len(recipe.dataset.shape) == 3 else 1)
    labels = balanced_labels(count, columns) if classes else None
    noise = torch.randn(count, *recipe.dataset.shape, generator=torch.Generator().manual_seed(GRID_SEED))
    cond = Cond() if labels is None else Cond(labels=labels)
    sampler = recipe.samplers[min(recipe.samplers)]
    x = sampler(model, noise.to(device), cond.to(device), torch.Generator(device).manual_seed(GRID_SEED))
    pixels = recipe.decoder.on(device).decode(x)
    if pixels.shape[1] not in (1, 3):  # latents without an autoencoder: nothing to see
        return None
    return Picture(to_bytes(pixels).cpu(), columns, data["fps"])
