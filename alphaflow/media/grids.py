"""Grids of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files import replacing


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images side by side, row by row, on white, a pixel apart; small ones are enlarged, up to 64 pixels wide.

    Args:
        images: (n, c, h, w), 8-bit, one or three channels.
        columns: images a row; by default as square as it gets.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.is_floating_point():
        raise ValueError(f"a grid takes 8-bit images (n, 1 or 3, h, w), got {images.dtype} {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images.cpu().numpy()):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, 64 // width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def compared(stacks: Sequence[Tensor]) -> Tensor:
    """Stacks of as many images (n, c, …) as one: the first of each, then the second of each, …; in colour if one is."""
    channels = max(stack.shape[1] for stack in stacks)
    same = [stack.expand(-1, channels, *stack.shape[2:]) for stack in stacks]
    return torch.stack(same, 1).flatten(0, 1)


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
