"""What datasets have in common, and the base class of those that can be read in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from ..describe import Configured, described_anywhere
from ..errors import UserError
from ..seeds import global_seed, stream
from ..types import Batch

if TYPE_CHECKING:
    from ..autoencoders.autoencoder import Autoencoder
    from ..text.text_encoder import TextEncoder

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Form:
    """What one sample's part of a condition looks like.

    Attributes:
        shape: shape of one sample's; () of a label.
        dtype: name of the values' type, ``"float32"``.
    """

    shape: tuple[int, ...]
    dtype: str

    @staticmethod
    def of(tensor: Tensor) -> Form:
        """The form of a condition (b, …)."""
        return Form(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))

    @property
    def described(self) -> dict[str, Any]:
        """As JSON."""
        return {"shape": list(self.shape), "dtype": self.dtype}


class Dataset(Configured, IterableDataset[Batch], ABC):
    """An endless stream of batches that can be continued where it stopped. Your own derives from it, or from one below.

    It must have a ``shape``. That, the other attributes, ``classes``, ``autoencoder`` and ``text_encoder`` may be set
    on the class or on the object, where they aren't as here.

    Attributes:
        shape: shape of one sample, channels first: (c, h, w) or (c, f, h, w), or any other.
        class_names: a name for each class, by label; empty where there are no classes, or none has a name.
        batch_size: samples a batch; None where it isn't known before one is read.
        fps: frames a second of clips; None for images, or where nothing says.
        rewinds: whether `load_state_dict` goes back to a place exactly, and all randomness is the dataset's own: it may
            then be read ahead, in a thread.
        config: what builds it again, without its order's seed; None where run.json doesn't describe it.
    """

    shape: tuple[int, ...]
    class_names: Sequence[str] = ()
    batch_size: int | None = None
    fps: float | None = None
    rewinds: ClassVar[bool] = False

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from where the stream stands."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the stream from there: the next batch is the one that would have come next."""

    @cached_property
    def classes(self) -> int | None:
        """The number of classes, or None: as many as have names."""
        return len(self.class_names) or None

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """What the samples were encoded with; None for pixels, and where it is the user's own."""
        return None

    @cached_property
    def text_encoder(self) -> TextEncoder | None:
        """What made ``cond.tokens`` of captions; None where there are none, and where it is the user's own."""
        return None

    @property
    def sampled_classes(self) -> int | None:
        """A run's samples are of the first so many classes; None where there are none."""
        return self.classes

    @cached_property
    def condition_forms(self) -> Mapping[str, Form] | None:
        """What its samples are conditioned on; None where nobody knows before a batch is read, as of streams."""
        known = self.indexed
        with suppress(Exception, SystemExit):  # who trains on it is told when it is read
            return None if known is None else {n: Form.of(t) for n, t in known.fetch(np.arange(1)).cond.tensors.items()}
        return None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of samples, one for each kind of batch."""
        return (self.shape,)

    @property
    def indexed(self) -> IndexedDataset | None:
        """What generated samples are compared with: the data of known length that ``shape`` is of, or None."""
        return None

    @property
    def kind_name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def share(self, rank: int, world: int) -> Iterable[Batch]:
        """The part of every batch that process ``rank`` of ``world`` works on; of one process, the dataset itself.

        Here every process reads whole batches and takes every world-th sample. A dataset that can read its part alone
        may make itself that reader, and give back itself.

        Raises:
            UserError: a batch can't be shared out evenly.
        """
        return self if world == 1 else _Cut(self, rank, world)

    def reorder(self, seed: int) -> None:
        """Goes on from the same place in another order, if the dataset can; here nothing happens."""

    @staticmethod
    def of(given: Any) -> Dataset:
        """A dataset as it is; or any object with shape, classes, iter, state_dict and load_state_dict as a dataset.

        Raises:
            UserError: it is torch's.
        """
        if isinstance(given, Dataset):
            return given
        if isinstance(given, DataLoader) or (isinstance(given, TorchDataset) and not isinstance(given, Iterable)):
            raise UserError(
                f"a {type(given).__name__} of torch's doesn't say what training asks: give af.FromTorch(…) of it"
            )
        return _Foreign(given)


class _Foreign(Dataset):
    """An object that has what training needs, and derives from nothing here. It is asked each time, and no sooner."""

    def __init__(self, inner: Dataset) -> None:  # in structure
        self.inner = inner

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    @property
    def classes(self) -> int | None:
        return self.inner.classes

    @property
    def kind_name(self) -> str:
        return type(self.inner).__name__

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.inner)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)

    def __repr__(self) -> str:
        return repr(self.inner)


@dataclass(frozen=True)
class _Cut:
    """Every world-th sample of each batch."""

    dataset: Dataset
    rank: int
    world: int

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.dataset:
            if len(batch.x) % self.world:
                raise UserError(f"a batch of {len(batch.x)} can't be shared out among {self.world} processes evenly")
            yield batch[slice(self.rank, None, self.world)]


class IndexedDataset(Dataset):
    """A dataset of known length that can fetch any samples: exact shuffle, exact resume.

    Each epoch is a fresh permutation of all samples, drawn from (seed, epoch). A batch may span two epochs, so that
    every batch is full.

    It is an iterable dataset of whole batches for torch's DataLoader too: ``DataLoader(data, batch_size=None,
    num_workers=4)``. Each worker then takes its part of this reader's samples by itself, and together they see each
    once an epoch. Where the stream stands is known to the workers only, so ``state_dict`` doesn't move with them.

    Args:
        batch_size: samples a batch.
        seed: seed of the order; None takes torch's global seed (``torch.manual_seed``), which the command line sets.

    Attributes:
        rank, world: of ``world`` readers this one takes every world-th sample from its rank on (`share`).
    """

    batch_size: int
    rewinds: ClassVar[bool] = True

    def __init__(self, batch_size: int, seed: int | None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.rank = 0
        self.world = 1
        self.seed = global_seed() if seed is None else seed
        self._epoch = 0
        self._position = 0
        self._order: Indices | None = None

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
            augment = stream(self.seed, self._epoch, self._position, *[rank][: world > 1])
            yield self.fetch(self._take(self.batch_size * world)[rank::world], augment)

    @property
    def encoding(self) -> Hashable:
        """What made the samples of pixels, to be compared with another dataset's; None for pixels themselves."""
        return None

    @property
    def indexed(self) -> IndexedDataset:
        """Itself."""
        return self

    def all(self) -> Batch:
        """Every sample in one batch, in order, without augmentation."""
        return self.fetch(np.arange(len(self)))

    def share(self, rank: int, world: int) -> Iterable[Batch]:
        """Itself, made the reader ``rank`` of ``world``, whose batches together are as large as this one's were.

        Together they see each sample once an epoch.

        Raises:
            UserError: the batch can't be shared out evenly, or it is shared out among others already.
        """
        if world == 1 or (self.rank, self.world) == (rank, world):
            return self
        if self.world != 1 or self.batch_size % world:
            raise UserError(
                f"a batch of {self.batch_size} can't be shared out among {world} processes evenly; "
                "give a multiple of their number"
            )
        self.batch_size, self.rank, self.world = self.batch_size // world, rank, world
        return self

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
        self.seed = state["seed"]
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._order = None

    def _take(self, missing: int) -> Indices:
        """The next so many indices; moves on."""
        taken: list[Indices] = []
        while missing:
            if self._order is None:
                self._order = stream(self.seed, self._epoch).permutation(len(self))
            part = self._order[self._position : self._position + missing]
            taken.append(part)
            missing -= len(part)
            self._position += len(part)
            if self._position == len(self):
                self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return np.concatenate(taken)


def names_of_classes(dataset: Dataset) -> list[str]:
    """A name for each class: its number, where it has no other."""
    return list(dataset.class_names) or [str(index) for index in range(dataset.classes or 0)]


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What a run knows of its data: shape, classes and their names, classes of its samples, the rate of clips.

    Also the conditions, where they are known, and what made tokens of sentences.
    """
    forms = dataset.condition_forms
    return {
        "shape": list(dataset.shape),
        "classes": dataset.classes,
        "sampled_classes": dataset.sampled_classes,
        "class_names": names_of_classes(dataset),
        "fps": dataset.fps,
        "conditions": None if forms is None else {name: form.described for name, form in forms.items()},
        "text": described_anywhere(dataset.text_encoder),
    }
