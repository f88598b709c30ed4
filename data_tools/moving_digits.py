"""Clips of real handwritten digits that move and bounce: rendered to MP4 files once, and encoded as any clips are."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from alphaflow.autoencoders.pixels import Pixels
from alphaflow.data.digits import Digits
from alphaflow.data.listing.listing import list_files
from alphaflow.data.shard_description import Description
from alphaflow.errors import UserError
from alphaflow.files import replacing, sweep
from alphaflow.media.clips import write_mp4
from alphaflow.pixel_values import to_bytes

from .decode import ClipTransform
from .encode import encode
from .plan import EncodeOptions

FRAMES, SIZE, FPS = 8, 12, 8.0
"""Frames of a clip, side of the square that the digit moves in, and frames per second."""

DIGIT, PIXEL = 8, 4
"""A digit's side; and how many pixels of the MP4, along each side, show one of the digit's."""

VERSION = 2
"""Version of the rendered clips; with a new version the cache is made again."""


@dataclass(frozen=True)
class DigitTrajectory:
    """A digit's way.

    Attributes:
        start: row and column of its upper left corner in the first frame.
        velocity: rows and columns a frame.
    """

    start: tuple[int, int]
    velocity: tuple[int, int]

    def places(self, frames: int = FRAMES) -> list[tuple[int, int]]:
        """Row and column in each frame: it moves evenly and bounces off the sides."""
        room = SIZE - DIGIT
        return [
            (self._bounced(self.start[0] + k * self.velocity[0], room),
             self._bounced(self.start[1] + k * self.velocity[1], room))
            for k in range(frames)
        ]  # fmt: skip

    @staticmethod
    def _bounced(place: int, room: int) -> int:
        return room - abs(place % (2 * room) - room)


TRAJECTORIES = [
    DigitTrajectory((row, column), (speed, speed))
    for row, column in product((0, SIZE - DIGIT), repeat=2)
    for speed in (1, 2)
]
"""From each corner across the square, at one or two of the digit's pixels a frame: 8, so that each has many clips."""


def moving_digits(cache: Path | None = None, *, clips: int = 3, digits: int = 1797) -> Path:
    """A folder of latent shards, made at the first call: the 1,797 real `Digits`, moving and bouncing, labelled 0 … 9.

    Every digit is rendered to so many MP4 files of 48 × 48 pixels, 8 frames at 8 frames a second, each with a motion of
    its own (`TRAJECTORIES`); they are then encoded as ``alphaflow encode videos CLIPS SHARDS --autoencoder grey
    --size 12 --frames 8 --fps 8`` does: pixels (1, 8, 12, 12). Processes that ask at once wait for the first; what an
    interrupted one left is continued.

    Args:
        cache: where the folder lies; None for ``$ALPHAFLOW_CACHE``, else ``alphaflow`` in the user's cache
            (``$XDG_CACHE_HOME``, ``~/.cache``).
        clips: number of clips of each digit.
        digits: how many of them.

    Raises:
        UserError: fewer than one clip, or not 1 to 1,797 digits.
    """
    if clips < 1 or not 1 <= digits <= 1797:
        raise UserError(f"moving digits take at least one clip of 1 to 1797 digits, got {clips} of {digits}")
    place = alphaflow_cache(cache) / f"moving-digits-{VERSION}-{digits}-{clips}"
    shards = place / "shards"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):
        if not _finished(shards):
            sweep(place)  # what a killed rendering left
            if not (place / "clips").is_dir():
                _say(f"rendering {digits * clips:,} clips of moving digits to {place / 'clips'}, once")
                render(place / "clips", clips, digits)
            _say(f"encoding them to {shards}")
            transform = ClipTransform(size=SIZE, frames=FRAMES, fps=FPS)
            encode(
                list_files(place / "clips", "clips").mixed(),
                shards,
                Pixels(1),
                transform,
                EncodeOptions(batch_size=64, workers=0),
            )
    return shards


def alphaflow_cache(given: Path | None = None) -> Path:
    """Where what is made once is kept."""
    if given is not None:
        return given
    own, common = os.environ.get("ALPHAFLOW_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(common or Path.home() / ".cache") / "alphaflow"


def render(folder: Path, clips: int, digits: int) -> None:
    """Writes DIGIT/NNNN-K.mp4, whole or not at all, the same each time; motions are drawn from seed 0.

    Args:
        folder: the folder to write to.
        clips: number of clips of each digit.
        digits: how many of them.
    """
    real = Digits().all()
    assert real.cond.labels is not None
    labels = real.cond.labels[:digits].tolist()
    ink = to_bytes(real.x[:digits, 0]).numpy()
    chosen = np.random.default_rng(0).integers(len(TRAJECTORIES), size=(len(labels), clips)).tolist()
    with replacing(folder) as beside, ThreadPoolExecutor() as pool:
        for label in set(labels):
            (beside / str(label)).mkdir(parents=True)

        def one(index: int) -> None:
            for k, trajectory in enumerate(chosen[index]):
                clip = torch.from_numpy(frames_of(ink[index], TRAJECTORIES[trajectory]))[None]
                write_mp4(clip, beside / str(labels[index]) / f"{index:04d}-{k}.mp4", FPS)

        list(pool.map(one, range(len(labels))))


def frames_of(
    ink: np.ndarray[Any, np.dtype[np.uint8]], trajectory: DigitTrajectory
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A digit (8, 8), 8-bit, on its way: (f, 48, 48), white on black."""
    frames = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    for frame, (row, column) in zip(frames, trajectory.places(), strict=True):
        frame[row : row + DIGIT, column : column + DIGIT] = ink
    return frames.repeat(PIXEL, axis=1).repeat(PIXEL, axis=2)


def _finished(shards: Path) -> bool:
    try:
        Description(shards)
    except UserError:
        return False
    return True


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
