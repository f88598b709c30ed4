"""Conditions taken from a data set, one sample's after another's, to make samples with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.array_data import Arrays
from ..data.columns import Column, columns_of_npz
from ..data.dataset import IndexedDataset
from ..data.decoding.images import image_mode
from ..data.fields import taken
from ..data.folders import ImageFolder
from ..data.latent_shards import LatentShards
from ..data.shard_description import DATASET
from ..describe import described_anywhere
from ..errors import UserError
from ..types import Cond
from .conditioning import Conditioning
from .pipeline import Pipeline
from .rebuilding import text_encoder_of
from .run import Run


class ConditionRows(ABC):
    """Conditions of known number, in a fixed order; those of sample i are row i, or i − n after the last of n."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Cond, Tensor | None]:
        """The conditions of the samples ``start`` … ``stop`` − 1; and the samples that they belong to, if known."""


class DatasetRows(ConditionRows):
    """The conditions of a data set's samples, in order and without augmentation.

    Args:
        dataset: the data set.
        conditioning: what of its conditions is taken.
        as_image: the samples themselves are the condition ``image``, and nobody knows the truth.
    """

    def __init__(self, dataset: IndexedDataset, conditioning: Conditioning, as_image: bool = False) -> None:
        self.dataset, self.conditioning, self.as_image = dataset, conditioning, as_image

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, start: int, stop: int) -> tuple[Cond, Tensor | None]:
        """The conditions of the samples ``start`` … ``stop`` − 1, and the data set's samples."""
        batch = self.dataset.fetch(np.arange(start, stop) % len(self.dataset))
        cond = self.conditioning.picked(batch.cond)
        return (cond.replace(image=batch.x), None) if self.as_image else (cond, batch.x)


class ArrayRows(ConditionRows):
    """Conditions in arrays (n, …), each under its name.

    Raises:
        UserError: there are none, or they are of different lengths.
    """

    def __init__(self, arrays: Mapping[str, Column], place: Path | str = "") -> None:
        sizes = {name: column.shape[0] if column.shape else 0 for name, column in arrays.items()}
        if len(set(sizes.values())) != 1 or not all(sizes.values()):
            raise UserError(f"{place} must hold arrays of one length, named as the conditions are; it has {sizes}")
        self.arrays, self.count = arrays, next(iter(sizes.values()))

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> tuple[Cond, Tensor | None]:
        """The conditions of the samples ``start`` … ``stop`` − 1."""
        rows = np.arange(start, stop) % len(self)
        return Cond(**{name: taken(name, column.rows(rows)) for name, column in self.arrays.items()}), None


class JoinedRows(ConditionRows):
    """The conditions of one set of rows, and beside them, or in their place, those of another, in turn."""

    def __init__(self, rows: ConditionRows, more: ConditionRows) -> None:
        self.rows, self.more = rows, more

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> tuple[Cond, Tensor | None]:
        """The conditions of the samples ``start`` … ``stop`` − 1, and the truth of the first set."""
        cond, truth = self.rows.read(start, stop)
        return cond.replace(**self.more.read(start, stop)[0].tensors), truth


def shown_beside(run: Pipeline, cond: Cond, truth: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What is looked at beside samples: the condition ``image`` and the truth, as pixels or floats as samples are.

    None of each where there is none, or it can't be shown.
    """
    inputs = cond.tensors.get("image")
    if inputs is not None and inputs.shape[1:] != run.shape:
        same = run.autoencoder.plain and inputs.shape[2:] == torch.Size(run.shape[1:])
        inputs = inputs[:, : 3 if inputs.shape[1] >= 3 else 1] if same else None
    truth = None if truth is None or truth.shape[1:] != run.shape else truth
    found = [None if x is None else run.finished(x) for x in (inputs, truth)]
    return found[0], found[1]


def open_conditions(place: Path, run: Pipeline, more: ConditionRows | None = None) -> ConditionRows:
    """Conditions by where they are.

    Args:
        place: an .npz of arrays (n, …) that are named as the conditions are, or an .npy where there is one condition;
            a folder of shards; or a folder, zip or tars of images, which are the condition ``image`` where they have
            none.
        run: what samples are made by.
        more: conditions that stand beside these, or in their place; None for none.

    Raises:
        UserError: nothing there, it can't be read, or it isn't what the run's samples are made from.
    """
    found = _opened(place, run)
    found = found if more is None else JoinedRows(found, more)
    cond, _ = found.read(0, 1)
    try:
        run.conditioning.check(cond, 1)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return found


def _opened(place: Path, run: Pipeline) -> ConditionRows:
    if place.suffix in (".npz", ".npy"):
        return _arrays(place, run.conditioning)
    if (place / DATASET).is_file():
        return DatasetRows(_shards(place, run), run.conditioning)
    if not run.autoencoder.plain:
        raise UserError(f"{place}: this run's conditions are encoded; give shards that were encoded as its data were")
    form = (run.conditioning.forms or {}).get("image")
    shape = run.shape if form is None else form.shape
    if len(shape) != 3:
        raise UserError(f"{place}: a run whose samples are {run.shape} takes conditions from an .npz or from shards")
    said = text_encoder_of(run.record) if "tokens" in run.conditioning.needed and isinstance(run, Run) else None
    height, width = shape[-2:]
    images = ImageFolder(place, size=(height, width), mode=image_mode(shape[0]), memory=0, captions=said)
    paired = "image" in (images.condition_forms or {})
    return DatasetRows(images, run.conditioning, as_image=not paired and "image" in run.conditioning.needed)


def _shards(place: Path, run: Pipeline) -> LatentShards:
    """Shards whose sentences were encoded as the run's were."""
    shards = LatentShards(place)
    known = run.record["data"].get("text") if isinstance(run, Run) and "tokens" in run.conditioning.needed else None
    if known is not None and shards.text_encoder is not None and described_anywhere(shards.text_encoder) != known:
        raise UserError(
            f"{place}: its sentences were encoded by {shards.text_encoder!r}, the run's by another encoder; encode "
            "them as the run's data were"
        )
    return shards


def _arrays(file: Path, conditioning: Conditioning) -> ConditionRows:
    if file.suffix == ".npy":
        if len(conditioning.needed) != 1:
            wanted = conditioning.listed(conditioning.needed) or "none"
            raise UserError(f"{file} holds one condition, and the run takes {wanted}; put them into an .npz")
        return ArrayRows({conditioning.needed[0]: Column.of(conditioning.needed[0], file)}, file)
    columns = columns_of_npz(file)
    return DatasetRows(Arrays(file), conditioning) if "x" in columns else ArrayRows(columns, file)
