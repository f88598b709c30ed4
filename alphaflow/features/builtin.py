"""Features that need no file of weights: pixels, shrunk clips, random networks, motion.

Figures in them compare runs with each other on one machine or another; they are not anybody's published metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.similarity import mse, psnr, ssim
from ..parallel.device import exact_float32
from ..pixel_values import as_floats, to_unit
from .motion import centroid_speed, frame_difference_energy

FEATURES = "features"
"""The layer that every extractor has: the representation."""

PIXELS = "pixels"
SHRUNK = "shrunk"
RANDOM = "random"
MOTION = "motion"
PAIRS = "pairs"


@dataclass(frozen=True)
class PixelExtractor:
    """The pixels themselves in [-1, 1], as one vector; of samples that are no pictures, their values."""

    weights: ClassVar[None] = None
    batch: ClassVar[int] = 512

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Values (b, c·h·w)."""
        return {FEATURES: as_floats(pixels).flatten(1)}


@dataclass(frozen=True)
class PairExtractor:
    """How near each sample is to what it should be: squared error, of pictures also PSNR and SSIM."""

    device: torch.device
    weights: ClassVar[None] = None
    batch: ClassVar[int] = 64
    values: ClassVar[tuple[str, ...]] = ("mse", "psnr", "ssim")

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Samples and what they should be, (b, 2, …) → `values` (b, 3); NaN where samples are no pictures.

        The error is of values in [-1, 1]. A PSNR is at most 100 dB; clips have the mean SSIM of their frames.
        """
        first, second = pixels.to(self.device).unbind(1)
        error = mse(as_floats(first), as_floats(second))
        none = torch.full_like(error, torch.nan)
        if first.is_floating_point():
            return {FEATURES: torch.stack([error, none, none], dim=1)}
        ours, truths = (x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x for x in (first, second))
        likeness = ssim(ours, truths).view(len(first), -1).mean(1)
        ratio = psnr(first, second, peak=255.0).clamp(max=100)
        return {FEATURES: torch.stack([error, ratio, likeness], dim=1)}


@dataclass(frozen=True)
class ShrunkExtractor:
    """Clips as 8 grey frames of 8 × 8 pixels, spread evenly over theirs, averaged over areas: 512 numbers."""

    device: torch.device
    weights: ClassVar[None] = None
    batch: ClassVar[int] = 64

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
    weights: ClassVar[None] = None
    batch: ClassVar[int] = 16

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

    weights: ClassVar[None] = None
    batch: ClassVar[int] = 64

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit clips (b, c, f, h, w) → (b, 2)."""
        return {FEATURES: torch.stack([frame_difference_energy(pixels), centroid_speed(pixels)], dim=1)}


Unpublished = PairExtractor | PixelExtractor | ShrunkExtractor | RandomExtractor | MotionExtractor

UNPUBLISHED: Mapping[str, Callable[[torch.device], Unpublished]] = {
    PIXELS: lambda device: PixelExtractor(),
    SHRUNK: ShrunkExtractor,
    RANDOM: RandomExtractor,
    MOTION: lambda device: MotionExtractor(),
    PAIRS: PairExtractor,
}
"""The extractors without a file, by name."""

CLIPS_ONLY = (SHRUNK, MOTION)
