"""The protocol of autoencoders, and what is put around one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..printing import Compact


class Autoencoder(Protocol):
    """Any object that encodes pixels and decodes latents, both channels first and batched.

    Two attributes may stand beside the methods: ``posterior``, true where `encode` gives the posterior's mean and
    standard deviation, stacked on channels (b, 2c, …), instead of latents; and ``normalisation``, a pair (shift, scale)
    of numbers for each channel. A model is trained on (latent − shift)·scale, and `decode` takes that.
    """

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] (b, 3, …) → latents, or the posterior's moments, (b, c, …), not normalised."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (b, c, …) → pixels in [-1, 1]."""
        ...

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        """The latents' shape for square pixels of this size: (c, h, w), or (c, f, h, w) for videos."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """Latents to unit variance and back: (latent − shift)·scale.

    Attributes:
        shift: for each channel.
        scale: for each channel.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, …) → unit variance."""
        shift, scale = self._like(latents)
        return (latents - shift) * scale

    def inverse(self, latents: Tensor) -> Tensor:
        """(b, c, …) → as the autoencoder knows them."""
        shift, scale = self._like(latents)
        return latents / scale + shift

    def _like(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        view = (1, -1, *(1,) * (latents.ndim - 2))
        shift, scale = (torch.tensor(v, dtype=latents.dtype, device=latents.device) for v in (self.shift, self.scale))
        return shift.view(view), scale.view(view)


def per_channel(value: float | Sequence[float] | None, channels: int, otherwise: float) -> tuple[float, ...]:
    """One number for each channel."""
    if value is None:
        return (otherwise,) * channels
    if isinstance(value, int | float):
        return (float(value),) * channels
    numbers = tuple(float(number) for number in value)
    if len(numbers) != channels:
        raise ValueError(f"{len(numbers)} numbers for {channels} channels")
    return numbers


def has_posterior(autoencoder: Autoencoder) -> bool:
    """Whether ``encode`` gives moments."""
    return bool(getattr(autoencoder, "posterior", False))


@dataclass(frozen=True, repr=False)
class Normalised(Compact):
    """An autoencoder with a shift and a scale put around it, for one that has none of its own.

    Args:
        inner: the autoencoder; its `decode` takes latents as its `encode` gives them.
        shift: subtracted from each channel.
        scale: then multiplied with it.
    """

    inner: Autoencoder
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def posterior(self) -> bool:
        """Whether ``encode`` gives moments."""
        return has_posterior(self.inner)

    @property
    def normalisation(self) -> Normalisation:
        """The shift and the scale."""
        return Normalisation(self.shift, self.scale)

    def encode(self, pixels: Tensor) -> Tensor:
        """As the inner autoencoder does."""
        return self.inner.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → pixels in [-1, 1]."""
        return self.inner.decode(self.normalisation.inverse(latents))

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        """As the inner autoencoder has it."""
        return self.inner.latent_shape(size, frames)
