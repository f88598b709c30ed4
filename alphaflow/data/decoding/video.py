"""Decoding clips: PyAV, frame-accurate, by time stamps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import reason
from .containers import ClipError, Timed, Video, check_size, opened, picture_end, timed

if TYPE_CHECKING:
    import av

PixelArray = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Clip:
    """Decoded frames.

    Attributes:
        frames: (f, h, w, 3), 8-bit.
        times: times of each frame, in seconds from the video's beginning, as its time stamps say: (f,).
        before: the time of the frame that is shown right before the first of these. Taken one after another, None means
            that this is the video's first; taken by time, also that decoding began at it.
    """

    frames: PixelArray
    times: np.ndarray[Any, np.dtype[np.float64]]
    before: float | None = None


@dataclass(frozen=True)
class VideoInfo:
    """A video's stream.

    Attributes:
        duration: duration of the pictures, whatever sound there is, in seconds; None where the file doesn't say.
        fps: average frames a second, or None.
    """

    duration: float | None
    fps: float | None


def video_info(file: Video) -> VideoInfo:
    """A video's duration and rate, of FFmpeg's best stream that is no attached picture.

    Where the stream doesn't say how long it is, the end of the file is read, or all of it; nothing is decoded.

    Args:
        file: a path, or a binary file that can seek; it is read from its beginning.

    Raises:
        ClipError: it is not a regular file, can't be opened, or has no video stream.
    """
    with opened(file) as (container, stream):
        fps = float(stream.average_rate) if stream.average_rate else None
        return VideoInfo(picture_end(container, stream), fps)


def read_clip(
    file: Video, frames: int, *, fps: float | None = None, start: float = 0.0, end: float | None = None
) -> Clip:
    """Reads a clip from a video, of FFmpeg's best stream that is no attached picture.

    With ``fps`` frame k is the one on screen at ``start`` + k/fps: the last whose time stamp is not after it, so that
    variable rates are resampled by time. Without it, frames are taken one after another from the first at or after
    ``start``. In MP4, MOV, MKV and WebM files decoding begins at a key frame before; other formats, whose time stamps
    a seek may shift, are decoded from their beginning. Where time stamps are missing or in disorder (H.264 in AVI),
    frame k of the video is at k divided by its rate.

    Frames come out as they are to be shown: turned and mirrored as the file asks, with square pixels (whatever isn't
    becomes wider or higher), and no more of them than Pillow's MAX_IMAGE_PIXELS.

    Args:
        file: a path, or a binary file that can seek; it is read from its beginning.
        frames: how many.
        fps: frames a second, or None for the file's own.
        start: in seconds from the video's beginning.
        end: frames at or after this time don't count; None for the end of the file.

    Raises:
        ClipError: the file is not a regular one, can't be opened or decoded, is damaged where that can be told, has no
            video stream, is too short, changes its size, has too many pixels, or is to be turned by no right angle.
    """
    if frames < 1 or (fps is not None and fps <= 0) or start < 0:
        raise ValueError(f"a clip needs frames >= 1, fps > 0 and start >= 0, got {frames}, {fps} and {start}")
    limit = None if end is None else end - 1e-6

    def pick(source: Iterator[Timed], stream: Any) -> tuple[list[tuple[float, PixelArray]], list[float]]:
        passed: list[float] = []
        noted = _noted(source, passed)
        picked = _by_time(noted, frames, fps, start, limit) if fps else _in_turn(noted, frames, start, limit)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return [(time, _shown(frame, aspect)) for time, frame in picked], passed

    shown, passed = timed(file, start, pick)
    check_one_size([frame for _, frame in shown])
    if len(shown) < frames:
        rate = f" at {fps:g} frames a second" if fps else ""
        raise ClipError(f"the clip has {len(shown)} frames{rate} from {start:g} s on, fewer than {frames}")
    times = np.array([time for time, _ in shown])
    place = bisect_left(passed, times[0])
    return Clip(np.stack([frame for _, frame in shown]), times, passed[place - 1] if place else None)


def _noted(source: Iterator[Timed], passed: list[float]) -> Iterator[Timed]:
    for time, frame in source:
        passed.append(time)
        yield time, frame


def check_one_size(frames: Sequence[PixelArray]) -> None:
    """Raises a ClipError where frames (h, w, 3) differ in size."""
    sizes = list(dict.fromkeys(f"{frame.shape[1]} × {frame.shape[0]}" for frame in frames))
    if len(sizes) > 1:
        raise ClipError(f"its frames change their size, from {sizes[0]} to {sizes[1]}")


def _in_turn(source: Iterator[Timed], frames: int, start: float, end: float | None) -> list[Timed]:
    found: list[Timed] = []
    for time, frame in source:
        if end is not None and time >= end:
            break
        if time >= start - 1e-6:
            found.append((time, frame))
        if len(found) == frames:
            break
    return found


def _by_time(source: Iterator[Timed], frames: int, fps: float, start: float, end: float | None) -> list[Timed]:
    """For each wanted time the last frame that is not after it; a file's last frame lasts as long as the one before."""
    found: list[Timed] = []
    shown: Timed | None = None
    gap = 0.0
    for time, frame in source:
        if end is not None and time >= end:
            gap = time - shown[0] if shown is not None else gap
            break
        while shown is not None and len(found) < frames and start + len(found) / fps < time - 1e-6:
            found.append(shown)
        if len(found) == frames:
            return found
        gap = time - shown[0] if shown is not None else float((frame.duration or 0) * (frame.time_base or 0))
        if shown is None and time > start + 1e-6 and not found:
            start_frame = (time, frame)  # the first frame comes late: it stands for what is before it
            while len(found) < frames and start + len(found) / fps < time - 1e-6:
                found.append(start_frame)
        shown = (time, frame)
    until = None if shown is None else shown[0] + max(gap, 1e-6) if end is None else min(shown[0] + gap, end + 1e-6)
    while shown is not None and until is not None and len(found) < frames and start + len(found) / fps < until - 1e-6:
        found.append(shown)
    return found


def _shown(frame: av.VideoFrame, aspect: Fraction) -> PixelArray:
    """A frame as (h, w, 3), 8-bit, with square pixels, turned and mirrored as its display matrix asks.

    Args:
        frame: decoded.
        aspect: a pixel's width by its height.
    """
    check_size(frame.width, frame.height)
    width, height = max(frame.width, round(frame.width * aspect)), max(frame.height, round(frame.height / aspect))
    check_size(width, height)
    scaling = None if (width, height) == (frame.width, frame.height) else "BICUBIC"
    array = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation=scaling, threads=1)
    pixels: PixelArray = array.astype(np.uint8, copy=False)
    try:
        side: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError as error:
        raise ClipError(f"the frames' display matrix can't be read: {reason(error)}; a newer PyAV may do") from error
    if side is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(side), np.int32)[:5].astype(float)  # (x, y) is shown at (ax + cy, bx + dy)
    turned = abs(b) > abs(a)
    across, down, *others = (c, b, a, d) if turned else (a, d, b, c)
    if 100 * max(map(abs, others)) > min(abs(across), abs(down)) or not across * down:
        raise ClipError("its frames' rotation is not a multiple of 90 degrees")
    pixels = pixels.transpose(1, 0, 2) if turned else pixels
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
