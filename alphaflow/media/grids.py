"""Grids of pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files import replacing


def grid(images: Tensor, columns: int | None = None, gap: int = 1, enlarge: int | None = None) -> Image.Image:
    """Images side by side, row by row, on white.

    Args:
        images: (n, c, h, w), 8-bit, one or three channels.
        columns: images a row; by default as square as it gets.
        gap: pixels between images, before enlarging.
        enlarge: every pixel becomes a square this wide; by default as many as make an image 64 pixels wide.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.is_floating_point():
        raise ValueError(f"a grid takes 8-bit images (n, 1 or 3, h, w), got {images.dtype} {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images.cpu().numpy()):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, 64 // width) if enlarge is None else enlarge
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


OURS = "alphaflow"
"""The software that a PNG names if it is ours."""


def save_picture(picture: Image.Image, file: Path) -> None:
    """Writes a PNG, whole or not at all; it says that it is ours."""
    signed = PngInfo()
    signed.add_text("Software", OURS)
    with replacing(file) as beside:
        picture.save(beside, format="PNG", pnginfo=signed)


def is_our_picture(file: Path) -> bool:
    """Whether `save_picture` wrote a file."""
    try:
        with Image.open(file) as picture:
            return picture.info.get("Software") == OURS
    except (OSError, ValueError):
        return False
