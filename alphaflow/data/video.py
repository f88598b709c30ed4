"""Decoding clips: PyAV, frame-accurate, by time stamps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    import av


class ClipError(ValueError):
    """A clip can't be decoded, or not as asked; the message says why."""


@dataclass(frozen=True)
class Clip:
    """Decoded frames.

    Attributes:
        frames: (f, h, w, 3), 8-bit.
        times: of each frame, in seconds from the file's start, as its time stamps say: (f,).
    """

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    times: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class VideoInfo:
    """A video's stream.

    Attributes:
        duration: in seconds, or None where the file doesn't say.
        fps: average frames a second, or None.
        width, height: as stored, before rotation.
    """

    duration: float | None
    fps: float | None
    width: int
    height: int


def video_info(file: Path | str) -> VideoInfo:
    """A video's duration, rate and size.

    Raises:
        ClipError: it can't be opened, or has no video stream.
    """
    with _open(file) as container:
        stream = _video_stream(container, file)
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1e6
        fps = float(stream.average_rate) if stream.average_rate else None
        return VideoInfo(duration, fps, stream.width, stream.height)


def frame_times(file: Path | str) -> list[float]:
    """The time stamps of all frames, in seconds from the file's start, in display order. Decodes the whole file."""
    with _open(file) as container:
        stream = _video_stream(container, file)
        return [time for time, _ in _decoded(container, stream, file)]


def read_clip(
    file: Path | str,
    frames: int,
    *,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Clip:
    """Reads a clip from a video.

    With ``fps`` frame k is the one on screen at ``start`` + k/fps: the last whose time stamp is not after it, so that
    variable rates are resampled by time. Without it, frames are taken one after another from the first at or after
    ``start``. In MP4, MOV, MKV and WebM files decoding begins at a key frame before; other formats, whose time stamps
    a seek may shift, are decoded from their beginning. Rotation stored in the file is applied.

    Args:
        file: the video.
        frames: how many.
        fps: frames a second, or None for the file's own.
        start: in seconds from the file's start.
        end: frames at or after this time don't count; None for the end of the file.

    Raises:
        ClipError: the file can't be opened or decoded, has no video stream, is too short, or changes its size.
    """
    if frames < 1 or (fps is not None and fps <= 0) or start < 0:
        raise ValueError(f"a clip needs frames >= 1, fps > 0 and start >= 0, got {frames}, {fps} and {start}")
    with _open(file) as container:
        stream = _video_stream(container, file)
        source = _from_before(container, stream, file, start)
        limit = None if end is None else end - 1e-6
        picked = _by_time(source, frames, fps, start, limit) if fps else _in_turn(source, frames, start, limit)
        shown = [(time, _upright(frame)) for time, frame in picked]
    sizes = list(dict.fromkeys(f"{frame.shape[1]} × {frame.shape[0]}" for _, frame in shown))
    if len(sizes) > 1:
        raise ClipError(f"its frames change their size, from {sizes[0]} to {sizes[1]}")
    if len(shown) < frames:
        rate = f" at {fps:g} frames a second" if fps else ""
        raise ClipError(f"the clip has {len(shown)} frames{rate} from {start:g} s on, fewer than {frames}")
    return Clip(np.stack([frame for _, frame in shown]), np.array([time for time, _ in shown]))


Timed = tuple[float, "av.VideoFrame"]


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


def _open(file: Path | str) -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("reading videos needs PyAV: pip install av") from error
    try:
        return av.open(str(file), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ClipError(f"not a readable video: {_reason(error)}") from error


def _video_stream(container: Any, file: Path | str) -> Any:
    if not container.streams.video:
        raise ClipError("no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ClipError("no decoder for this codec")
    stream.thread_type = "SLICE"  # frame threads reorder errors; workers are processes
    return stream


SEEKABLE = ("mp4", "mov", "matroska", "webm")


def _from_before(container: Any, stream: Any, file: Path | str, start: float) -> Iterator[Timed]:
    """Frames from one at or before ``start`` on: where a seek lands after it, it is tried again from further back."""
    base = stream.time_base or Fraction(1, 1_000_000)
    back = 0.0
    while start - back > 0 and any(name in container.format.name for name in SEEKABLE):
        container.seek(int((start - back) / base) + (stream.start_time or 0), backward=True, stream=stream)
        source = _decoded(container, stream, file)
        try:
            first = next(source, None)
        except ClipError:  # not a place to begin
            first = None
        if first is not None and first[0] <= start + 1e-6:
            return itertools.chain([first], source)
        back = max(2 * back, 1.0)
    if start > 0:
        container.seek(0)
    return _decoded(container, stream, file)


def _decoded(container: Any, stream: Any, file: Path | str) -> Iterator[Timed]:
    """Frames with their times in seconds from the file's start."""
    import av

    origin = float((stream.start_time or 0) * (stream.time_base or 0))
    try:
        for frame in container.decode(stream):
            if frame.time is None:
                raise ClipError("a frame without a time stamp")
            if frame.is_corrupt:
                raise ClipError(f"a damaged frame at {frame.time - origin:.3f} s")
            yield float(frame.time) - origin, frame
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"can't be decoded: {_reason(error)}") from error


def _upright(frame: av.VideoFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A frame as (h, w, 3), 8-bit, turned as its metadata asks."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = frame.to_ndarray(format="rgb24", threads=1).astype(
        np.uint8, copy=False
    )
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return " ".join(str(strerror or error).split())[:160]
