"""What an array may be in a batch, and how its values are taken: the same for arrays and for torch's datasets."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..pixel_values import to_unit

PIXELS = ("x", "image")
"""Where 8-bit numbers are pixels."""


def taken(name: str, values: Tensor) -> Tensor:
    """Values (b, …) as a batch holds them.

    Floats become float32, unchanged otherwise; 8-bit ``x`` and ``image`` are pixels and come to lie in [-1, 1]; other
    whole numbers become int64; True and False stay.
    """
    if values.dtype == torch.uint8 and name in PIXELS:
        return to_unit(values)
    if values.dtype == torch.bool:
        return values
    return values.to(torch.float32 if values.is_floating_point() else torch.int64)


def check_samples(what: str, dtype: object, shape: tuple[int, ...], *, usable: bool) -> None:
    """Whether x, of this type and shape (n, …), can be samples.

    Args:
        what: what messages call it.
        dtype: type, as it is printed.
        shape: its shape.
        usable: its values are floats, or 8-bit pixels.

    Raises:
        UserError: it can't.
    """
    if not usable:
        raise UserError(f"{what} is {dtype}; samples are floats, or 8-bit (uint8) pixels: convert it")
    if len(shape) < 2:
        raise UserError(f"{what} has the shape {shape}; samples are (n, …): a number each is x[:, None]")
