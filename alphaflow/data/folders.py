"""Datasets of image files and of clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError, reason
from ..pixel_values import to_unit
from ..text.text_encoder import TextEncoder
from ..types import Batch, Cond
from .clip_files import take, video_of
from .dataset import IndexedDataset, Indices
from .decoding.containers import ClipError
from .decoding.images import FORMATS, UNREADABLE, Mode, centre_crop, decode
from .decoding.sizes import Size, sides
from .decoding.video import video_info
from .listing.beside import read_caption
from .listing.entry import Entry
from .listing.listing import list_files, place_of
from .per_process import PerProcess


class ImageFolder(IndexedDataset):
    """Pictures in a folder, a zip, or tars, as pixels in [-1, 1]; which, and their classes, as `list_files` has it.

    Images of any mode are decoded to ``mode``. Without class folders the dataset has no classes. What fits into
    ``memory`` is decoded once, at the start, so that a damaged file is reported before training; more is decoded when
    it is needed. Captions are read at the start.

    Args:
        path: the folder, the zip, or a tar, a folder or a pattern of tars.
        size: every image is centre-cropped and scaled to this many pixels (`images.centre_crop`), along each side or
            (h, w). None takes images as they are: all must have one size.
        mode: ``"RGB"``, ``"L"`` for greyscale, ``"RGBA"`` with transparency; None takes ``"L"`` where every file is
            greyscale, else ``"RGB"``.
        captions: encodes the text beside each image, NAME.txt beside NAME.jpg; batches then have
            ``Cond(tokens=…, mask=…)``.
        pairs: another place, with a partner of the same name for each image; batches then have it as
            ``Cond(image=…)``, cropped, scaled and mirrored as the image is.
        batch_size: samples a batch.
        flip: mirrors each training image left to right half of the time.
        seed: seed of order and flips; None takes torch's global seed.
        memory: bytes of decoded images that may be held.

    Raises:
        UserError: no images, one that can't be read, sizes that differ while ``size`` is None, a caption or a partner
            that is missing, or a caption that is no text or takes too many tokens.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        size: Size | None = None,
        mode: Mode | None = "RGB",
        captions: TextEncoder | None = None,
        pairs: Path | str | None = None,
        batch_size: int = 128,
        flip: bool = False,
        seed: int | None = None,
        memory: int = 4 * 2**30,
    ) -> None:
        super().__init__(batch_size, seed)
        if size is not None:
            sides(size)
        if mode not in (None, *get_args(Mode)):
            raise UserError(f"mode is {', '.join(map(repr, get_args(Mode)))}, or None for the files' own; got {mode!r}")
        self.text_encoder = None if captions is None else TextEncoder.of(captions)
        self.pairs = None if pairs is None else Path(pairs)
        listing = list_files(path, "images", captions=captions is not None, pairs=self.pairs)
        self.listing = listing.checked()
        self.class_names = self.listing.class_names
        self.size = size
        partners = [entry.partner for entry in self.listing.entries if entry.partner is not None]
        self.mode = mode or _common_mode([*self.listing.entries, *partners])
        self.flip = flip
        other = None if self.pairs is None else str(self.pairs.absolute())
        about = {"path": str(Path(path).absolute()), "size": size, "mode": self.mode, "captions": captions}
        self.config = {**about, "pairs": other, "batch_size": batch_size, "flip": flip}
        labels = [entry.label for entry in self.listing.entries] if self.listing.class_names else []
        self._labels = torch.tensor(labels, dtype=torch.long)
        self._pool = PerProcess(ThreadPoolExecutor)
        self._captions = [] if captions is None else self._read_captions(captions)
        self._pixels: Tensor | None = None
        self.shape = tuple(self._image(self.listing.entries[0]).shape)
        if len(self) * math.prod(self._stacked) <= memory:
            self._pixels = self._stack(range(len(self)))

    def __len__(self) -> int:
        return len(self.listing.entries)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The images at these indices, mirrored by chance if ``flip`` is set and a generator is given."""
        chosen = torch.from_numpy(np.ascontiguousarray(indices))
        pixels = self._stack(indices.tolist()) if self._pixels is None else self._pixels[chosen]
        if self.flip and generator is not None:
            mirrored = torch.from_numpy(generator.random(len(indices)) < 0.5)
            pixels = torch.where(mirrored.view(-1, 1, 1, 1, 1), pixels.flip(-1), pixels)
        given = {"labels": self._labels[chosen]} if self.classes else {}
        if self.text_encoder is not None:
            texts = [self._captions[index] for index in indices.tolist()]
            given |= self.text_encoder.encode(texts)._asdict()
        if self.pairs is not None:
            given["image"] = to_unit(pixels[:, 1])
        return Batch(to_unit(pixels[:, 0]), Cond(**given))

    @property
    def _stacked(self) -> tuple[int, ...]:
        """Shape of an image with its partner, if it has one."""
        return (1 if self.pairs is None else 2, *self.shape)

    def _image(self, entry: Entry, pair: bool = False) -> Tensor:
        """One image (c, h, w), 8-bit, of this place or of the pairs'."""
        file = self._place(entry, pair)
        try:
            image = decode(entry.read(), self.mode)
            array = np.asarray(image if self.size is None else centre_crop(image, self.size))
        except UNREADABLE as error:
            why = "not an image" if isinstance(error, UnidentifiedImageError) else reason(error)
            raise UserError(f"can't read the image {file}: {why}; repair or remove it") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"the image {file} is too large to decode safely; remove it") from error
        return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())

    def _read_captions(self, encoder: TextEncoder) -> list[str]:
        """The captions of all images, which the encoder takes; read in threads, which not every tokenizer bears."""
        files = [entry.caption for entry in self.listing.entries if entry.caption is not None]
        texts = list(self._pool().map(self._caption, files))
        for file, text in zip(files, texts, strict=True):
            if wrong := encoder.problem(text):
                raise UserError(
                    f"the caption {self.listing.place(file.name)} can't be encoded: {wrong}; shorten it, or give a "
                    "greater length"
                )
        return texts

    def _caption(self, entry: Entry) -> str:
        try:
            return read_caption(entry)
        except UNREADABLE as error:
            file = self.listing.place(entry.name)
            raise UserError(f"can't read the caption {file}: {reason(error)}; mend or remove it") from error

    def _place(self, entry: Entry, pair: bool) -> Path:
        """Where an image lies, of this place or of the pairs'."""
        return place_of(self.pairs, entry.name) if pair and self.pairs else self.listing.place(entry.name)

    def _decode(self, index: int) -> Tensor:
        """One image and its partner (1 or 2, c, h, w), 8-bit."""
        entry, first = self.listing.entries[index], self.listing.entries[0]
        both = [(entry, False), *([] if entry.partner is None else [(entry.partner, True)])]
        out = torch.empty(self._stacked, dtype=torch.uint8)
        for row, (each, pair) in enumerate(both):
            pixels = self._image(each, pair)
            if pixels.shape != self.shape:
                (_, h, w), (_, height, width) = pixels.shape, self.shape
                raise UserError(
                    f"{self._place(each, pair)} is {w}×{h} pixels, but {first.name} is {width}×{height}; give a size, "
                    "to which every image is cropped and scaled"
                )
            out[row] = pixels
        return out

    def _stack(self, indices: Sequence[int] | range) -> Tensor:
        """Images with their partners (n, 1 or 2, c, h, w), 8-bit, decoded in threads."""
        out = torch.empty((len(indices), *self._stacked), dtype=torch.uint8)
        for row, pixels in enumerate(self._pool().map(self._decode, indices)):
            out[row] = pixels
        return out

    def __repr__(self) -> str:
        options = f"size={self.size}, mode={self.mode!r}, batch_size={self.batch_size}, flip={self.flip}"
        options += "" if self.text_encoder is None else f", captions={self.text_encoder!r}"
        options += "" if self.pairs is None else f", pairs={str(self.pairs)!r}"
        return f"ImageFolder({str(self.listing.path)!r}, {options}, seed={self.seed})"


