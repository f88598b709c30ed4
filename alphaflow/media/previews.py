"""Pictures of samples: a grid of images; of clips a contact sheet, or a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import foreign
from .clips import DEFAULT_FPS, contact_sheet, is_our_mp4, side_by_side, write_mp4
from .grids import grid, is_our_picture, save_picture


@dataclass(frozen=True)
class Picture:
    """Samples to look at.

    Attributes:
        pixels: (n, c, h, w), or clips (n, c, f, h, w), 8-bit.
        columns: number of columns of a grid of images.
        fps: frames per second of clips; None for `DEFAULT_FPS`.
    """

    pixels: Tensor
    columns: int
    fps: float | None = None

    def save(self, file: Path) -> None:
        """Writes a grid as PNG; of clips rows of frames, and beside it an MP4 in which they play at once."""
        if self.pixels.ndim == 4:
            save_picture(grid(self.pixels, self.columns), file)
            return
        save_picture(contact_sheet(self.pixels), file)
        write_mp4(side_by_side(self.pixels), file.with_suffix(".mp4"), self.fps or DEFAULT_FPS)

    @property
    def images(self) -> Tensor:
        """The images one by one, or the clips as rows of frames in a single one: (n, c, h, w), 8-bit."""
        if self.pixels.ndim == 4:
            return self.pixels
        return torch.from_numpy(np.array(contact_sheet(self.pixels).convert("RGB"))).permute(2, 0, 1)[None]


def check_preview(file: Path, new: bool = False) -> None:
    """Refuses a file that a preview can't be written to.

    Args:
        file: the file to write.
        new: it isn't the place that previews always have, so what is there must be one.

    Raises:
        UserError: it doesn't end in .png or .mp4, or is there and no preview.
    """
    if file.suffix not in (".png", ".mp4"):
        raise UserError(f"a preview is a .png, of clips also an .mp4, not {file.name}")
    if new and file.exists() and not (is_our_picture if file.suffix == ".png" else is_our_mp4)(file):
        raise foreign(file, "`file=`")


def write_preview(pixels: Tensor, file: Path, fps: float = DEFAULT_FPS) -> None:
    """Writes samples as one PNG, clips as a contact sheet; or clips one after another as an MP4.

    Args:
        pixels: 8-bit (n, c, h, w), or (n, c, f, h, w).
        file: .png or .mp4.
        fps: frames per second of the MP4.

    Raises:
        UserError: another ending, or an MP4 of pictures.
    """
    check_preview(file)
    if file.suffix == ".png":
        save_picture(grid(pixels) if pixels.ndim == 4 else contact_sheet(pixels), file)
    elif pixels.ndim == 5:
        write_mp4(pixels.transpose(0, 1).flatten(1, 2), file, fps)
    else:
        raise UserError(f"{file.name}: pictures are previewed as a .png, only clips as an .mp4")
