"""The protocol of autoencoders."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Autoencoder(Protocol):
    """Any object that encodes pixels and decodes latents, both channels first and batched."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] (b, 3, …) → latents, or the posterior's moments, (b, c, …)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, …) → pixels in [-1, 1]."""
        ...

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        """The latents' shape for square pixels of this size: (c, h, w), or (c, f, h, w) for videos."""
        ...