class VideoFolder(IndexedDataset):
    """Clips in a folder, a zip, or tars, decoded when they are needed, as pixels in [-1, 1], (c, f, h, w).

    Which they are, and their classes, is as `list_files` has it.

    Each sample of an epoch is one clip of one video, from a random start; `fetch` without a generator takes the middle.

    Args:
        path: the folder, the zip, or a tar, a folder or a pattern of tars.
        frames: number of frames of a clip.
        size: every frame is centre-cropped and scaled to this many pixels, along each side or (h, w). None takes frames
            as they are: all clips must have one size.
        fps: frames a second, by time stamps; None for the video's own. Where there are no videos, it is the rate of
            folders of frames, ``VIDEO/0001.jpg``.
        mode: ``"RGB"``, or ``"L"`` for greyscale.
        batch_size: samples a batch.
        seed: seed of order and starts; None takes torch's global seed.

    Raises:
        UserError: no videos, one that can't be decoded or is too short, or sizes that differ while ``size`` is None.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        frames: int = 17,
        size: Size | None = 64,
        fps: float | None = None,
        mode: Mode = "RGB",
        batch_size: int = 8,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        of_size = None if size is None else sides(size)
        if mode not in ("RGB", "L"):
            raise UserError(f"the mode of clips is RGB or L, got {mode}")
        self.mode: Mode = mode
        if frames < 1 or (fps is not None and fps <= 0):
            raise UserError(f"clips need frames and fps above 0, got {frames} and {fps}")
        self.frames = frames
        self.size = size
        self.given_fps = fps
        about = {"path": str(Path(path).absolute()), "frames": frames, "size": size, "fps": fps}
        self.config = {**about, "mode": mode, "batch_size": batch_size}
        self.listing = list_files(path, "clips", frames=fps is not None).checked()
        self.class_names = self.listing.class_names
        self._pool = PerProcess(ThreadPoolExecutor)
        channels = 3 if mode == "RGB" else 1
        self.shape = tuple(self._clip(0, 0.5).shape) if of_size is None else (channels, frames, *of_size)

    @cached_property
    def fps(self) -> float | None:  # type: ignore[override]
        """Frames a second: the rate that was asked for, else the first video's; None where it doesn't say."""
        if self.given_fps is not None:
            return self.given_fps
        first = self.listing.entries[0]
        try:
            with video_of(first) as file:
                return video_info(file).fps
        except (ClipError, OSError):  # a folder of frames; or what reading says
            return None

    def __len__(self) -> int:
        return len(self.listing.entries)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """A clip of each video at these indices: from a random start if a generator is given, else from the middle."""
        places = [0.5] * len(indices) if generator is None else generator.random(len(indices)).tolist()
        clips = list(self._pool().map(self._clip, indices.tolist(), places))
        entries = [self.listing.entries[index] for index in indices.tolist()]
        labels = torch.tensor([entry.label for entry in entries]) if self.classes else None
        return Batch(to_unit(torch.stack(clips)), Cond() if labels is None else Cond(labels=labels))

    def _clip(self, index: int, place: float) -> Tensor:
        """One clip (c, f, h, w), 8-bit, starting at this share of what room there is."""
        entry, first = self.listing.entries[index], self.listing.entries[0]
        file = self.listing.place(entry.name)
        try:
            frames = take(entry, self.frames, self.given_fps, place).frames
        except (ClipError, OSError) as error:
            raise UserError(
                f"can't read the clip {file}: {reason(error)}; repair or remove it, or take fewer frames"
            ) from error
        if self.mode == "L":
            frames = np.stack([np.asarray(Image.fromarray(frame).convert("L"))[:, :, None] for frame in frames])
        if self.size is not None:
            frames = np.stack([_cropped(frame, self.size) for frame in frames])
        elif index and frames.shape[1:3] != self.shape[2:]:
            (height, width), (h, w) = frames.shape[1:3], self.shape[2:]
            raise UserError(
                f"{file} is {width}×{height} pixels, but {first.name} is {w}×{h}; give a size, to which every clip is "
                "cropped and scaled"
            )
        return torch.from_numpy(frames.transpose(3, 0, 1, 2).copy())

    def __repr__(self) -> str:
        options = f"frames={self.frames}, size={self.size}, fps={self.given_fps}, mode={self.mode!r}"
        return f"VideoFolder({str(self.listing.path)!r}, {options}, batch_size={self.batch_size}, seed={self.seed})"


def _cropped(frame: np.ndarray[Any, Any], size: Size) -> np.ndarray[Any, Any]:
    """A frame (h, w, 1 or 3) in another size."""
    grey = frame.shape[2] == 1
    cropped = np.asarray(centre_crop(Image.fromarray(frame[:, :, 0] if grey else frame), size))
    return cropped[:, :, None] if grey else cropped


GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes without colours."""


def _common_mode(entries: Sequence[Entry]) -> Mode:
    """``"L"`` where every picture is grey, else ``"RGB"``; stops at the first that isn't."""
    return "L" if all(_stored_mode(entry) in GREY for entry in entries) else "RGB"


def _stored_mode(entry: Entry) -> str:
    try:
        with entry.open() as stream, Image.open(stream, formats=FORMATS) as image:
            return image.mode
    except (*UNREADABLE, Image.DecompressionBombError):
        return "unreadable"  # reported when it is decoded
