"""Samples, part by part."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..guidance import CFG
from ..guidance_input import guidance_setting
from ..network import Wrapped
from ..pixel_values import finished
from ..samplers import Sampler
from ..seeds import derived
from ..sources import Source, seen
from ..types import Cond, Sample, Time


class Making(Protocol):
    """What samples are made by: a `Pipeline`."""

    model: nn.Module
    source: Source
    device: torch.device
    shape: tuple[int, ...]

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is an input of the network."""
        ...

    def decoded(self, x: Tensor) -> Tensor:
        """What the network makes as the samples that one looks at."""
        ...


class Maker:
    """Samples, part by part. Sample i has the same noise whatever the parts are, and the same at every NFE.

    (The fresh noise of consistency sampling is drawn for each part, from the seed and the part's first sample.)

    Args:
        run: what they are made by.
        sampler: how.
        seed: seed of the noise.
        guidance: scale and interval, or None.
        noise: the noise of all samples, (count, …), in place of the seed's; None for that.
        dtype: ``torch.uint8`` for pixels, else floats.
    """

    def __init__(
        self,
        run: Making,
        sampler: Sampler,
        seed: int,
        guidance: CFG | None,
        noise: Tensor | None = None,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self.run = run
        self.sampler = sampler
        self.seed = seed
        self.guidance = guidance
        self.noise = noise
        self.dtype = dtype
        self._model = as_seen(run.model, run.source)
        self._drawn = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, start: int, stop: int, cond: Cond | None = None) -> Tensor:
        """Samples ``start`` up to ``stop``, on the CPU: (b, …), 8-bit pixels or floats.

        Args:
            start: the first one's number.
            stop: the number after the last one's.
            cond: what these are conditioned on (b, …), as `Conditioning.check` lets it pass.

        Raises:
            UserError: one is not finite.
        """
        run, count = self.run, stop - start
        cond = (Cond() if cond is None else cond).to(run.device)
        noise = self._noise(start, stop).to(run.device)
        if self.guidance is not None and run.takes_guidance:
            setting = guidance_setting(count, self.guidance.scale, self.guidance.interval)
            cond = cond.replace(guidance=setting.to(run.device))
        fresh = torch.Generator(run.device).manual_seed(derived(self.seed, start))
        with torch.no_grad():
            x = run.decoded(self.sampler(self._model, run.source(noise, cond), cond, fresh))
        return finished(x, start, self.dtype)

    def _noise(self, start: int, stop: int) -> Tensor:
        if self.noise is not None:
            return self.noise[start:stop].float()
        if start < self._drawn:
            self._drawn, self._generator = 0, torch.Generator().manual_seed(self.seed)
        for _ in range(self._drawn, start):
            torch.randn(self.run.shape, generator=self._generator)
        self._drawn = stop
        return torch.stack([torch.randn(self.run.shape, generator=self._generator) for _ in range(start, stop)])


def as_seen(model: Any, source: Source) -> Any:
    """A network that isn't given what only the source reads; samplers have it all, for sources of their own."""
    return _Seeing(model, source) if source.conditions else model


class _Seeing(Wrapped):
    """A network as `as_seen` gives it."""

    def __init__(self, model: Any, source: Source) -> None:
        super().__init__(model)
        self.source = source

    def __call__(self, z: Sample, r: Time, t: Time, cond: Cond, *arguments: Any, **options: Any) -> Any:
        """What the network gives for what it sees."""
        return self.inner(z, r, t, seen(cond, self.source, self.inner), *arguments, **options)


def check_noise(noise: Tensor | None, count: int, shape: tuple[int, ...]) -> None:
    """Raises a UserError unless it is the noise of so many samples of this shape, or None."""
    if noise is not None and tuple(noise.shape) != (count, *shape):
        raise UserError(f"`noise=` must be of shape {(count, *shape)}, got {tuple(noise.shape)}")
