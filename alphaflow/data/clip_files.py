"""Clips of videos and of folders of frames: from which moment, and whether two of a video are the same."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import reason
from .decoding.containers import ClipError
from .decoding.images import UNREADABLE, decode
from .decoding.video import Clip, check_one_size, read_clip, video_info
from .listing.entry import Entry
from .listing.found import KNOWN
from .listing.names import ending, is_hidden, number


@dataclass(frozen=True)
class Taken:
    """Frames that were taken of a video.

    Attributes:
        frames: (f, h, w, 3), 8-bit.
        times: time of each frame, in seconds from its start; of frames in a folder without a rate, their places.
        fps: frames a second, as asked for, else the video's own; None where nothing says.
    """

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    times: np.ndarray[Any, np.dtype[np.float64]]
    fps: float | None


def take(entry: Entry, frames: int, fps: float | None = None, place: float = 0.5, apart: float = 0.0) -> Taken:
    """Takes a clip of a video, or of its segment; where the file can't be read, of the one instead of it.

    Args:
        entry: the video, or a folder of frames, which are taken to be ``fps`` a second.
        frames: how many.
        fps: frames a second, by time stamps; None for the video's own, one after another.
        place: where the clip begins, as a share of the room that there is.
        apart: how much room lies between it and the clip before it of the same video; 0 where there is none.

    Raises:
        ClipError: no file of it can be read, it is too short, or (`SameClipError`) the clip before is the same.
        OSError: a file can't be opened.
    """
    try:
        return (_of_folder if entry.frames else _of_video)(entry, frames, fps, place, apart)
    except (ClipError, OSError) as error:
        if entry.instead is None or isinstance(error, SameClipError) or of_the_machine(error) is not None:
            raise
    return take(entry.instead, frames, fps, place, apart)


PASSING = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ETIMEDOUT}
"""Faults of the machine, not of the file: they end the job, which can be run again."""


def of_the_machine(error: BaseException) -> OSError | None:
    """The fault of the machine behind an error, if it is one. Of FFmpeg's own, EIO says that a file is damaged."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError) or cause.errno not in PASSING:
        return None
    return None if cause.errno == errno.EIO and type(cause).__module__.startswith("av") else cause


class SameClipError(ClipError):
    """A clip has the frames of the one before it: there is no more to be had of the video."""

    def __init__(self) -> None:
        super().__init__("the video is so short that the clip before has the same frames")


def _of_video(entry: Entry, frames: int, fps: float | None, place: float, apart: float) -> Taken:
    with video_of(entry) as file:
        info = video_info(file)
        first, last = entry.segment or (0.0, info.duration)
        rate = fps or info.fps
        room = max((last or 0.0) - first - (frames / rate if rate else 0.0), 0.0)
        start, before = first + place * room, first + (place - apart) * room
        end = None if entry.segment is None else last
        try:
            clip = read_clip(file, frames, fps=fps, start=start, end=end)
        except ClipError:  # the average rate promised more frames than there are from here on
            if start == first or apart:
                raise
            clip = read_clip(file, frames, fps=fps, start=first, end=end)
    if apart and _same(clip, before, fps):
        raise SameClipError
    return Taken(clip.frames, clip.times, rate)


def _same(clip: Clip, start: float, fps: float | None) -> bool:
    """Whether a clip that begins earlier, at this start, has the same frames."""
    if fps is None:  # from the first frame at or after the start on
        return clip.before is None or clip.before < start - 1e-6
    return bool((clip.times <= start + np.arange(len(clip.times)) / fps + 1e-6).all())  # they were on screen already


@contextmanager
def video_of(entry: Entry) -> Iterator[str | BinaryIO]:
    """What a video is read from: its file's path; or, in an archive, its bytes as a file."""
    if not entry.in_archive:
        yield entry.path
        return
    with entry.open() as stream:
        yield stream


def _of_folder(entry: Entry, frames: int, fps: float | None, place: float, apart: float) -> Taken:
    listed = (file.name for file in Path(entry.path).iterdir())
    names = sorted((name for name in listed if ending(name) not in KNOWN and not is_hidden(name)), key=number)
    room = len(names) - frames
    if room < 0:
        raise ClipError(f"the folder has {len(names)} frames, fewer than {frames}")
    start = int(place * room)
    if apart and start == int((place - apart) * room):
        raise SameClipError
    chosen = names[start : start + frames]
    try:
        pictures = [np.asarray(decode(entry._replace(name=f"{entry.name}/{name}").read())) for name in chosen]
    except UNREADABLE as error:
        raise ClipError(f"a frame can't be read: {reason(error)}") from error
    check_one_size(pictures)
    return Taken(np.stack(pictures), (start + np.arange(frames)) / (fps or 1.0), fps)
