"""Training on pixels themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..data.decoding.sizes import Size, sides
from ..describe import Compact
from .autoencoder import Autoencoder


@dataclass(frozen=True, repr=False)
class Pixels(Compact, Autoencoder):
    """No autoencoder: latents are pixels.

    Args:
        channels: 3 for colour, 1 for greyscale, to which colours are turned; 4 with transparency, or more of other
            data, which stay as they are.
    """

    channels: int = 3
    plain: ClassVar[bool] = True

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], unchanged; of one channel, colours' luma (ITU-R BT.601) (b, 3, …) → (b, 1, …)."""
        if self.channels != 1 or pixels.shape[1] == 1:
            return pixels
        red, green, blue = torch.split(pixels, 1, dim=1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def decode(self, latents: Tensor) -> Tensor:
        """The latents clipped to [-1, 1]."""
        return latents.clamp(-1, 1)

    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        """(channels, h, w), or (channels, frames, h, w)."""
        return (self.channels, *sides(size)) if frames is None else (self.channels, frames, *sides(size))
