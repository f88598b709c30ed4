"""Writing clips: MP4 by PyAV, GIF, and pictures of their frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from .grids import OURS, grid

DEFAULT_FPS = 8.0
"""Frames a second of clips whose data don't say."""

MIN_FPS, MAX_FPS = 0.01, 1000.0

MPEG4_MAX = 65_535
"""The largest numerator and denominator of a rate in MPEG-4."""


def write_mp4(clip: Tensor, file: Path, fps: float, codec: str | None = None) -> None:
    """Writes a clip as an MP4, whole or not at all; the same file each time.

    H.264 where PyAV's build has x264, else MPEG-4 Part 2; both at high quality. They take even sides only: odd ones get
    one more row or column, a copy of the last.

    Args:
        clip: (c, f, h, w), 8-bit, one or three channels.
        file: .mp4.
        fps: frames a second.
        codec: ``"libx264"`` or ``"mpeg4"``; None for the first that there is.

    Raises:
        UserError: fps is not 0.01 to 1000, or PyAV is missing.
    """
    rate = frame_rate(fps)
    try:
        import av
    except ImportError as error:
        raise UserError("writing MP4 needs PyAV: pip install av") from error
    frames = even_sides(_frames(clip))
    codec = codec or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    with replacing(file) as beside, av.open(str(beside), "w", format="mp4") as container:
        # the same file each time: x264's mbtree reads memory that nothing has written, and more threads take turns
        container.metadata["comment"] = OURS
        options = {"crf": "14", "x264-params": "mbtree=0"} if codec == "libx264" else {"qmin": "1", "qmax": "3"}
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())


def is_our_mp4(file: Path) -> bool:
    """Whether `write_mp4` wrote a file."""
    import av

    try:
        with av.open(str(file)) as container:
            return container.metadata.get("comment") == OURS
    except (OSError, ValueError):  # PyAV's are both
        return False


def write_gif(clip: Tensor, file: Path, fps: float) -> None:
    """Writes a clip (c, f, h, w), 8-bit, as a GIF that repeats.

    GIF counts time in hundredths of a second, and a frame that equals the one before isn't stored but shown longer.
    """
    milliseconds = max(20, round(100 / frame_rate(fps)) * 10)
    pictures = [Image.fromarray(frame) for frame in _frames(clip)]
    with replacing(file) as beside:
        pictures[0].save(beside, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def frame_rate(fps: float) -> Fraction:
    """Frames a second as containers write them: 29.97 becomes 30000/1001.

    Raises:
        UserError: it is not 0.01 to 1000.
    """
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(
            f"fps must be above 0, {MIN_FPS:g} up to {MAX_FPS:g} frames a second, got {fps:g}; 8 is a usual choice"
        )
    broadcast = round(fps * 1.001)  # 23.976, 29.97, 59.94
    if abs(fps * 1.001 - broadcast) < 1e-4 and broadcast <= MPEG4_MAX // 1000:
        return Fraction(1000 * broadcast, 1001)
    return Fraction(fps).limit_denominator(int(MPEG4_MAX / max(fps, 1)))


def contact_sheet(clips: Tensor) -> Image.Image:
    """Clips (n, c, f, h, w), 8-bit, as rows of their frames: all frames, or 16 evenly spaced ones."""
    count = clips.shape[2]
    shown = clips[:, :, np.linspace(0, count - 1, min(count, 16)).round().astype(int)]
    return grid(shown.transpose(1, 2).flatten(0, 1), columns=shown.shape[2])


def side_by_side(clips: Tensor, columns: int | None = None) -> Tensor:
    """Clips (n, c, f, h, w), 8-bit, as one clip in which all play at once (3, f, H, W), as `grid` places them."""
    frames = [np.asarray(grid(frame, columns).convert("RGB")) for frame in clips.unbind(2)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


def even_sides(frames: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames (f, h, w, c) with one more row or column, a copy of the last, where their number is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _frames(clip: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(c, f, h, w) as RGB frames (f, h, w, 3)."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = clip.expand(3, *clip.shape[1:]).permute(1, 2, 3, 0).cpu().numpy()
    return np.ascontiguousarray(array)
