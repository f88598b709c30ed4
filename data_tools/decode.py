"""Decoding in worker processes. Nothing here imports torch: a worker starts quickly and stays small."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from alphaflow.data.clip_files import SameClipError, of_the_machine, take
from alphaflow.data.decoding.containers import ClipError
from alphaflow.data.decoding.images import UNREADABLE, Crop, crop, decode
from alphaflow.data.decoding.sizes import Size
from alphaflow.data.decoding.video import PixelArray
from alphaflow.data.listing.beside import read_caption
from alphaflow.data.listing.entry import Entry
from alphaflow.errors import reason, said


@dataclass(frozen=True)
class ImageTransform:
    """How a picture becomes a sample.

    Attributes:
        size: pixels along each side, or (h, w).
        crop: ``"adm"``: box-halve, bicubic, centre (DiT, MeanFlow); ``"centre"``: centre, Lanczos (α-Flow's official
            runs); ``"resize"``: bicubic to this size, whatever its aspect.
        variants: 2 with mirrored copies, else 1.
    """

    size: Size
    crop: Crop = "adm"
    variants: int = 1

    def __call__(self, entry: Entry, variant: int) -> tuple[PixelArray, dict[str, Any]]:
        """(h, w, 3), 8-bit, and what is recorded of it."""
        pixels = np.asarray(crop(decode(entry.read()), self.size, self.crop))
        if variant:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels), {"source": entry.name, "crop": self.crop, "mirrored": bool(variant)}


@dataclass(frozen=True)
class ClipTransform:
    """How a video becomes samples.

    Attributes:
        size, crop: size and crop of each frame, as in `ImageTransform`.
        frames: number of frames of a clip.
        fps: frames a second, or None for the video's own.
        variants: clips a video, evenly spaced, and no two of them the same.
    """

    size: Size
    frames: int
    fps: float | None = None
    crop: Crop = "adm"
    variants: int = 1

    def __call__(self, entry: Entry, variant: int) -> tuple[PixelArray, dict[str, Any]]:
        """(f, h, w, 3), 8-bit, and what is recorded of it."""
        count = self.variants
        place, apart = ((variant + 0.5) / count, (variant > 0) / count) if count > 1 else (0.5, 0.0)
        taken = take(entry, self.frames, self.fps, place, apart)
        frames = [np.asarray(crop(Image.fromarray(frame), self.size, self.crop)) for frame in taken.frames]
        times = [round(float(time), 6) for time in taken.times]
        record = {"source": entry.name, "crop": self.crop, "frames": self.frames, "fps": taken.fps, "times": times}
        return np.stack(frames), record


Transform = ImageTransform | ClipTransform


@dataclass(frozen=True)
class DecodedSample:
    """A decoded sample, or why there is none.

    Attributes:
        index: its place among all samples.
        pixels: (h, w, 3) or (f, h, w, 3), 8-bit; None if it was rejected.
        record: what is kept of it, or ``{"source": …, "reason": …, "lost": …}``.
        partner: the pixels of the picture that it is paired with, like ``pixels``; None where it has none.
        caption: its text; None where it has none.
    """

    index: int
    pixels: PixelArray | None
    record: dict[str, Any]
    partner: PixelArray | None = None
    caption: str | None = None


PATIENCE = 300.0
"""Seconds of a processor's time that a worker may take for a file."""


def decode_one(transform: Transform, index: int, entry: Entry, variant: int) -> DecodedSample:
    """Decodes a sample, its partner in the same way, and its caption; what is wrong with a file becomes a reason."""
    source, of = entry, ""
    try:
        with _patience():
            pixels, record = transform(entry, variant)
            partner = caption = None
            if entry.partner is not None:
                source, of = entry.partner, "its partner "
                partner, pair = transform(source, variant)
                record = {**record, "pair": pair["source"]}
            if entry.caption is not None:
                source, of = entry.caption, "its caption "
                caption = read_caption(source)
        return DecodedSample(index, pixels, record, partner, caption)
    except Exception as error:
        why, lost = _why(error)
        return _rejected(index, entry, f"{of}{source.name}: {why}" if of else why, lost)


