"""Any dataset or DataLoader of torch's as a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..errors import UserError
from ..seeds import derived, global_seed, seeded
from ..types import Batch
from .dataset import Dataset, IndexedDataset, Indices
from .torch_reader import Fields, Reader


def FromTorch(
    source: Any,
    fields: Fields = None,
    *,
    classes: int | Sequence[str] | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """Any dataset of torch's, or a DataLoader, as a dataset to train on.

    - A dataset with a length and items is shuffled exactly and continued exactly, in batches of ``batch_size``: an
      `IndexedDataset`. Its items are made in the training's process. Where that is slow, give a DataLoader.
    - A DataLoader gives its batches as they come, one epoch after another. It is continued exactly where its dataset
      has a length and its order is that of torch's own samplers: its epoch begins again under the same seed, and what
      was seen is read once more. Each of several processes reads all batches, and takes its part of each.
    - An `IterableDataset`, itself or in a DataLoader, can't be continued: a resumed run begins an epoch, and says so.

    Items and batches may be a tensor, a tuple, a dict or a `Batch`. A tensor is x; of a pair whose second part is whole
    numbers, one a sample, that is ``labels``; a dict's keys are names: ``x``, and those of conditions. ``fields`` names
    them otherwise: ``fields=("x", "image")``, ``fields={"pixels": "x", "label": "labels"}``. Values are taken as by
    `Arrays`: floats as they are, 8-bit x as pixels. Pictures of Pillow's are refused: a transform makes tensors.

    What items draw from torch's, NumPy's and Python's global generators, such as augmentations, follows ``seed`` alone.

    Args:
        source: the dataset or DataLoader.
        fields: how parts of an item are named; None as above.
        classes: the number of classes, or their names; needed where there are labels.
        batch_size: samples a batch, 128 if None. A DataLoader has its own.
        seed: seed of the order and of what items draw; None takes torch's global seed.

    Raises:
        UserError: it is no dataset, is empty, or what it holds can't be told or used.
    """
    if isinstance(source, Dataset):
        raise UserError(f"a {type(source).__name__} is a dataset of alphaflow's already: give it as it is")
    reader = Reader(fields, classes)
    if isinstance(source, DataLoader):
        if batch_size is not None:
            raise UserError("a DataLoader has its own batch size: leave batch_size out")
        return _Batches(source, reader, seed)
    size = 128 if batch_size is None else batch_size
    if isinstance(source, IterableDataset):
        return _Batches(DataLoader(source, batch_size=size), reader, seed)
    return _Items(source, reader, size, seed)


class _Items(IndexedDataset):
    """Items of a torch dataset that has a length. Not read ahead: they may draw from the global generators."""

    rewinds: ClassVar[bool] = False

    def __init__(self, source: Any, reader: Reader, batch_size: int, seed: int | None) -> None:
        super().__init__(batch_size, seed)
        self._source, self._reader = source, reader
        try:
            self._length = len(source)
        except TypeError as error:
            kind = type(source).__name__
            raise UserError(
                f"a torch dataset has __len__ and __getitem__, or is an IterableDataset; this {kind} is neither"
            ) from error
        if not self._length:
            raise UserError(f"the {type(source).__name__} is empty")
        first = self.fetch(np.zeros(1, np.int64))
        self.shape = tuple(first.x.shape[1:])
        reader.describe(self, first)

    @property
    def kind_name(self) -> str:
        return type(self._source).__name__

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The items at these indices; what they draw follows the generator, or, without one, the seed."""
        with seeded(derived(self.seed, 0) if generator is None else int(generator.integers(2**63))):
            items = [self._reader.item(self._source[index]) for index in indices.tolist()]
        names = items[0].keys()
        for index, item in zip(indices.tolist(), items, strict=True):
            forms = [{n: f"{str(p.dtype)[6:]} {tuple(p.shape)}" for n, p in each.items()} for each in (item, items[0])]
            if forms[0] != forms[1]:
                raise UserError(
                    f"item {index} of the {self.kind_name} has the parts {forms[0]}, item {int(indices[0])} "
                    f"{forms[1]}; all must be of one shape and type"
                )
        parts = {name: torch.stack([item[name] for item in items]) for name in names}
        return self._reader.batch(parts, [f"item {index}" for index in indices.tolist()])

    def __repr__(self) -> str:
        return f"FromTorch({self.kind_name}, {len(self)} items, batch_size={self.batch_size}, seed={self.seed})"


_END = object()


