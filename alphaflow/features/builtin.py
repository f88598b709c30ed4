"""Features that need no file of weights: pixels, shrunk clips, random networks, motion.

Figures in them compare runs with each other on one machine or another; they are not anybody's published metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parallel.device import exact_float32
from ..pixel_values import to_unit
from .motion import centroid_speed, frame_difference_energy

FEATURES = "features"
"""The layer that every extractor has: the representation."""

PIXELS = "pixels"
SHRUNK = "shrunk"
RANDOM = "random"
MOTION = "motion"


@dataclass(frozen=True)
class PixelExtractor:
    """The pixels themselves in [-1, 1], as one vector."""

    weights: None = None
    batch: int = 512

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Values (b, c·h·w)."""
        return {FEATURES: to_unit(pixels).flatten(1)}


@dataclass(frozen=True)
class ShrunkExtractor:
    """Clips as 8 grey frames of 8 × 8 pixels, spread evenly over theirs, averaged over areas: 512 numbers."""

    device: torch.device
    weights: None = None
    batch: int = 64

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit clips (b, c, f, h, w) → (b, 512)."""
        frames = torch.linspace(0, pixels.shape[2] - 1, 8).round().long()
        grey = to_unit(pixels.to(self.device)[:, :, frames.to(self.device)]).mean(dim=1)
        return {FEATURES: F.adaptive_avg_pool2d(grey, 8).flatten(1)}


class _RandomNetwork(nn.Module):
    """Four strided convolutions with weights drawn once, from seed 0; means and deviations of the last maps."""

    def __init__(self, convolution: type[nn.Conv2d | nn.Conv3d], strides: Sequence[Any]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        widths = (3, 32, 64, 128, 128)
        self.layers = nn.ModuleList()
        for stride, before, after in zip(strides, widths[:-1], widths[1:], strict=True):
            layer = convolution(before, after, 3, stride, padding=1, bias=False)
            drawn = torch.randn(layer.weight.shape, generator=generator)
            layer.weight = nn.Parameter(drawn * (2 / layer.weight[0].numel()) ** 0.5, requires_grad=False)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, …) in [-1, 1] → (b, 256)."""
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        maps = x.flatten(2)
        return torch.cat([maps.mean(dim=2), maps.std(dim=2, unbiased=False)], dim=1)


@dataclass(frozen=True)
class RandomExtractor:
    """Networks of convolutions with random weights, the same ones always: 256 numbers.

    Of pictures as they are (2-D, strides 2); of clips with frames averaged to 32 × 32 (3-D). Random features tell
    distributions apart as any do that are many enough; they don't know what people see.
    """

    device: torch.device
    weights: None = None
    batch: int = 16

    @cached_property
    def of_pictures(self) -> nn.Module:
        """(b, 3, h, w) in [-1, 1] → (b, 256)."""
        return _RandomNetwork(nn.Conv2d, (2, 2, 2, 2)).to(self.device)

    @cached_property
    def of_clips(self) -> nn.Module:
        """(b, 3, f, 32, 32) in [-1, 1] → (b, 256)."""
        return _RandomNetwork(nn.Conv3d, ((1, 2, 2), (2, 2, 2), (1, 2, 2), (2, 1, 1))).to(self.device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit (b, c, h, w), or clips (b, c, f, h, w) → (b, 256)."""
        x = to_unit(pixels.to(self.device))
        x = x.expand(-1, 3, *x.shape[2:])
        with exact_float32(self.device):
            if x.ndim == 4:
                return {FEATURES: self.of_pictures(x)}
            return {FEATURES: self.of_clips(F.adaptive_avg_pool3d(x, (x.shape[2], 32, 32)))}


@dataclass(frozen=True)
class MotionExtractor:
    """Features of each clip: the energy of its frame differences, the speed of its centroid."""

    weights: None = None
    batch: int = 64

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit clips (b, c, f, h, w) → (b, 2)."""
        return {FEATURES: torch.stack([frame_difference_energy(pixels), centroid_speed(pixels)], dim=1)}


Unpublished = PixelExtractor | ShrunkExtractor | RandomExtractor | MotionExtractor

UNPUBLISHED: Mapping[str, Callable[[torch.device], Unpublished]] = {
    PIXELS: lambda device: PixelExtractor(),
    SHRUNK: ShrunkExtractor,
    RANDOM: RandomExtractor,
    MOTION: lambda device: MotionExtractor(),
}
"""The extractors without a file, by name."""

CLIPS_ONLY = (SHRUNK, MOTION)
