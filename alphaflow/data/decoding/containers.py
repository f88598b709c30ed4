"""Videos' containers: opening them, and their frames with the times they are shown at. PyAV."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from PIL import Image

from ...errors import UserError, reason

if TYPE_CHECKING:
    import av

Video = Path | str | IO[bytes]
"""A path, or a binary file that can seek."""

Timed = tuple[float, "av.VideoFrame"]
"""Seconds from the video's beginning, and the frame that is shown from then on."""

T = TypeVar("T")

STRICT = {
    "mjpeg": "explode",
    "hevc": "crccheck+explode",  # where frames carry a hash
    **dict.fromkeys(("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"), "bitstream+buffer+explode"),
}
"""What FFmpeg's decoders must not pass over, where it finds damage; others find no more by it, or healthy oddities."""

SEEKABLE = ("mp4", "mov", "matroska", "webm")
"""Formats whose time stamps stay the same after a seek."""

MOST_LATE = 16
"""The most frames between one and the place where its time stamp would put it: H.264's and HEVC's bound."""


class ClipError(ValueError):
    """A clip can't be decoded, or not as asked; the message says why."""


class _UnstampedError(Exception):
    """Time stamps are missing, or don't increase in the order in which the frames are shown."""


@contextmanager
def opened(file: Video) -> Iterator[tuple[Any, Any]]:
    """A video's container and its best video stream, from the beginning; PyAV's.

    A container that names other files (a playlist) doesn't get them.

    Raises:
        ClipError: it is not a regular file, can't be opened, has no video stream, or frames of too many pixels.
    """
    try:
        import av
        from av.container import Flags
    except ImportError as error:
        raise UserError("reading videos needs PyAV: pip install av") from error
    with ExitStack() as stack:
        try:
            source = file
            if isinstance(source, (Path, str)):
                if not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116
                    raise ClipError("no regular file")
                source = stack.enter_context(open(source, "rb", buffering=0))  # noqa: PTH123
            source.seek(0)
            options = {"protocol_whitelist": ""}
            container = av.open(source, "r", metadata_errors="replace", container_options=options)
            stack.enter_context(container)
        except ClipError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClipError(f"not a readable video: {reason(error)}") from error
        made_up: Any = Flags.gen_pts  # time stamps; they are wrong where frames come in another order
        container.flags &= ~made_up.value
        yield container, _best(container)


def _best(container: Any) -> Any:
    """FFmpeg's best video stream that is no attached picture, its decoder set up."""
    from av.stream import Disposition

    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not videos:
        raise ClipError("no video stream")
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise ClipError("no decoder for this codec")
    check_size(stream.width, stream.height)
    # more threads hide what is wrong with a slice (H.264), or crash on it; VP8's look at more of it
    codec = stream.codec_context.name
    stream.thread_type, stream.thread_count = ("SLICE", 2) if codec == "vp8" else ("NONE", 1)
    options = {"err_detect": STRICT[codec]} if codec in STRICT else {}
    if Image.MAX_IMAGE_PIXELS is not None:
        options["max_pixels"] = str(4 * Image.MAX_IMAGE_PIXELS)  # of memory, margins and all; `check_size` is exact
    stream.codec_context.options = options
    return stream


def check_size(width: int, height: int) -> None:
    """Refuses frames that are too large.

    Raises:
        ClipError: they have more pixels than Pillow's bound.
    """
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ClipError(f"frames of {width} × {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")


def timed(file: Video, start: float, use: Callable[[Iterator[Timed], Any], T]) -> T:
    """Gives a video's frames to ``use``, from its first or one that is shown before ``start`` on, and the stream.

    Their times are their time stamps. Where these are missing, or don't increase from one shown frame to the next, as
    in AVI, ``use`` is called again with all frames from the beginning: frame k then is at k divided by the rate.

    Raises:
        ClipError: the video can't be opened or decoded, or there is no telling its frames' times.
    """
    with opened(file) as (container, stream):
        try:
            return use(_from_before(container, stream, start), stream)
        except _UnstampedError:
            pass
    with opened(file) as (container, stream):
        return use(_counted(container, stream), stream)