class _Batches(Dataset):
    """A DataLoader's batches, epoch after epoch, each begun under a seed of its own."""

    def __init__(self, loader: DataLoader[Any], reader: Reader, seed: int | None) -> None:
        if isinstance(loader.sampler, DistributedSampler):
            raise UserError("a DataLoader's batches are shared out among processes here: leave DistributedSampler out")
        self.batch_size = loader.batch_size
        self.seed = global_seed() if seed is None else seed
        self._loader, self._reader = loader, reader
        self._length = None if isinstance(loader.dataset, IterableDataset) else len(loader)
        self._samples = None if self._length is None else len(loader.sampler)  # type: ignore[arg-type]
        self._epoch = self._read = self._skip = 0
        self._running: Iterator[Any] | None = None
        self._waiting: Batch | None = None
        self._waiting = first = self._next()
        self.shape = tuple(first.x.shape[1:])
        reader.describe(self, first)

    @property
    def kind_name(self) -> str:
        return type(self._loader.dataset).__name__

    @property
    def _doubt(self) -> str:
        """Why a resumed run may not see the same batches; empty where it does."""
        loader, own = self._loader, (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)
        if self._length is None:
            return "an IterableDataset has no place to go back to: a new epoch begins"
        if loader.persistent_workers:
            return "what persistent workers draw can't be repeated"
        of_torch = type(loader.sampler) in own and type(loader.batch_sampler) in (BatchSampler, type(None))
        return "" if of_torch else "its sampler isn't torch's, and may give another order"

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._next()

    def _next(self) -> Batch:
        """The next batch, of this epoch or of the one after it."""
        if self._skip and self._skip == self._length:  # a whole epoch
            self._turn()
        while self._skip:
            self._skip -= 1
            self._raw()
        if self._waiting is not None:
            batch, self._waiting = self._waiting, None
            return batch
        raw = self._raw()
        if raw is _END:
            self._turn()
            raw = self._raw()
        if raw is _END:
            raise UserError(f"the DataLoader of {self.kind_name} gives no batch: its dataset is empty, or smaller")
        batch = self._reader.batch(self._reader.named(raw, several=True))
        if self._read > 1 and tuple(batch.x.shape[1:]) != self.shape:
            shape = tuple(batch.x.shape[1:])
            raise UserError(f"batch {self._read} of the DataLoader has samples {shape}, the first one {self.shape}")
        return batch

    def _raw(self) -> Any:
        """What the DataLoader gives next in this epoch, under the seed of its number in it."""
        with seeded(derived(self.seed, self._epoch, self._read)):
            if self._running is None:
                for generator in self._generators():
                    generator.manual_seed(derived(self.seed, self._epoch))
                self._running = iter(self._loader)
            raw = next(self._running, _END)
        self._read += 1
        return raw

    def _generators(self) -> list[torch.Generator]:
        """The generators that the user gave the DataLoader and its sampler."""
        sampler = self._loader.sampler
        own = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
        found = [self._loader.generator, sampler.generator if isinstance(sampler, own) else None]
        return [generator for generator in found if generator is not None]

    def _turn(self, epochs: int = 1) -> None:
        """Begins another epoch."""
        self._epoch, self._read, self._skip = self._epoch + epochs, 0, 0
        self._running = self._waiting = None

    def reorder(self, seed: int) -> None:
        """Goes on with a new epoch in another order."""
        if seed != self.seed:
            self.seed = seed
            self._turn()

    def state_dict(self) -> dict[str, Any]:
        """The seed, the epoch, how many of its batches were given, their size, and whether they come again exactly."""
        given = self._read + self._skip - (self._waiting is not None)
        return {
            "seed": self.seed,
            "epoch": self._epoch,
            "batches": given,
            "length": self._length,
            "samples": self._samples,
            "batch_size": self.batch_size,
            "exact": not self._doubt,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state; where batches are of another size now, with the epoch after it.

        Raises:
            ValueError: the state is of another number of samples, or of batches of the same size.
        """
        if self._batched_otherwise(state):
            self.seed, self._epoch = state["seed"], state["epoch"]
            self._turn(int(state["batches"] > 0))
            return
        if state["length"] != self._length:
            raise ValueError(f"the data has {self._length} batches, but had {state['length']} when the run was saved")
        if self._doubt:
            warnings.warn(f"{self.kind_name} isn't continued exactly: {self._doubt}", stacklevel=2)
        self.seed, self._epoch = state["seed"], state["epoch"]
        self._turn(int(self._length is None and state["batches"] > 0))
        if self._length is not None:
            self._skip = state["batches"]

    def _batched_otherwise(self, state: dict[str, Any]) -> bool:
        """Whether a saved state is of the same samples in batches of another size."""
        known = state.get("samples") is not None and state["samples"] == self._samples
        return known and (state["batch_size"], state["length"]) != (self.batch_size, self._length)

    def __repr__(self) -> str:
        return f"FromTorch(DataLoader of {self.kind_name}, batch_size={self.batch_size}, seed={self.seed})"
