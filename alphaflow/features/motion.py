"""How much and how fast things move in clips: two numbers each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..pixel_values import to_unit

Clips = Tensor
"""8-bit clips (b, c, f, h, w)."""


def frame_difference_energy(clips: Clips) -> Float[Tensor, " b"]:
    """The mean square of the change from frame to frame, pixels counted from −1 to 1: (b,)."""
    return to_unit(clips).diff(dim=2).square().mean(dim=(1, 2, 3, 4))


def centroid_speed(clips: Clips) -> Float[Tensor, " b"]:
    """How far the centre of the bright moves from frame to frame, on average, in pixels: (b,).

    The centre of a frame is the mean of its pixels' places, weighted by their brightness above the clip's darkest. A
    frame without any keeps the centre of the frame before.
    """
    light = clips.float().mean(dim=1)
    light = light - light.amin(dim=(1, 2, 3), keepdim=True)
    total = light.sum(dim=(2, 3))
    rows = torch.arange(light.shape[2], device=light.device) + 0.5
    columns = torch.arange(light.shape[3], device=light.device) + 0.5
    down = torch.einsum("bfhw,h->bf", light, rows) / total
    across = torch.einsum("bfhw,w->bf", light, columns) / total
    centres = torch.stack([down, across], dim=2)
    for k in range(1, centres.shape[1]):
        centres[:, k] = torch.where(centres[:, k].isfinite(), centres[:, k], centres[:, k - 1])
    steps: Tensor = torch.linalg.vector_norm(centres.nan_to_num().diff(dim=1), dim=2)
    return steps.mean(dim=1)
