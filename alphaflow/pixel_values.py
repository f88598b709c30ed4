"""8-bit pixels, and floats in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import UserError


def to_unit(pixels: Tensor) -> Tensor:
    """8-bit pixels 0 … 255 as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def is_picture_shape(shape: Sequence[int]) -> bool:
    """Whether samples of this shape, of pixels, are pictures or clips: (1 or 3, h, w) or (1 or 3, f, h, w)."""
    return len(shape) in (3, 4) and shape[0] in (1, 3)


def finished(samples: Tensor, start: int, dtype: torch.dtype) -> Tensor:
    """Samples on the CPU, as they are written and measured: 8-bit pixels (``torch.uint8``), or floats of a type.

    Raises:
        UserError: one, numbered from ``start`` on, is not finite.
    """
    samples = finite(samples, start)
    return (to_bytes(samples) if dtype == torch.uint8 else samples.to(dtype)).cpu()


def first_not_finite(values: Tensor) -> int | None:
    """The first row of (b, …) that holds NaN or infinity; None where none does."""
    fine = values.isfinite()
    return None if bool(fine.all()) else int(torch.nonzero(~fine.reshape(len(values), -1).all(1))[0])


def finite(samples: Tensor, start: int = 0) -> Tensor:
    """The samples (b, …), which are numbered from ``start`` on, if all are finite.

    Raises:
        UserError: one is not.
    """
    row = first_not_finite(samples)
    if row is not None:
        raise UserError(f"sample {start + row} is not finite: NaN and infinite values can't be shown or measured")
    return samples


def as_floats(samples: Tensor) -> Tensor:
    """8-bit pixels as floats in [-1, 1]; samples that are floats, and no pictures, as they are."""
    return samples.float() if samples.is_floating_point() else to_unit(samples)


def to_bytes(pixels: Tensor) -> Tensor:
    """Floats in [-1, 1] as 8-bit pixels: clipped and rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
