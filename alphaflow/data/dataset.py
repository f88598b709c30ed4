"""What datasets have in common, and the base class of those that can be read in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import UserError
from ..types import Batch

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Dataset(Protocol):
    """What training needs: an endless stream of batches that can be continued where it stopped."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, channels first: (c, h, w) or (c, f, h, w)."""
        ...

    @property
    def classes(self) -> int | None:
        """The number of classes, or None."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain numbers and strings."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the stream from there: the next batch is the one that would have come next."""
        ...


class IndexedDataset(IterableDataset[Batch], ABC):
    """A dataset of known length that can fetch any samples: exact shuffle, exact resume.

    Each epoch is a fresh permutation of all samples, drawn from (seed, epoch). A batch may span two epochs, so that
    every batch is full.

    It is an iterable dataset of whole batches for torch's DataLoader too: ``DataLoader(data, batch_size=None,
    num_workers=4)``. Each worker then takes its part of this reader's samples by itself, and together they see each
    once an epoch. Where the stream stands is known to the workers only, so ``state_dict`` doesn't move with them.

    Args:
        batch_size: samples a batch.
        seed: of the order; None takes torch's global seed (``torch.manual_seed``), which `alphaflow train` sets.
        rank, world: of ``world`` readers with one seed, this one takes every world-th sample from its rank on, so that
            together they see each sample once an epoch.
    """

    def __init__(self, batch_size: int, seed: int | None, *, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be at least 0 and below world, got {rank} of {world}")
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.seed = torch.initial_seed() % 2**63 if seed is None else seed
        self._epoch = 0
        self._position = 0
        self._order: Indices | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one sample, channels first."""

    @property
    def classes(self) -> int | None:
        """The number of classes, or None."""
        return len(self.class_names) or None

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """A name for each class; empty where there are none."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The samples at these indices; ``generator`` draws augmentations, None for none."""

    def __iter__(self) -> Iterator[Batch]:
        """Shuffled batches without end, from where the stream stands."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world = self.rank * workers + number, self.world * workers
        while True:
            augment = np.random.default_rng((self.seed, self._epoch, self._position, *[rank][: world > 1]))
            yield self.fetch(self._take(self.batch_size * world)[rank::world], augment)

    def once(self, batch_size: int = 512) -> Iterator[Batch]:
        """Every sample once, in order, without augmentation; the stream's position stays."""
        for start in range(0, len(self), batch_size):
            yield self.fetch(np.arange(start, min(start + batch_size, len(self))))

    def all(self) -> Batch:
        """Every sample in one batch, in order, without augmentation."""
        return self.fetch(np.arange(len(self)))

    def share(self, rank: int, world: int) -> None:
        """Makes this the reader ``rank`` of ``world``, whose batches together are as large as this one's were.

        Raises:
            UserError: the batch can't be shared out evenly, or it is shared out among others already.
        """
        if (self.rank, self.world) == (rank, world):
            return
        if self.world != 1 or self.batch_size % world:
            raise UserError(
                f"a batch of {self.batch_size} can't be shared out among {world} processes evenly; "
                "give a multiple of their number"
            )
        self.batch_size, self.rank, self.world = self.batch_size // world, rank, world

    def reorder(self, seed: int) -> None:
        """Goes on from the same place in another order."""
        self.seed, self._order = seed, None

    def state_dict(self) -> dict[str, Any]:
        """The seed, the epoch, and the position in it."""
        return {"seed": self.seed, "epoch": self._epoch, "position": self._position, "length": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state.

        Raises:
            ValueError: the state is of a dataset of another length.
        """
        if state["length"] != len(self):
            raise ValueError(f"the data has {len(self)} samples, but had {state['length']} when the run was saved")
        self.seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]
        self._order = None

    def _take(self, missing: int) -> Indices:
        """The next so many indices; moves on."""
        taken: list[Indices] = []
        while missing:
            if self._order is None:
                self._order = np.random.default_rng((self.seed, self._epoch)).permutation(len(self))
            part = self._order[self._position : self._position + missing]
            taken.append(part)
            missing -= len(part)
            self._position += len(part)
            if self._position == len(self):
                self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return np.concatenate(taken)


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What a run knows of its data: shape, classes and their names, the rate of clips.

    ``sampled_classes``: samples are of the first so many classes unless one says; what a dataset says itself
    (`Mixture`), else all.
    """
    classes = dataset.classes
    return {
        "shape": list(dataset.shape),
        "classes": classes,
        "sampled_classes": getattr(dataset, "sampled_classes", classes),
        "class_names": list(getattr(dataset, "class_names", [])) or [str(index) for index in range(classes or 0)],
        "fps": getattr(dataset, "fps", None),
    }
