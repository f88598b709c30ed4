"""Sample pictures while training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..autoencoders.pixels import Pixels
from ..data.base import to_bytes
from ..data.labels import balanced_labels
from ..plots import grid, save_picture
from ..types import Cond
from .device import autoencoder_on

if TYPE_CHECKING:
    from ..recipe import Recipe

GRID_SEED = 2**31 - 1
"""Of the noise behind sample pictures: the same at every step, apart from training's own randomness."""


@dataclass(frozen=True)
class Picture:
    """A grid of samples.

    Attributes:
        pixels: (n, c, h, w), 8-bit.
        columns: of the grid.
    """

    pixels: Tensor
    columns: int

    def save(self, file: Path) -> None:
        """Writes it as PNG."""
        save_picture(grid(self.pixels, self.columns), file)


def sample_picture(recipe: Recipe, model: nn.Module, device: torch.device) -> Picture | None:
    """One batch of samples by the recipe's cheapest sampler, a column a class; None for data that are no pictures."""
    if not recipe.samplers or len(recipe.dataset.shape) != 3:
        return None
    classes = recipe.dataset.classes
    columns = min(classes or 8, 16)
    labels = balanced_labels(columns * 8, columns) if classes else None
    noise = torch.randn(columns * 8, *recipe.dataset.shape, generator=torch.Generator().manual_seed(GRID_SEED))
    cond = Cond() if labels is None else Cond(labels=labels)
    sampler = recipe.samplers[min(recipe.samplers)]
    x = sampler(model, noise.to(device), cond.to(device), torch.Generator(device).manual_seed(GRID_SEED))
    pixels = autoencoder_on(recipe.autoencoder or Pixels(), device).decode(x)
    if pixels.shape[1] not in (1, 3):  # latents without an autoencoder: nothing to see
        return None
    return Picture(to_bytes(pixels).cpu(), columns)
