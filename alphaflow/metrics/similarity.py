"""How near samples are to what they should be, one by one: squared error, PSNR, SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import PerSample

WINDOW, SIGMA = 11, 1.5
"""Of SSIM's Gaussian window: pixels along a side, and standard deviation."""


def mse(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."]) -> PerSample:
    """The mean squared error of each sample (n,), over all its values."""
    _check(a, b)
    return (a.double() - b.double()).flatten(1).square().mean(1)


def psnr(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."], peak: float = 2.0) -> PerSample:
    """The peak signal-to-noise ratio 10·log10(peak² / MSE) of each sample (n,), in dB; infinite for equal ones.

    Args:
        a: samples.
        b: what they should be.
        peak: the range of values: 2 in [-1, 1], 255 of bytes.
    """
    return 10 * torch.log10(peak**2 / mse(a, b))


def ssim(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"], peak: float = 255.0) -> PerSample:
    """The mean structural similarity index of each image (n,), 1 for equal ones (Wang et al. 2004, eq. 13 and 14).

    An 11 × 11 Gaussian window, σ = 1.5, where it lies inside the image; K₁ = 0.01, K₂ = 0.03; channels one by one, then
    their mean. Of images with a side below 11 pixels the window has the largest odd size that fits.

    Args:
        a: images whose values begin at 0.
        b: what they should be.
        peak: the range of values: 255 of bytes, 1 in [0, 1].
    """
    _check(a, b)
    n, c, height, width = a.shape
    x, y = (images.double().reshape(n * c, 1, height, width) for images in (a, b))
    side = min(WINDOW, height, width)
    places = torch.arange(side - 1 + side % 2, dtype=torch.float64, device=a.device)
    weights = torch.exp(-((places - places.mean()) ** 2) / (2 * SIGMA**2))
    weights = weights / weights.sum()

    def local(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = local(x), local(y)
    var_x, var_y, both = local(x * x) - mean_x**2, local(y * y) - mean_y**2, local(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.flatten(1).mean(1).view(n, c).mean(1)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"samples and what they should be must have one shape, got {tuple(a.shape)}, {tuple(b.shape)}")
