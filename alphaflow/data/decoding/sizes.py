"""The size of pictures and frames: one number for squares, or height and width."""

from __future__ import annotations

from ...errors import UserError, is_whole

Size = int | tuple[int, int]
"""Pixels along each side of a square; or (h, w)."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
        UserError: it is neither one whole number nor two, or one is below 1.
    """
    found = size if isinstance(size, tuple) else (size, size)
    if len(found) != 2 or not all(is_whole(side) for side in found):
        raise UserError(f"the image size is a whole number of pixels, or (h, w), got {size!r}")
    if min(found) < 1:
        raise UserError(f"the image size must be above 0, at least 1 pixel, got {size}")
    return found
