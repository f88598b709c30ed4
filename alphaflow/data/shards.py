"""Latent shards: reading what `alphaflow encode` wrote, by random access or as a stream."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.base import Autoencoder, Normalisation, Normalised
from ..autoencoders.diffusers_vae import DiffusersVAE
from ..describe import rebuild
from ..errors import UserError
from ..types import Batch, Cond
from .base import IndexedDataset, Indices

DATASET, INDEX = "dataset.json", "index.npy"
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("label", "<i4")])
"""A sample's shard, where its array begins in it, and its label (−1 for none)."""


class Description:
    """dataset.json: what the shards of a folder hold.

    Raises:
        UserError: there is none, it is damaged, or encoding isn't finished.
    """

    def __init__(self, place: Path | str, text: str | None = None) -> None:
        self.place = Path(place)
        if text is None:
            if not self.place.is_dir():
                raise UserError(f"{place} is no folder of shards; `alphaflow encode images SRC {place}` makes one")
            try:
                text = (self.place / DATASET).read_text(encoding="utf-8")
            except OSError as error:
                raise UserError(f"{place} holds no {DATASET}; give a folder that `alphaflow encode` made") from error
        try:
            self.record: dict[str, Any] = json.loads(text)
            finished = self.record["finished"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.place / DATASET} is damaged ({error}); encode again, or restore it") from error
        if not finished:
            raise UserError(
                f"{place} isn't finished: run the same `alphaflow encode` again, it goes on where it stopped"
            )
        self.stored: tuple[int, ...] = tuple(self.record["stored_shape"])
        self.shape: tuple[int, ...] = tuple(self.record["shape"])
        self.posterior: bool = self.record["posterior"]
        self.class_names: list[str] = self.record["class_names"]
        self.shards: list[dict[str, Any]] = self.record["shards"]
        self.normalisation = Normalisation(tuple(self.record["shift"]), tuple(self.record["scale"]))

    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder that the shards were made with; None where it is the user's own."""
        described = self.record["autoencoder"]
        if described is None:
            return None
        built: Autoencoder = rebuild(described)
        return self.measured(built)

    def measured(self, autoencoder: Autoencoder) -> Autoencoder:
        """An autoencoder that decodes with the shift and scale that were measured, if they were."""
        if not self.record["measured"]:
            return autoencoder
        shift, scale = self.normalisation.shift, self.normalisation.scale
        if isinstance(autoencoder, DiffusersVAE):
            return replace(autoencoder, shift=shift, scale=scale)
        return autoencoder if hasattr(autoencoder, "normalisation") else Normalised(autoencoder, shift, scale)

    def batch(self, stored: Tensor, labels: Tensor | None) -> Batch:
        """Stored arrays (b, …), float32, as a batch of unit variance: latents, or means with deviations.

        ``stored`` is changed in place: this is the inner loop of reading.
        """
        cond = Cond() if labels is None else Cond(labels=labels)
        view = (1, -1, *(1,) * (stored.ndim - 2))
        shift, scale = (torch.tensor(v).view(view) for v in (self.normalisation.shift, self.normalisation.scale))
        mean, std = stored.chunk(2, dim=1) if self.posterior else (stored, None)
        if shift.any():
            mean.sub_(shift)
        mean.mul_(scale)
        return Batch(mean, cond, None if std is None else std.mul_(scale))


