"""Sample pictures while training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..autoencoders.pixels import Pixels
from ..data.base import describe_data, to_bytes
from ..data.clips import FPS, contact_sheet, side_by_side, write_mp4
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
    """Samples to look at.

    Attributes:
        pixels: (n, c, h, w), or clips (n, c, f, h, w), 8-bit.
        columns: of a grid of images.
        fps: of clips.
    """

    pixels: Tensor
    columns: int
    fps: float = FPS

    def save(self, file: Path) -> None:
        """Writes a grid as PNG; of clips rows of frames, and beside it an MP4 in which they play at once."""
        if self.pixels.ndim == 4:
            save_picture(grid(self.pixels, self.columns), file)
            return
        save_picture(contact_sheet(self.pixels), file)
        write_mp4(side_by_side(self.pixels), file.with_suffix(".mp4"), self.fps)

    @property
    def images(self) -> Tensor:
        """The images one by one, or the clips as rows of frames in a single one: (n, c, h, w), 8-bit."""
        if self.pixels.ndim == 4:
            return self.pixels
        return torch.from_numpy(np.array(contact_sheet(self.pixels).convert("RGB"))).permute(2, 0, 1)[None]


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
    pixels = autoencoder_on(recipe.autoencoder or Pixels(), device).decode(x)
    if pixels.shape[1] not in (1, 3):  # latents without an autoencoder: nothing to see
        return None
    return Picture(to_bytes(pixels).cpu(), columns, data["fps"] or FPS)