def _why(error: Exception) -> tuple[str, int]:
    """Why a file can't be decoded, in words, and how many samples are lost by that; a machine's fault is raised."""
    if isinstance(error, SameClipError):
        return str(error), 0
    if isinstance(error, Image.DecompressionBombError):
        return "too large to decode safely", 1
    if isinstance(error, UnidentifiedImageError):
        return "not a picture", 1
    if isinstance(error, (ClipError, *UNREADABLE)):
        if (fault := of_the_machine(error)) is not None:
            raise fault from None
        return reason(error), 1
    if isinstance(error, MemoryError):
        return "too large for this machine's memory", 1
    return said(error), 1  # a decoder's own fault, on a file that it can't take


@contextmanager
def _patience() -> Iterator[None]:
    """Lets the system end a worker that takes too long, whatever code it is in; others are not ended."""
    if not _worker or not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _rejected(index: int, entry: Entry, reason: str, lost: int = 1) -> DecodedSample:
    return DecodedSample(index, None, {"source": entry.name, "reason": reason, "lost": lost})


_worker = False
"""Whether this process decodes for another."""

Task = tuple[int, Entry, int]
"""A sample's index, its entry, its variant."""


def _decode_chunk(transform: Transform, chunk: list[Task]) -> list[DecodedSample]:
    return [decode_one(transform, *task) for task in chunk]


class Decoder:
    """Decodes samples in worker processes, ahead of who asks, in order.

    A file that kills its worker (a decoder's crash, or the system for want of memory) is found by decoding what was
    under way one at a time; if it does so again, it is rejected, and the rest goes on.

    Args:
        transform: how a file becomes a sample.
        workers: processes; 0 decodes in this one.
        chunk: samples handed to a worker at once.
    """

    def __init__(self, transform: Transform, workers: int, chunk: int = 8) -> None:
        self.transform, self.workers = transform, workers
        self.chunk = 1 if isinstance(transform, ClipTransform) else chunk  # clips are large
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, tasks: Iterable[Task]) -> Iterator[DecodedSample]:
        """Samples in the order of their tasks."""
        if not self.workers:
            yield from (decode_one(self.transform, *task) for task in tasks)
            return
        source = iter(tasks)
        chunks = iter(lambda: list(itertools.islice(source, self.chunk)), [])
        waiting: deque[tuple[list[Task], Future[list[DecodedSample]]]] = deque()
        for chunk in itertools.islice(chunks, 4 * self.workers + 2):
            waiting.append((chunk, self._submit(chunk)))
        while waiting:
            chunk, future = waiting.popleft()
            try:
                samples = future.result()
            except BrokenProcessPool:
                under_way = [chunk, *(other for other, _ in waiting)]
                waiting.clear()
                self._pool = None
                samples = [sample for other in under_way for sample in self._one_by_one(other)]
            for following in itertools.islice(chunks, 4 * self.workers + 2 - len(waiting)):
                waiting.append((following, self._submit(following)))
            yield from samples

    def _one_by_one(self, chunk: list[Task]) -> Iterator[DecodedSample]:
        for task in chunk:
            for _ in range(2):
                try:
                    yield self._submit([task]).result()[0]
                    break
                except BrokenProcessPool:
                    self._pool = None
            else:
                yield _rejected(task[0], task[1], f"its decoder crashed, or took more than {PATIENCE:g} s, twice")

    def _submit(self, chunk: list[Task]) -> Future[list[DecodedSample]]:
        for _ in range(2):
            if self._pool is None:
                context, parent = get_context("spawn"), (os.getpid(),)
                self._pool = ProcessPoolExecutor(self.workers, context, initializer=_quiet, initargs=parent)
            try:
                return self._pool.submit(_decode_chunk, self.transform, chunk)
            except BrokenProcessPool:  # a worker died meanwhile; what waits finds out for itself
                self._pool = None
        raise AssertionError("a new pool of workers is broken")


def _quiet(parent: int) -> None:
    """A worker leaves Ctrl-C to the main process, ends with it, and leaves FFmpeg's complaints to our reasons."""
    global _worker
    _worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        import av.logging

        av.logging.set_level(av.logging.PANIC)
    except ImportError:
        pass


def _follow(parent: int) -> None:
    """Ends this process once its parent is gone: a killed main process can't tell its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