class LatentShards(IndexedDataset):
    """Shards on a local disk, read in any order through their index, memory-mapped.

    Every epoch is an exact shuffle of all samples; the stream is continued at the very next sample. Where the
    autoencoder has a posterior, each batch holds its means and standard deviations, and the latent is drawn when it is
    used: by the Trainer on its device, or here with ``draw``. Shards elsewhere (http, s3, pipe:) are `RemoteShards`.

    Args:
        path: the folder that `alphaflow encode` made.
        batch_size: samples a batch.
        seed: of the order and of drawn latents; None takes torch's global seed.
        draw: yield latents instead of moments.
        damaged: ``"raise"`` stops at a shard that can't be read, ``"skip"`` leaves its samples out.
        rank, world: this process takes every world-th sample of each epoch, so that each is seen once by one.

    Raises:
        UserError: no finished shards there, or (``"raise"``) one is missing or has another length than recorded.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch_size: int = 256,
        seed: int | None = None,
        draw: bool = False,
        damaged: str = "raise",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(batch_size, seed, rank=rank, world=world)
        if damaged not in ("raise", "skip"):
            raise ValueError(f"damaged is raise or skip, got {damaged!r}")
        self.path, self.draw, self.damaged = Path(path), draw, damaged
        self.description = Description(path)
        self._index = np.load(self.path / INDEX, allow_pickle=False, mmap_mode=None)
        self._maps: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        broken = [(i, reason) for i in range(len(self.description.shards)) if (reason := self._check(i))]
        if broken and damaged == "raise":
            number, reason = broken[0]
            file = self.path / self.description.shards[number]["file"]
            raise UserError(
                f"the shard {file} {reason}; encode it again (remove it and run the same command), "
                'or leave it out with damaged="skip"'
            )
        if broken:
            self._index = self._index[~np.isin(self._index["shard"], [number for number, _ in broken])]
        self._values = int(np.prod(self.description.stored))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a latent: (c, h, w) or (c, f, h, w)."""
        return self.description.shape

    @property
    def class_names(self) -> Sequence[str]:
        """By label; empty where there are no classes."""
        return self.description.class_names

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder that the shards were made with; None where it is the user's own."""
        return self.description.autoencoder()

    def __len__(self) -> int:
        return len(self._index)

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The samples at these indices."""
        rows = self._index[indices]
        stored, size = np.empty((len(rows), self._values), dtype=np.float16), 2 * self._values
        for place, (shard, offset, _) in enumerate(rows.tolist()):
            stored[place] = self._map(shard)[offset : offset + size].view(np.float16)
        labels = torch.from_numpy(rows["label"].astype(np.int64)) if self.class_names else None
        batch = self.description.batch(torch.from_numpy(stored).float().view(-1, *self.description.stored), labels)
        if not self.draw:
            return batch
        seed = int((generator or np.random.default_rng(self.seed)).integers(2**63))
        return batch.drawn(torch.Generator().manual_seed(seed))

    def _map(self, shard: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A shard's bytes, mapped. By torch, which keeps no file open: there may be more shards than open files."""
        found = self._maps.get(shard)
        if found is None:
            about = self.description.shards[shard]
            mapped = torch.from_file(
                str(self.path / about["file"]), shared=False, size=about["bytes"], dtype=torch.uint8
            )
            found = self._maps[shard] = mapped.numpy()
        return found

    def _check(self, number: int) -> str:
        """What is wrong with a shard's file, as far as its size tells; empty if nothing."""
        shard = self.description.shards[number]
        try:
            size = (self.path / shard["file"]).stat().st_size
        except OSError:
            return "is missing"
        return "" if size == shard["bytes"] else f"has {size} bytes instead of {shard['bytes']}: it is damaged"

    def __repr__(self) -> str:
        return f"LatentShards({str(self.path)!r}, batch_size={self.batch_size}, draw={self.draw}, seed={self.seed})"


class RemoteShards:
    """Shards that are streamed: ``https://…/train-{000000..000127}.tar``, ``s3://…``, ``pipe:…``, by webdataset.

    Shards come in a fresh random order each epoch and samples through a shuffle buffer: not an exact shuffle, and not
    an exact resume (a continued stream begins its epoch again). Use `LatentShards` where the data fit on a disk.

    Args:
        urls: a pattern with braces, or a list.
        description: the folder's dataset.json, a local copy.
        batch_size: samples a batch.
        buffer: samples to shuffle among.
        seed: of the order; None takes torch's global seed.
        draw: yield latents instead of moments.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        description: Path | str,
        *,
        batch_size: int = 256,
        buffer: int = 5000,
        seed: int | None = None,
        draw: bool = False,
    ) -> None:
        self.urls, self.batch_size, self.buffer, self.draw = urls, batch_size, buffer, draw
        self.seed = torch.initial_seed() % 2**63 if seed is None else seed
        file = Path(description)
        self.description = Description(file.parent, file.read_text(encoding="utf-8"))
        self.epoch = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a latent: (c, h, w) or (c, f, h, w)."""
        return self.description.shape

    @property
    def classes(self) -> int | None:
        """The number of classes, or None."""
        return len(self.description.class_names) or None

    @property
    def class_names(self) -> Sequence[str]:
        """By label; empty where there are no classes."""
        return self.description.class_names

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end; one may span two epochs."""
        waiting: list[tuple[np.ndarray[Any, Any], int]] = []
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            seen = False
            for sample in self._epoch_stream():
                seen = True
                array = np.load(io.BytesIO(sample["latent.npy"]), allow_pickle=False)
                waiting.append((array, int(sample.get("cls", b"-1"))))
                if len(waiting) == self.batch_size:
                    batch = self._batch(waiting)
                    waiting = []
                    yield batch.drawn(generator) if self.draw else batch
            if not seen:
                raise UserError(f"no sample came from {self.urls}; are there fewer shards than readers?")
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """The seed and the epoch."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the beginning of the saved epoch."""
        self.seed, self.epoch = state["seed"], state["epoch"]

    def _epoch_stream(self) -> Iterator[dict[str, Any]]:
        import webdataset

        urls = list(webdataset.shardlists.expand_urls(self.urls)) if isinstance(self.urls, str) else list(self.urls)
        order = random.Random(f"{self.seed}-{self.epoch}")
        order.shuffle(urls)
        stream = webdataset.WebDataset(
            urls, shardshuffle=False, nodesplitter=webdataset.split_by_node, empty_check=False
        )
        return iter(stream.compose(webdataset.split_by_worker).shuffle(self.buffer, initial=self.buffer, rng=order))

    def _batch(self, samples: list[tuple[np.ndarray[Any, Any], int]]) -> Batch:
        stored = torch.from_numpy(np.stack([array for array, _ in samples])).float()
        labels = torch.tensor([label for _, label in samples]) if self.class_names else None
        return self.description.batch(stored, labels)
