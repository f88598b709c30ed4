"""dataset.json: what the shards of a folder hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder, Normalisation
from ..autoencoders.opening import AUTOENCODERS
from ..describe import rebuild
from ..errors import UserError, is_number, is_whole, said
from ..files import parsed
from ..text.text_encoder import TextEncoder
from ..text.text_encoders import TEXT_ENCODERS
from ..types import Batch, Cond
from .listing.endings import ENCODING, Modality
from .listing.tars import TAR_BLOCK, padded

DATASET, INDEX = "dataset.json", "index.npy"

INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("label", "<i4")])
"""A sample's shard, where its array begins in it, and its label (−1 for none)."""

HEADER = 128
"""Bytes of an array's header."""

CONDITIONS = {"image": ("<f2",), "mask": ("|b1",), "tokens": ("<i4", "<f2")}
"""What stands behind a sample's latent in a shard, in this order, each where there is one; and of which types."""

MOST_BYTES, MOST_SAMPLE = 2**60, 2**31
"""No file is as large, and no sample's arrays are."""


class Description:
    """dataset.json: what the shards of a folder hold.

    Args:
        place: the folder.
        text: dataset.json's, where it is known already.
        kind: what is looked for, ``"images"`` or ``"clips"``; None for either.

    Raises:
        UserError: there is none, it is damaged, or encoding isn't finished.
    """

    def __init__(self, place: Path | str, text: str | bytes | None = None, kind: Modality | None = None) -> None:
        self.place = Path(place)
        if text is None:
            if not self.place.is_dir():
                raise UserError(f"{place} is not a folder of shards; encode {ENCODING[kind or 'images']} into it first")
            try:
                text = (self.place / DATASET).read_bytes()
            except OSError as error:
                what = f"encoded {ENCODING[kind]}" if kind else "shards"
                raise UserError(f"{place} holds no {DATASET}; give a folder of {what}") from error
        try:
            self.record: dict[str, Any] = parsed(text)
            finished = self.record["finished"]
            if finished:
                self._take(self.record)
        except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else said(error)
            raise UserError(f"{self.place / DATASET} is damaged ({why}); encode again, or restore it") from error
        if not finished:
            raise UserError(f"{place} isn't finished: encode again with the same settings, which continues it")

    def _take(self, record: dict[str, Any]) -> None:
        """What the record says, checked as far as others rely on it without looking."""
        self.stored: tuple[int, ...] = tuple(int(n) for n in record["stored_shape"])
        self.shape: tuple[int, ...] = tuple(int(n) for n in record["shape"])
        self.posterior: bool = record["posterior"]
        self.class_names: list[str] = record["class_names"]
        self.shards: list[dict[str, Any]] = record["shards"]
        self.fps: float | None = record.get("fps")
        self._described, self._measured = record["autoencoder"], record["measured"]
        self._text = record.get("text_encoder")
        self.conditions = {
            name: (tuple(each["shape"]), each["dtype"]) for name, each in dict(record.get("conditions", {})).items()
        }
        if not isinstance(self.posterior, bool):
            raise ValueError(f"posterior is {self.posterior!r}")
        if not isinstance(self.class_names, list) or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class_names is not a list of names")
        if self.fps is not None and not (is_number(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps!r}")
        expected = (*(n * (1 + self.posterior) for n in self.shape[:1]), *self.shape[1:])
        possible = min(self.stored, default=0) > 0 and 2 * math.prod(self.stored) < MOST_SAMPLE
        if not possible or self.stored != expected:
            raise ValueError(f"arrays of {self.stored} hold no samples of {self.shape}")
        self._check_conditions()
        self.vocabulary = record["conditions"]["tokens"].get("vocabulary") if "tokens" in self.conditions else None
        if self.vocabulary is not None and not (is_whole(self.vocabulary) and self.vocabulary > 0):
            raise ValueError(f"a vocabulary of {self.vocabulary!r} tokens can't be")
        if not all(map(is_number, (*record["shift"], *record["scale"]))) or 0 in record["scale"]:
            raise ValueError("shift and scale are finite numbers, and no scale is 0")
        self.normalisation = Normalisation(tuple(record["shift"]), tuple(record["scale"]))
        self.normalisation.tensors(torch.empty(1, *self.shape, device="meta"))
        for shard in self.shards:
            if Path(shard["file"]).name != shard["file"] or "\0" in shard["file"]:
                raise ValueError(f"{shard['file']!r} is not a file in this folder")
            if not all(is_whole(shard[key]) and 0 <= shard[key] < MOST_BYTES for key in ("bytes", "samples")):
                raise ValueError(f"{shard['file']!r} can't have so many bytes or samples")

    def _check_conditions(self) -> None:
        for name, (shape, dtype) in self.conditions.items():
            ranks = {"image": (len(self.shape),), "mask": (1,), "tokens": (1, 2)}
            if name not in CONDITIONS or dtype not in CONDITIONS[name] or len(shape) not in ranks[name]:
                raise ValueError(f"the condition {name!r} can't be {dtype} {shape}")
            if not all(is_whole(side) and side > 0 for side in shape) or 4 * math.prod(shape) >= MOST_SAMPLE:
                raise ValueError(f"the condition {name!r} can't be of shape {shape}")
        shapes = {name: shape for name, (shape, _) in self.conditions.items()}
        tokens, mask = shapes.get("tokens", ()), shapes.get("mask", ())
        if shapes.get("image", self.shape) != self.shape or tokens[:1] != mask:
            raise ValueError(f"the conditions {shapes} don't belong to samples of {self.shape}")
        _ = self.row  # numpy refuses those that are together too large

    @cached_property
    def row(self) -> np.dtype[np.void]:
        """A sample's arrays in a shard, from where its latent's values begin: each at its place, whatever is between.

        Members of a tar begin at whole blocks, behind a header of one block.
        """
        formats: dict[str, Any] = {"latent": ("<f2", self.stored)}
        formats |= {name: (self.conditions[name][1], self.conditions[name][0]) for name in sorted(self.conditions)}
        offsets, at, end = list[int](), 0, 0
        for dtype, shape in formats.values():
            offsets.append(at)
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end = at + size
            at += padded(HEADER + size) + TAR_BLOCK
        names = list(formats)
        return np.dtype({"names": names, "formats": list(formats.values()), "offsets": offsets, "itemsize": end})

    @cached_property
    def text_encoder(self) -> TextEncoder | None:
        """What made the tokens; None where there are none, or it is the user's own."""
        return None if self._text is None else rebuild(self._text, TEXT_ENCODERS)

    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder that the shards were made with; None where it is the user's own."""
        if self._described is None:
            return None
        return self.measured(rebuild(self._described, AUTOENCODERS))

    def measured(self, autoencoder: Autoencoder) -> Autoencoder:
        """An autoencoder that decodes with the shift and scale that were measured, if they were."""
        return autoencoder.measured(self.normalisation) if self._measured else autoencoder

    def normalise_(self, stored: Tensor) -> Tensor:
        """Brings stored arrays (b, …), float32, to unit variance, in place: (mean − shift)·scale, std·scale."""
        shift, scale = self._affine
        if shift is not None:
            stored.narrow(1, 0, self.shape[0]).sub_(shift)
        return stored.mul_(scale)

    @cached_property
    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        return self.normalisation.tensors(torch.empty(1, *self.shape))

    @cached_property
    def _affine(self) -> tuple[Tensor | None, Tensor]:
        """What is subtracted from means, unless it is nothing, and what a stored array is then multiplied with."""
        shift, scale = self._shift_and_scale
        return shift if shift.any() else None, torch.cat([scale] * (2 if self.posterior else 1), dim=1)

    def condition(self, name: str, stored: np.ndarray[Any, Any]) -> Tensor:
        """Stored arrays (b, …) of a condition as a network takes them: images normalised as latents are."""
        if name == "mask":
            return torch.from_numpy(stored.view(np.uint8) != 0)  # another process may have written anything there
        found = torch.from_numpy(stored)
        if name == "image":
            shift, scale = self._shift_and_scale
            return (found.float() - shift) * scale
        return found.float() if found.is_floating_point() else found.long()

    def wrong(self, name: str, values: Tensor) -> Tensor:
        """Which of these arrays (b, …) hold what can't be: numbers that aren't finite, unknown tokens; (b,), bool."""
        flat = values.flatten(1)
        if name != "tokens" or values.is_floating_point():
            return ~flat.isfinite().all(1)
        outside = flat < 0 if self.vocabulary is None else (flat < 0) | (flat >= self.vocabulary)
        return outside.any(1)

    def batch(
        self, stored: Tensor, labels: Tensor | None, conditions: Mapping[str, Tensor] = MappingProxyType({})
    ) -> Batch:
        """Normalised arrays (b, …) as a batch: latents, or means with deviations; and what they are conditioned on."""
        cond = Cond(labels, **conditions)
        mean, std = stored.chunk(2, dim=1) if self.posterior else (stored, None)
        return Batch(mean, cond, std)
