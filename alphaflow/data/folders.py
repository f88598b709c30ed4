"""Datasets of image files and of clips."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..types import Batch, Cond
from .base import IndexedDataset, Indices, to_unit
from .images import ImageSource, Mode, centre_crop, class_folders, walk
from .kinds import CLIPS, nothing_of
from .processes import PerProcess
from .video import ClipError, read_clip, video_info


class ImageFolder(IndexedDataset):
    """Image files in a folder or a zip, ``CLASS/NAME.jpg`` or ``.png``, as pixels in [-1, 1].

    Images of any mode are decoded to ``mode``. Without class folders the dataset has no classes. What fits into
    ``memory`` is decoded once, at the start, so that a damaged file is reported before training; more is decoded when
    it is needed.

    Args:
        path: the folder or the zip.
        size: every image is centre-cropped and scaled to this many pixels (`images.centre_crop`). None takes images as
            they are: all must have one size.
        mode: ``"RGB"``, or ``"L"`` for greyscale; None takes ``"L"`` where every file is greyscale.
        batch_size: samples a batch.
        flip: mirrors each training image left to right half of the time.
        seed: of order and flips; None takes torch's global seed.
        memory: bytes of decoded images that may be held.

    Raises:
        UserError: no images, a file that can't be decoded, or sizes that differ while ``size`` is None.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        size: int | None = None,
        mode: Mode | None = "RGB",
        batch_size: int = 128,
        flip: bool = False,
        seed: int | None = None,
        memory: int = 4 * 2**30,
    ) -> None:
        super().__init__(batch_size, seed)
        if size is not None and size < 1:
            raise UserError(f"the image size must be at least 1 pixel, got {size}")
        self.source = ImageSource(path)
        self.size, self.mode, self.flip = size, mode or self.source.mode(), flip
        self._class_names, labels = class_folders(self.source.names)
        self._labels = torch.tensor(labels, dtype=torch.long)
        self._pool = PerProcess(ThreadPoolExecutor)
        self._pixels: Tensor | None = None
        self._first = self._decode(0)
        if len(self) * self._first.numel() <= memory:
            self._pixels = self._stack(range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self._first.shape)

    @property
    def class_names(self) -> Sequence[str]:
        """The class folders' names, sorted; empty where there are none."""
        return self._class_names

    def __len__(self) -> int:
        return len(self.source.names)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The images at these indices, mirrored by chance if ``flip`` is set and a generator is given."""
        if self._pixels is None:
            pixels = self._stack(indices.tolist())
        else:
            pixels = self._pixels[torch.from_numpy(np.ascontiguousarray(indices))]
        if self.flip and generator is not None:
            mirrored = torch.from_numpy(generator.random(len(indices)) < 0.5)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        cond = Cond(labels=self._labels[torch.from_numpy(np.ascontiguousarray(indices))]) if self.classes else Cond()
        return Batch(to_unit(pixels), cond)

    def _decode(self, index: int) -> Tensor:
        """One image (c, h, w), 8-bit."""
        name = self.source.names[index]
        image = self.source.image(name, self.mode, self.size)
        pixels = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1).copy())
        if index and pixels.shape != self._first.shape:
            (_, h, w), (_, height, width) = pixels.shape, self._first.shape
            raise UserError(
                f"{self.source.path / name} is {w}×{h} pixels, but {self.source.names[0]} is {width}×{height}; "
                "give a size, to which every image is cropped and scaled"
            )
        return pixels

    def _stack(self, indices: Sequence[int] | range) -> Tensor:
        """Images (n, c, h, w), 8-bit, decoded in threads."""
        out = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        for row, pixels in enumerate(self._pool().map(self._decode, indices)):
            out[row] = pixels
        return out

    def __repr__(self) -> str:
        options = f"size={self.size}, mode={self.mode!r}, batch_size={self.batch_size}, flip={self.flip}"
        return f"ImageFolder({str(self.source.path)!r}, {options}, seed={self.seed})"


class VideoFolder(IndexedDataset):
    """Clips in a folder, ``CLASS/NAME.mp4``, decoded when they are needed, as pixels in [-1, 1], (c, f, h, w).

    Each sample of an epoch is one clip of one video, from a random start; `once` takes the middle.

    Args:
        path: the folder.
        frames: of a clip.
        size: every frame is centre-cropped and scaled to this many pixels. None takes frames as they are: all clips
            must have one size.
        fps: frames a second, by time stamps; None for the video's own.
        mode: ``"RGB"``, or ``"L"`` for greyscale.
        batch_size: samples a batch.
        seed: of order and starts; None takes torch's global seed.

    Raises:
        UserError: no videos, one that can't be decoded or is too short, or sizes that differ while ``size`` is None.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        frames: int = 17,
        size: int | None = 64,
        fps: float | None = None,
        mode: Mode = "RGB",
        batch_size: int = 8,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.mode: Mode = mode
        if frames < 1 or (size is not None and size < 1) or (fps is not None and fps <= 0):
            raise UserError(f"clips need frames, size and fps above 0, got {frames}, {size} and {fps}")
        self.path, self.frames, self.size, self.given_fps = Path(path), frames, size, fps
        if not self.path.is_dir():
            raise UserError(f"{path} doesn't exist; give a folder of clips, CLASS/NAME.mp4")
        self.names = sorted(name for name in walk(self.path) if name.lower().endswith(CLIPS))
        if not self.names:
            raise nothing_of("clips", self.path, walk(self.path))
        self._class_names, self._labels = class_folders(self.names)
        self._pool = PerProcess(ThreadPoolExecutor)

    @cached_property
    def fps(self) -> float | None:
        """Frames a second: the rate that was asked for, else the first video's; None where it doesn't say."""
        if self.given_fps is not None:
            return self.given_fps
        try:
            return video_info(self.path / self.names[0]).fps
        except ClipError:
            return None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(c, frames, h, w)."""
        channels = 3 if self.mode == "RGB" else 1
        return tuple(self._clip(0, 0.5).shape) if self.size is None else (channels, self.frames, self.size, self.size)

    @property
    def class_names(self) -> Sequence[str]:
        """The class folders' names, sorted; empty where there are none."""
        return self._class_names

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """A clip of each video at these indices: from a random start if a generator is given, else from the middle."""
        places = [0.5] * len(indices) if generator is None else generator.random(len(indices)).tolist()
        clips = list(self._pool().map(self._clip, indices.tolist(), places))
        labels = torch.tensor([self._labels[index] for index in indices.tolist()]) if self.classes else None
        return Batch(to_unit(torch.stack(clips)), Cond() if labels is None else Cond(labels=labels))

    def _clip(self, index: int, place: float) -> Tensor:
        """One clip (c, f, h, w), 8-bit, starting at this share of what room there is."""
        file = self.path / self.names[index]
        try:
            info = video_info(file)
            rate = self.given_fps or info.fps
            length = self.frames / rate if rate else 0.0
            start = place * max((info.duration or 0.0) - length, 0.0)
            clip = read_clip(file, self.frames, fps=self.given_fps, start=start)
        except ClipError as error:
            raise UserError(
                f"can't read the clip {file}: {error}; repair or remove it, or take fewer frames"
            ) from error
        frames = clip.frames
        if self.mode == "L":
            frames = np.stack([np.asarray(Image.fromarray(frame).convert("L"))[:, :, None] for frame in frames])
        if self.size is not None:
            frames = np.stack([_cropped(frame, self.size) for frame in frames])
        elif index and frames.shape[1:3] != self.shape[2:]:
            (height, width), (h, w) = frames.shape[1:3], self.shape[2:]
            raise UserError(
                f"{file} is {width}×{height} pixels, but {self.names[0]} is {w}×{h}; give a size, to which every clip "
                "is cropped and scaled"
            )
        return torch.from_numpy(frames.transpose(3, 0, 1, 2).copy())

    def __repr__(self) -> str:
        options = f"frames={self.frames}, size={self.size}, fps={self.given_fps}, mode={self.mode!r}"
        return f"VideoFolder({str(self.path)!r}, {options}, batch_size={self.batch_size}, seed={self.seed})"


def _cropped(frame: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """A frame (h, w, 1 or 3) as a square."""
    grey = frame.shape[2] == 1
    square = np.asarray(centre_crop(Image.fromarray(frame[:, :, 0] if grey else frame), size))
    return square[:, :, None] if grey else square
