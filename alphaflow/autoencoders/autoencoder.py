"""The protocol of autoencoders, and what is put around one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..describe import Compact


class Autoencoder(Protocol):
    """Any object that encodes pixels and decodes latents, both channels first and batched.

    Two attributes may stand beside the methods: ``posterior``, true where `encode` gives the posterior's mean and
    standard deviation, stacked on channels (b, 2c, …), instead of latents; and ``normalisation``, a pair (shift, scale)
    of numbers for each channel, or a `Normalisation`. A model is trained on (latent − shift)·scale, and `decode` takes
    that.
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


@dataclass(frozen=True, repr=False)
class Normalisation(Compact):
    """Latents to unit variance and back: (latent − shift)·scale.

    Attributes:
        shift: a number for each channel; or for each element, channel and position, of a latent (c, …), flattened.
        scale: likewise.

    Raises:
        ValueError: on use: for latents of another size.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    brief: ClassVar[tuple[str, ...]] = ("shift", "scale")

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, …) → unit variance."""
        shift, scale = self.tensors(latents)
        return (latents - shift) * scale

    def inverse(self, latents: Tensor) -> Tensor:
        """(b, c, …) → as the autoencoder knows them."""
        shift, scale = self.tensors(latents)
        return latents / scale + shift

    def tensors(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale as they broadcast over latents (b, c, …)."""
        return _broadcast(self.shift, latents), _broadcast(self.scale, latents)


def _broadcast(numbers: tuple[float, ...], latents: Tensor) -> Tensor:
    _, channels, *rest = latents.shape
    if len(numbers) not in (channels, channels * math.prod(rest)):
        raise ValueError(
            f"latents of shape {(channels, *rest)} are normalised by one number for each channel or for each element, "
            f"not by {len(numbers)}"
        )
    places = [1 for _ in rest] if len(numbers) == channels else rest
    return torch.tensor(numbers, dtype=latents.dtype, device=latents.device).view(1, channels, *places)


def per_channel(value: float | Sequence[float] | None, channels: int, otherwise: float) -> tuple[float, ...]:
    """A number for each channel; or, of a list that is some times as long, for each element."""
    if value is None:
        return (otherwise,) * channels
    if isinstance(value, int | float):
        return (float(value),) * channels
    numbers = tuple(float(number) for number in value)
    if not numbers or len(numbers) % channels:
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
        shift: what is subtracted, see `Normalisation`.
        scale: what is then multiplied with.
    """

    inner: Autoencoder
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    brief: ClassVar[tuple[str, ...]] = ("shift", "scale")

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
