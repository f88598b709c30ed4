"""Pictures and videos of decoded samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.files import replacing
from alphaflow.plots import grid, save_picture


def check_preview(file: Path) -> None:
    """Refuses a file that a preview can't be written to.

    Raises:
        UserError: it doesn't end in .png or .mp4.
    """
    if file.suffix not in (".png", ".mp4"):
        raise UserError(f"a preview is a .png, of clips also an .mp4, not {file.name}")


def write_preview(pixels: Tensor, file: Path, fps: float = 8.0) -> None:
    """Writes samples as one PNG, clips with frames as columns; or clips one after another as an MP4.

    Args:
        pixels: 8-bit (n, c, h, w), or (n, c, f, h, w).
        file: .png or .mp4.
        fps: of the MP4.

    Raises:
        UserError: another ending, or an MP4 of pictures.
    """
    check_preview(file)
    if file.suffix == ".png":
        if pixels.ndim == 5:
            frames = pixels.shape[2]
            save_picture(grid(pixels.transpose(1, 2).flatten(0, 1), columns=frames), file)
        else:
            save_picture(grid(pixels), file)
        return
    if pixels.ndim != 5:
        raise UserError(f"{file.name}: pictures are previewed as a .png, only clips as an .mp4")
    _write_mp4(pixels.transpose(1, 2).flatten(0, 1), file, fps)


def _write_mp4(frames: Tensor, file: Path, fps: float) -> None:
    """Frames (n, 3, h, w), 8-bit, as MPEG-4 with even sides."""
    import av

    height, width = (side + side % 2 for side in frames.shape[2:])
    with replacing(file) as beside, av.open(str(beside), "w", format="mp4") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for array in frames.permute(0, 2, 3, 1).numpy():
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(width, height)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
