"""Features that need no file of weights: pixels, shrunk clips, a random network, motion.

Figures in them compare runs with each other on one machine or another; they are not anybody's published metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.base import to_unit
from .motion import centroid_speed, frame_difference_energy
from .precision import float32

FEATURES = "features"
"""The layer that every extractor has: the representation."""

PIXELS, SHRUNK, RANDOM, MOTION = "pixels", "shrunk", "random", "motion"


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves in [-1, 1], as one vector."""

    weights: None = None
    batch: int = 512

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Values (b, c·h·w)."""
        return {FEATURES: to_unit(pixels).flatten(1)}


@dataclass(frozen=True)
class Shrunk:
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
    """Four strided 3-D convolutions with weights drawn once, from seed 0; means and deviations of the last maps."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        strides = ((1, 2, 2), (2, 2, 2), (1, 2, 2), (2, 1, 1))
        widths = (3, 32, 64, 128, 128)
        self.layers = nn.ModuleList()
        for stride, before, after in zip(strides, widths[:-1], widths[1:], strict=True):
            layer = nn.Conv3d(before, after, 3, stride, padding=1, bias=False)
            weight = torch.randn(layer.weight.shape, generator=generator) * (2 / (27 * before)) ** 0.5
            layer.weight = nn.Parameter(weight, requires_grad=False)
            self.layers.append(layer)

    def forward(self, clips: Tensor) -> Tensor:
        """(b, 3, f, 32, 32) in [-1, 1] → (b, 256)."""
        for layer in self.layers:
            clips = F.leaky_relu(layer(clips), 0.2)
        return torch.cat([clips.mean(dim=(2, 3, 4)), clips.std(dim=(2, 3, 4), unbiased=False)], dim=1)


@dataclass(frozen=True)
class Random:
    """A network of 3-D convolutions with random weights, the same ones always, on frames of 32 × 32: 256 numbers.

    Random features tell distributions apart as any do that are many enough; they don't know what people see.
    """

    device: torch.device
    weights: None = None
    batch: int = 16
    network: nn.Module = field(default_factory=_RandomNetwork, repr=False)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit clips (b, c, f, h, w) → (b, 256)."""
        clips = to_unit(pixels.to(self.device))
        clips = clips.expand(-1, 3, *clips.shape[2:])
        sized = F.adaptive_avg_pool3d(clips, (clips.shape[2], 32, 32))
        with float32(self.device):
            return {FEATURES: self.network.to(self.device)(sized)}


@dataclass(frozen=True)
class Motion:
    """Of each clip: the energy of its frame differences, the speed of its centroid."""

    weights: None = None
    batch: int = 64

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """8-bit clips (b, c, f, h, w) → (b, 2)."""
        return {FEATURES: torch.stack([frame_difference_energy(pixels), centroid_speed(pixels)], dim=1)}


Unpublished = Pixels | Shrunk | Random | Motion

UNPUBLISHED: Mapping[str, Callable[[torch.device], Unpublished]] = {
    PIXELS: lambda device: Pixels(),
    SHRUNK: Shrunk,
    RANDOM: Random,
    MOTION: lambda device: Motion(),
}
"""The extractors without a file, by name."""

CLIPS_ONLY = (SHRUNK, RANDOM, MOTION)
