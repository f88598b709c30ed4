"""Sample pictures while training."""

from __future__ import annotations

import torch
from torch import nn

from ..media.previews import Picture
from ..recipe import Recipe
from ..runs.labels import balanced_labels
from ..runs.pipeline import InTraining

GRID_SEED = 2**31 - 1
"""Seed of the noise behind sample pictures: the same at every step, apart from training's own randomness."""


def sample_picture(recipe: Recipe, model: nn.Module, device: torch.device) -> Picture | None:
    """One batch of samples by the recipe's cheapest sampler; None for data that are neither images nor clips.

    Of images eight for each class, a column a class; of clips one each; of 16 classes at most.
    """
    if not recipe.samplers or len(recipe.dataset.shape) not in (3, 4):
        return None
    pipeline = InTraining(recipe, model, device)
    if not pipeline.drawable:
        return None
    columns = min(pipeline.sampled_classes or 8, 16)
    count = columns * (8 if len(pipeline.shape) == 3 else 1)
    labels = balanced_labels(count, columns) if pipeline.sampled_classes else None
    pixels = pipeline.maker(min(pipeline.samplers), seed=GRID_SEED)(0, count, labels)
    return Picture(pixels, columns, pipeline.fps) if pixels.shape[1] in (1, 3) else None
