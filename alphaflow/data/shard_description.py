"""dataset.json: what the shards of a folder hold."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder, Normalisation
from ..autoencoders.opening import AUTOENCODERS
from ..describe import rebuild
from ..errors import UserError, is_number, is_whole, said
from ..files import parsed
from ..types import Batch, Cond
from .listing.endings import ENCODING, Modality

DATASET, INDEX = "dataset.json", "index.npy"

INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("label", "<i4")])
"""A sample's shard, where its array begins in it, and its label (−1 for none)."""

MOST_BYTES = 2**60
"""No file, and no sample, is as large."""


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
        if not isinstance(self.posterior, bool):
            raise ValueError(f"posterior is {self.posterior!r}")
        if not isinstance(self.class_names, list) or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class_names is not a list of names")
        if self.fps is not None and not (is_number(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps!r}")
        expected = (*(n * (1 + self.posterior) for n in self.shape[:1]), *self.shape[1:])
        possible = min(self.stored, default=0) > 0 and math.prod(self.stored) < MOST_BYTES
        if not possible or self.stored != expected:
            raise ValueError(f"arrays of {self.stored} hold no samples of {self.shape}")
        if not all(map(is_number, (*record["shift"], *record["scale"]))) or 0 in record["scale"]:
            raise ValueError("shift and scale are finite numbers, and no scale is 0")
        self.normalisation = Normalisation(tuple(record["shift"]), tuple(record["scale"]))
        self.normalisation.tensors(torch.empty(1, *self.shape, device="meta"))
        for shard in self.shards:
            if Path(shard["file"]).name != shard["file"] or "\0" in shard["file"]:
                raise ValueError(f"{shard['file']!r} is not a file in this folder")
            if not all(is_whole(shard[key]) and 0 <= shard[key] < MOST_BYTES for key in ("bytes", "samples")):
                raise ValueError(f"{shard['file']!r} can't have so many bytes or samples")

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
    def _affine(self) -> tuple[Tensor | None, Tensor]:
        """What is subtracted from means, unless it is nothing, and what a stored array is then multiplied with."""
        shift, scale = self.normalisation.tensors(torch.empty(1, *self.shape))
        return shift if shift.any() else None, torch.cat([scale] * (2 if self.posterior else 1), dim=1)

    def batch(self, stored: Tensor, labels: Tensor | None) -> Batch:
        """Normalised arrays (b, …) as a batch: latents, or means with deviations."""
        cond = Cond() if labels is None else Cond(labels=labels)
        mean, std = stored.chunk(2, dim=1) if self.posterior else (stored, None)
        return Batch(mean, cond, std)
