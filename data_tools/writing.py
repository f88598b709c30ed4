"""Pictures and videos of decoded shards."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from alphaflow.data.clips import FPS, contact_sheet, is_our_mp4, write_mp4
from alphaflow.errors import UserError
from alphaflow.files import foreign
from alphaflow.plots import grid, is_ours, save_picture


def check_preview(file: Path, new: bool = False) -> None:
    """Refuses a file that a preview can't be written to.

    Args:
        file: where to.
        new: it isn't the place that previews always have, so what is there must be one.

    Raises:
        UserError: it doesn't end in .png or .mp4, or is there and no preview.
    """
    if file.suffix not in (".png", ".mp4"):
        raise UserError(f"a preview is a .png, of clips also an .mp4, not {file.name}")
    if new and file.exists() and not (is_ours if file.suffix == ".png" else is_our_mp4)(file):
        raise foreign(file, "preview")


def write_preview(pixels: Tensor, file: Path, fps: float = FPS) -> None:
    """Writes samples as one PNG, clips as a contact sheet; or clips one after another as an MP4.

    Args:
        pixels: 8-bit (n, c, h, w), or (n, c, f, h, w).
        file: .png or .mp4.
        fps: of the MP4.

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
