"""8-bit pixels, and floats in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import UserError


def to_unit(pixels: Tensor) -> Tensor:
    """8-bit pixels 0 … 255 as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def finite_bytes(pixels: Tensor, start: int = 0) -> Tensor:
    """`to_bytes` on the CPU, of samples that are numbered from ``start`` on.

    Raises:
        UserError: one is not finite.
    """
    if not bool(pixels.isfinite().all()):
        row = int(torch.nonzero(~pixels.flatten(1).isfinite().all(1))[0])
        raise UserError(f"sample {start + row} is not finite: NaN and infinite pixels can't be shown or measured")
    return to_bytes(pixels).cpu()


def to_bytes(pixels: Tensor) -> Tensor:
    """Floats in [-1, 1] as 8-bit pixels: clipped and rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
