"""Conditions taken from a data set, one sample's after another's, to make samples with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.arrays import DAMAGE, array_header, open_npz, read_array
from ..data.dataset import IndexedDataset
from ..data.decoding.images import image_mode
from ..data.folders import ImageFolder
from ..data.latent_shards import LatentShards
from ..data.shard_description import DATASET
from ..errors import UserError, said
from ..pixel_values import to_unit
from ..types import Cond
from .conditioning import Conditioning
from .pipeline import Pipeline

TRUTH = "x"
"""What the samples themselves are called among arrays of conditions."""


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
    """Conditions in arrays (n, …), each under its name; what is called `TRUTH` are the samples they belong to."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        self.truth, self.arrays = arrays.get(TRUTH), {n: array for n, array in arrays.items() if n != TRUTH}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def read(self, start: int, stop: int) -> tuple[Cond, Tensor | None]:
        """The conditions of the samples ``start`` … ``stop`` − 1, and the truth, if the file has it."""
        rows = torch.arange(start, stop) % len(self)
        cond = Cond(**{name: array[rows] for name, array in self.arrays.items()})
        return cond, None if self.truth is None else self.truth[rows]


def rows_of(dataset: IndexedDataset | None, run: Pipeline) -> ConditionRows | None:
    """The conditions of a data set; None where a run's samples are made of nothing but labels, or it has no length."""
    return None if dataset is None or not run.conditioning.needed else DatasetRows(dataset, run.conditioning)


def shown_beside(run: Pipeline, cond: Cond, truth: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What is looked at beside samples: the condition ``image`` and the truth, as pixels or floats as samples are.

    None of each where there is none, or it can't be shown.
    """
    inputs = cond.tensors.get("image")
    if inputs is not None and inputs.shape[1:] != run.shape:
        same = run.autoencoder.plain and inputs.shape[2:] == torch.Size(run.shape[1:])
        inputs = inputs[:, : 3 if inputs.shape[1] >= 3 else 1] if same else None
    found = [None if x is None else run.finished(x) for x in (inputs, truth)]
    return found[0], found[1]


def open_conditions(place: Path, run: Pipeline) -> ConditionRows:
    """Conditions by where they are.

    Args:
        place: an .npz of arrays (n, …) that are named as the conditions are, or an .npy where there is one condition;
            a folder of shards; or a folder, zip or tars of images, which are the condition ``image`` where they have
            none.
        run: what samples are made by.

    Raises:
        UserError: nothing there, it can't be read, or it isn't what the run's samples are made from.
    """
    found = _opened(place, run)
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
        return DatasetRows(LatentShards(place), run.conditioning)
    if not run.autoencoder.plain:
        raise UserError(f"{place}: this run's conditions are encoded; give shards that were encoded as its data were")
    form = (run.conditioning.forms or {}).get("image")
    shape = run.shape if form is None else form.shape
    if len(shape) != 3:
        raise UserError(f"{place}: a run whose samples are {run.shape} takes conditions from an .npz or from shards")
    images = ImageFolder(place, size=shape[-1] if shape[-1] == shape[-2] else None, mode=image_mode(shape[0]), memory=0)
    paired = "image" in (images.condition_forms or {})
    return DatasetRows(images, run.conditioning, as_image=not paired and "image" in run.conditioning.needed)


def _arrays(file: Path, conditioning: Conditioning) -> ConditionRows:
    if file.suffix == ".npy":
        if len(conditioning.needed) != 1:
            wanted = conditioning.listed(conditioning.needed) or "none"
            raise UserError(f"{file} holds one condition, and the run takes {wanted}; put them into an .npz")
        return ArrayRows({conditioning.needed[0]: _tensor(_npy(file), conditioning.needed[0], file)})
    found: dict[str, Tensor] = {}
    with open_npz(file) as opened:
        for name in sorted(member.removesuffix(".npy") for member in opened.namelist()):
            array_header(opened, name, file)
            try:
                with opened.open(f"{name}.npy") as stream:
                    values = read_array(stream, opened.getinfo(f"{name}.npy").file_size)
            except DAMAGE as error:
                raise UserError(f"{file}: {name} can't be read ({said(error)}); is it whole?") from error
            found[name] = _tensor(values, name, file)
    sizes = {name: len(array) for name, array in found.items()}
    if not set(found) - {TRUTH} or len(set(sizes.values())) != 1 or not all(sizes.values()):
        raise UserError(f"{file} must hold arrays of one length, named as the conditions are; it has {sizes}")
    return ArrayRows(found)


def _npy(file: Path) -> np.ndarray[Any, Any]:
    try:
        with file.open("rb") as stream:
            return read_array(stream, file.stat().st_size)
    except DAMAGE as error:
        raise UserError(f"{file} can't be read: {said(error)}") from error


def _tensor(values: np.ndarray[Any, Any], name: str, file: Path) -> Tensor:
    """An array as a condition: floats in float32, whole numbers in int64; 8-bit images in [-1, 1]."""
    if values.dtype.kind not in "fiub" or not values.ndim:
        raise UserError(f"{file}: {name} must be numbers (n, …), got {values.dtype} {values.shape}")
    if values.dtype == np.uint8 and name in ("image", TRUTH):
        return to_unit(torch.from_numpy(values))
    if values.dtype.kind == "b":
        return torch.from_numpy(values)
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
