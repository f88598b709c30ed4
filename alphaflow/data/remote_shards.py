"""Latent shards as a stream, from anywhere that webdataset reads."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch

from ..autoencoders.autoencoder import Autoencoder
from ..errors import UserError, reason, said
from ..seeds import global_seed
from ..text.text_encoder import TextEncoder
from ..types import Batch
from .arrays import read_array
from .dataset import Dataset
from .shard_description import Description


class RemoteShards(Dataset):
    """Shards that are streamed: ``https://…/train-{000000..000127}.tar``, ``gs://…``, ``pipe:…``, by webdataset.

    Shards come in a fresh random order each epoch and samples through a shuffle buffer: not an exact shuffle, and not
    an exact resume (a continued stream begins its epoch again). Several processes, and DataLoader's workers, share out
    whole shards. Use `LatentShards` where the data fit on a disk.

    Args:
        urls: a pattern with braces, or a list. ``pipe:…`` is a shell's command, and is run where it is a pattern.
        description: the folder's dataset.json, a local copy.
        batch_size: samples a batch.
        buffer: samples to shuffle among.
        seed: seed of the order; None takes torch's global seed.
        draw: yield latents instead of moments.
        damaged: ``"raise"`` stops at a shard or a sample that can't be read, ``"skip"`` goes on with what follows and
            keeps the reasons in ``skipped``.
        pipes: run what a list holds as ``pipe:…`` too: for a list of your own, never for one that somebody gave you.

    Raises:
        UserError: the description can't be read; while reading, a ``pipe:…`` that may be somebody else's, or
            (``"raise"``) a shard that can't be read, named by its URL.
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
        damaged: str = "raise",
        pipes: bool = False,
    ) -> None:
        if damaged not in ("raise", "skip"):
            raise ValueError(f"damaged is raise or skip, got {damaged!r}")
        self.damaged, self.skipped = damaged, list[str]()
        self.batch_size: int = batch_size
        self.urls = urls
        self.buffer = buffer
        self.draw = draw
        self.pipes = pipes
        self.seed = global_seed() if seed is None else seed
        file = Path(description)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} can't be read ({said(error)}); give a copy of the shards' dataset.json") from error
        self.description = Description(file.parent, text)
        about = self.description
        self.shape = about.shape
        self.class_names = about.class_names
        self.fps = about.fps
        self.epoch, self._readers = 0, 1

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder that the shards were made with; None where it is the user's own."""
        return self.description.autoencoder()

    @cached_property
    def text_encoder(self) -> TextEncoder | None:
        """What made the tokens of captions; None where there are none, or it is the user's own."""
        return self.description.text_encoder

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end; one may span two epochs."""
        waiting: list[tuple[np.ndarray[Any, Any], int]] = []
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            seen = False
            for sample in self._epoch_stream():
                try:
                    waiting.append(self._parsed(sample))
                except (ValueError, KeyError, EOFError) as error:
                    self._handle(f"sample {sample.get('__key__')} of {sample.get('__url__')}", error)
                    continue
                seen = True
                if len(waiting) == self.batch_size:
                    batch = self._batch(waiting)
                    waiting = []
                    yield batch.drawn(generator) if self.draw else batch
            if not seen:
                raise UserError(f"no sample came from {self.urls}; are there fewer shards than readers?")
            self.epoch += 1

    def share(self, rank: int, world: int) -> Iterable[Batch]:
        """Itself, with batches of the ``world``-th part of the size; webdataset shares out shards by torchrun's rank.

        Raises:
            UserError: the batch can't be shared out evenly, or it is shared out among others already.
        """
        if world in (1, self._readers):
            return self
        if self._readers != 1 or self.batch_size % world:
            raise UserError(f"a batch of {self.batch_size} can't be shared out among {world} processes evenly")
        self.batch_size, self._readers = self.batch_size // world, world
        return self

    def reorder(self, seed: int) -> None:
        """Goes on in another order."""
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """The seed, the epoch, and how many samples a batch of all readers has."""
        return {"seed": self.seed, "epoch": self.epoch, "batch_size": self.batch_size * self._readers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the beginning of the saved epoch, or of the one after it where batches are of another size."""
        size = self.batch_size * self._readers
        self.seed, self.epoch = state["seed"], state["epoch"] + (state.get("batch_size", size) != size)

    def _epoch_stream(self) -> Iterator[dict[str, Any]]:
        import webdataset

        urls = self._expanded()
        order = random.Random(f"{self.seed}-{self.epoch}")
        order.shuffle(urls)
        return iter(webdataset.filters.shuffle(self.buffer, initial=self.buffer, rng=order)(self._samples(urls)))

    def _samples(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """The samples of this reader; a shard that ends early may look whole, and has fewer than dataset.json says."""
        import webdataset

        expected = {shard["file"]: shard["samples"] for shard in self.description.shards}
        for url in webdataset.split_by_worker(webdataset.split_by_node(iter(urls))):
            stream = webdataset.WebDataset(
                [url],
                shardshuffle=False,
                nodesplitter=None,
                workersplitter=None,
                empty_check=False,
                handler=self._broken,
            )
            count = 0
            for sample in stream:
                count += 1
                yield sample
            stated = next(
                (expected[name] for name in re.findall(r"[^\s/'\"?]+\.tar\b", url) if name in expected), count
            )
            if count < stated:
                self._handle(f"the shard {url}", EOFError(f"it ends after {count} of {stated} samples"))

    def _expanded(self) -> list[str]:
        """A URL a shard. None is a command, except of a pattern that is one, or with ``pipes``.

        Raises:
            UserError: one is.
        """
        import webdataset

        own = self.pipes
        if isinstance(self.urls, str):
            urls, own = list(webdataset.shardlists.expand_urls(self.urls)), own or self.urls.startswith("pipe:")
        else:
            urls = [str(url) for url in self.urls]
        command = next((url for url in urls if urlparse(url).scheme == "pipe"), None)  # as webdataset looks at them
        if command is not None and not own:
            raise UserError(
                f"{command!r:.100} is a command for a shell, which is not run from a list, since lists may be somebody "
                "else's; give it as a pattern, or pipes=True where you wrote the list yourself"
            )
        return urls

    def _parsed(self, sample: dict[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
        """A sample's arrays and label."""
        row, classes = np.zeros((), self.description.row), len(self.class_names)
        for name in self.description.row.names or ():
            data, wanted = sample[f"{name}.npy"], row[name]
            array = read_array(io.BytesIO(data), len(data))
            if array.dtype.kind != wanted.dtype.kind or array.shape != wanted.shape:
                kind = {"f": "floats", "i": "whole numbers", "b": "booleans"}[wanted.dtype.kind]
                raise ValueError(f"{array.dtype} {array.shape} where {kind} {wanted.shape} are expected ({name})")
            if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float32).sum()):
                raise ValueError("not finite")
            if name == "tokens" and bool(self.description.wrong(name, torch.from_numpy(array[None])).any()):
                raise ValueError("tokens outside of the vocabulary")
            row[name] = array
        label = int(sample.get("cls", b"-1"))
        if classes and not -1 <= label < classes:
            raise ValueError(f"its label {label} is none of the {classes} classes'")
        return row, label

    def _broken(self, error: Exception) -> bool:
        """Answers webdataset, which has added the shard's URL to the error, whether to go on."""
        named = " ".join(map(str, [*error.args, getattr(error, "filename", "")]))
        place = re.search(r"[^\s'\"<>]+\.tar\b[^\s'\"<>]*", named)
        self._handle(f"the shard {place.group() if place else self.urls}", error)
        return True

    def _handle(self, place: str, error: Exception) -> None:
        own = error if getattr(error, "strerror", None) or not any(error.args[:1]) else error.args[0]
        message = f"{place} can't be read: {reason(own).partition(' @ ')[0]}"
        if self.damaged == "raise":
            raise UserError(f'{message}; repair it, or go on without it: damaged="skip"') from error
        if message not in self.skipped:  # webdataset asks at each of its stages
            self.skipped.append(message)

    def _batch(self, samples: list[tuple[np.ndarray[Any, Any], int]]) -> Batch:
        about, rows = self.description, np.array([row for row, _ in samples], self.description.row)
        labels = torch.tensor([label for _, label in samples]) if self.class_names else None
        conditions = {name: about.condition(name, np.ascontiguousarray(rows[name])) for name in about.conditions}
        stored = torch.from_numpy(rows["latent"].astype(np.float32))
        return about.batch(about.normalise_(stored), labels, conditions)