def _from_before(container: Any, stream: Any, start: float) -> Iterator[Timed]:
    """Frames from one before ``start`` on: where a seek doesn't land there, it is tried again from further back."""
    back = 0.0
    while start - back > 0 and _seekable(container) and stream.start_time is not None:
        _seek(container, stream, start - back)
        source = _stamped(container, stream, sought=True)
        try:
            first = next(source, None)
        except ClipError:  # not a place to begin
            first = None
        if first is not None and first[0] < start - 1e-6:
            return itertools.chain([first], source)
        back = max(2 * back, 1.0)
    if back:
        _seek(container, stream, 0.0)
    return _stamped(container, stream)


def _seekable(container: Any) -> bool:
    return any(name in container.format.name for name in SEEKABLE)


def _seek(container: Any, stream: Any, time: float) -> None:
    import av

    try:
        container.seek(int(time / stream.time_base) + (stream.start_time or 0), backward=True, stream=stream)
    except av.FFmpegError as error:
        raise ClipError(f"can't seek: {reason(error)}") from error


def _stamped(container: Any, stream: Any, sought: bool = False) -> Iterator[Timed]:
    """Frames at their time stamps.

    A frame before which others are still due, by their packets' stamps, is held back until they come, which means that
    the stamps are of no use, or so many later ones have come that they won't: some packets hold no frame of their own.
    """
    origin, last = stream.start_time, None
    due: set[int] = set()
    held: list[Timed] = []
    for frame in _decoded(container, stream, due, sought):
        if frame.pts is None or (last is not None and frame.pts <= last):
            raise _UnstampedError
        origin = frame.pts if origin is None else origin
        held.append((float((frame.pts - origin) * stream.time_base), frame))
        due.discard(frame.pts)
        late = {stamp for stamp in due if stamp < frame.pts}
        if not late or last is None or len(held) > MOST_LATE:
            due -= late
            yield from held
            held = []
        last = frame.pts
    yield from held


def _counted(container: Any, stream: Any) -> Iterator[Timed]:
    """All frames, by their number and the stream's rate, as long as decoding time stamps don't say otherwise."""
    rate, known = stream.average_rate, None
    if not rate:
        raise ClipError("its time stamps are missing or in disorder, and it has no frame rate")
    for k, frame in enumerate(_decoded(container, stream, set())):
        if frame.dts is not None:  # of the packet that brought it out
            if known is not None:
                steps = (frame.dts - known[1]) * stream.time_base * rate
                if abs(steps - (k - known[0])) > Fraction(1, 2):
                    raise ClipError("its time stamps are missing or in disorder, and its frame rate isn't constant")
            known = (k, frame.dts)
        yield float(k / rate), frame


def _decoded(container: Any, stream: Any, due: set[int], sought: bool = False) -> Iterator[av.VideoFrame]:
    """Frames in the order in which they are shown; after a seek from a key frame on.

    ``due`` gets the time stamps of the packets.
    """
    import av

    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ClipError("a damaged packet")
            if packet.pts is not None:
                due.add(packet.pts)
            for frame in packet.decode():
                sought = sought and not frame.key_frame  # what comes before it may need frames that weren't decoded
                if frame.is_corrupt and not sought:
                    place = "" if frame.time is None else f" at {frame.time:.3f} s"
                    raise ClipError(f"a damaged frame{place}")
                if not sought:
                    yield frame
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"can't be decoded: {reason(error)}") from error


def picture_end(container: Any, stream: Any) -> float | None:
    """The end of a video's last frame in seconds from its beginning, or None where its packets don't say either.

    Raises:
        ClipError: it can't be read.
    """
    if stream.duration and container.format.name != "asf":  # ASF's is the container's
        return float(stream.duration * stream.time_base)
    if _seekable(container) and container.duration:
        with suppress(ClipError):  # a file that was cut has nothing there
            _seek(container, stream, container.duration / 1e6)
            if (end := _last(container, stream)) is not None:
                return end
        _seek(container, stream, 0.0)
    return _last(container, stream)


def _last(container: Any, stream: Any) -> float | None:
    """The end of the last of the packets to come."""
    import av

    first, last = stream.start_time, None
    shown = int(1 / (stream.average_rate * stream.time_base)) if stream.average_rate else 0
    try:
        for packet in container.demux(stream):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                first = stamp if first is None else first
                last = max(last or 0, stamp - first + (packet.duration or shown))
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"can't be read to its end: {reason(error)}") from error
    return None if last is None else float(last * stream.time_base)
