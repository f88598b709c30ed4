"""Samples that are no pictures, in an .npz or .npy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.arrays import DAMAGE, array, array_header, open_npz, read_array
from ..errors import UserError, said
from ..types import Labels
from .sample_set import SampleBatch, SampleSet


class FloatSamples(SampleSet):
    """Floats (n, …) of any shape, in memory.

    Args:
        values: (n ≥ 1, …).
        labels: (n,), or None.
        class_names: class names by label.
        name: what a table calls them.

    Raises:
        UserError: one is not finite.
    """

    pictures = False

    def __init__(
        self, values: Tensor, labels: Labels | None = None, class_names: Sequence[str] = (), name: str = "samples"
    ) -> None:
        wrong = (~values.flatten(1).isfinite().all(1)).nonzero()
        if len(wrong):
            raise UserError(f"{name}: sample {int(wrong[0])} is not finite")
        self.values, self.labels = values.float(), labels
        self.name, self.class_names, self.shape = name, class_names, tuple(values.shape[1:])

    def __len__(self) -> int:
        return len(self.values)

    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads the samples ``start`` … ``stop`` − 1."""
        return SampleBatch(start, self.values[start:stop], None if self.labels is None else self.labels[start:stop])


def holds_floats(path: Path) -> bool:
    """Whether an .npz holds floats under arr_0, rather than 8-bit pictures.

    Raises:
        UserError: it can't be read.
    """
    with open_npz(path) as file:
        return "arr_0.npy" in file.namelist() and array_header(file, "arr_0", path)[2].kind == "f"


def read_floats(path: Path) -> FloatSamples:
    """An .npz with arr_0 (n, …), floats, and optionally arr_1, labels (n,) from 0 on; or an .npy of such floats.

    Raises:
        UserError: there are none, they are damaged, or not finite.
    """
    if path.suffix == ".npy":
        try:
            with path.open("rb") as stream:
                values = read_array(stream, path.stat().st_size)
        except DAMAGE as error:
            raise UserError(f"{path} can't be read: {said(error)}") from error
        if values.dtype.kind != "f" or values.ndim < 2 or not values.size:
            raise UserError(f"{path} must hold floats (n, …), got {values.dtype} {values.shape}")
        return FloatSamples(torch.from_numpy(values), name=str(path))
    with open_npz(path) as file:
        shape = array_header(file, "arr_0", path)[0]
        values = array(file, "arr_0", path, "f", (None,) * max(len(shape), 2))
        labels = array(file, "arr_1", path, "iu", shape[:1]) if "arr_1.npy" in file.namelist() else None
    if labels is None:
        return FloatSamples(torch.from_numpy(values), name=str(path))
    if labels.min() < 0:
        raise UserError(f"{path}: arr_1 holds the label {labels.min()}; labels are numbers from 0 on")
    names = [str(index) for index in range(int(labels.max()) + 1)] if labels.max() < len(labels) else []
    return FloatSamples(torch.from_numpy(values), torch.from_numpy(labels.astype("int64")), names, str(path))
