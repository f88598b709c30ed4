"""What an autoencoder is, how its latents are normalised, and what is put around one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data.decoding.sizes import Size
from ..describe import Compact
from ..errors import UserError


class Autoencoder(ABC):
    """What encodes pixels and decodes latents, both channels first and batched. Your own derives from it.

    ``posterior`` and ``normalisation`` may be set as attributes, of the class or of the object, where they aren't as
    here.

    Attributes:
        plain: whether latents are pixels already, so that they can be looked at as they are.
    """

    plain: ClassVar[bool] = False

    @cached_property
    def posterior(self) -> bool:
        """Whether `encode` gives a posterior's mean and standard deviation, stacked on channels, instead of latents."""
        return False

    @cached_property
    def normalisation(self) -> Normalisation | None:
        """What `decode` undoes: a model is trained on (latent − shift)·scale.

        None where `decode` takes latents as `encode` gives them; encoding a data set then measures both.
        """
        return None

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] (b, 3, …) → latents (b, c, …), or a posterior's moments (b, 2c, …); not normalised."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (b, c, …) → pixels in [-1, 1]."""

    @abstractmethod
    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        """The latents' shape for square pixels of this size, or (h, w): (c, h, w), or (c, f, h, w) for videos."""

    def on(self, device: torch.device) -> Autoencoder:
        """The autoencoder for tensors of this device; it is moved there if it is a ``torch.nn.Module``."""
        return self.to(device) if isinstance(self, nn.Module) else self

    def networks(self) -> list[nn.Module]:
        """What holds its weights, by which shards know it again: itself, or the modules among its attributes."""
        held = [self] if isinstance(self, nn.Module) else list(vars(self).values())
        return list({id(each): each for each in held if isinstance(each, nn.Module)}.values())

    def measured(self, normalisation: Normalisation) -> Autoencoder:
        """The same with another normalisation: what was measured on its latents."""
        return Normalised(self, normalisation.shift, normalisation.scale)

    @staticmethod
    def of(given: object) -> Autoencoder:
        """What was given as an autoencoder.

        Raises:
            UserError: it doesn't derive from this class.
        """
        if not isinstance(given, Autoencoder):
            kind = type(given).__name__
            raise UserError(f"an autoencoder is an object of a class that derives from af.Autoencoder, not a {kind}")
        return given


@dataclass(frozen=True, repr=False)
class Normalisation(Compact):
    """Latents to unit variance and back: (latent − shift)·scale.

    Attributes:
        shift: a number for each channel; or for each element, channel and position, of a latent (c, …), flattened.
        scale: scale of the latents, in the same form.

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


def per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """A number for each channel; or, of a list that is some times as long, for each element.

    Raises:
        ValueError: the list's length is not a multiple of the channels' number.
    """
    if isinstance(value, int | float):
        return (float(value),) * channels
    numbers = tuple(float(number) for number in value)
    if not numbers or len(numbers) % channels:
        raise ValueError(f"{len(numbers)} numbers for {channels} channels")
    return numbers


@dataclass(frozen=True, repr=False)
class Normalised(Compact, Autoencoder):
    """An autoencoder with a shift and a scale of its latents put around it, in place of its own if it has one.

    Args:
        inner: the autoencoder.
        shift: what is subtracted, see `Normalisation`.
        scale: what is then multiplied with.

    Raises:
        UserError: ``inner`` is no `Autoencoder`.
    """

    inner: Autoencoder
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    brief: ClassVar[tuple[str, ...]] = ("shift", "scale")

    def __post_init__(self) -> None:
        Autoencoder.of(self.inner)

    @cached_property
    def posterior(self) -> bool:
        """Whether ``encode`` gives moments."""
        return self.inner.posterior

    @cached_property
    def normalisation(self) -> Normalisation:
        """The shift and the scale."""
        return Normalisation(self.shift, self.scale)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encodes as the inner autoencoder does."""
        return self.inner.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, …), normalised by this shift and scale → pixels in [-1, 1]."""
        found, own = self.normalisation.inverse(latents), self.inner.normalisation
        return self.inner.decode(found if own is None else own.forward(found))

    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        """Shape of the latents, as the inner autoencoder gives it."""
        return self.inner.latent_shape(size, frames)

    def on(self, device: torch.device) -> Autoencoder:
        """The same around the inner autoencoder on this device."""
        return replace(self, inner=self.inner.on(device))

    def measured(self, normalisation: Normalisation) -> Autoencoder:
        """The same with this shift and scale."""
        return replace(self, shift=normalisation.shift, scale=normalisation.scale)
