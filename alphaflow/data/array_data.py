"""A dataset of arrays: samples and what they are conditioned on, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..pixel_values import first_not_finite
from ..text.text_encoder import TextEncoder
from ..types import Batch, Cond, check_labels
from .columns import Column, Values, columns_of_npz
from .dataset import IndexedDataset, Indices
from .fields import check_samples, taken


class Arrays(IndexedDataset):
    """Samples in arrays: of any shape, with any conditions. ``Arrays(x, labels=labels, vector=poses)``.

    An array is a tensor, a NumPy array, or the path of a .npy; ``x`` may also be the path of an .npz, all of whose
    arrays are taken by their names, of which ``x`` is one: ``Arrays("data.npz")``. Files aren't read before their
    samples are, unless they are compressed or in Fortran's order; nothing in them is unpickled.

    Floats keep their values and become float32. Of ``x`` and ``image``, 8-bit whole numbers (uint8) are pixels
    0 … 255 and come to lie in [-1, 1]. Whole numbers elsewhere, such as indices of tokens, become int64; True and False
    stay.

    Args:
        x: the samples (n, …), floats or 8-bit pixels.
        labels: class indices (n,), whole numbers; −1 for none. None for no classes.
        class_names: a name for each class; empty for as many classes as the largest label says, without names.
        batch_size: samples a batch.
        seed: seed of the order; None takes torch's global seed.
        text_encoder: what made ``tokens`` of sentences, so that others can be sampled; None where there are none.
        **conditions: further conditions by name, each (n, …): those of `Cond`'s table, or your network's own.

    Raises:
        UserError: an array can't be read, is empty, has another length than x, holds no numbers, or its labels are none
            of the classes; while reading, a sample that is not finite, or a file that was changed.
    """

    def __init__(
        self,
        x: Values,
        labels: Values | None = None,
        *,
        class_names: Sequence[str] = (),
        batch_size: int = 128,
        seed: int | None = None,
        text_encoder: TextEncoder | None = None,
        **conditions: Values,
    ) -> None:
        super().__init__(batch_size, seed)
        self.text_encoder = text_encoder
        given = {**({} if labels is None else {"labels": labels}), **conditions}
        self._columns = {**_samples(x, given), **{name: Column.of(name, values) for name, values in given.items()}}
        self._check()
        places = {name: str(Path(v).absolute()) for name, v in {"x": x, **given}.items() if isinstance(v, str | Path)}
        if len(places) == 1 + len(given):  # all are files
            more = {"class_names": list(class_names), "batch_size": batch_size, "text_encoder": text_encoder}
            self.config = {**places, **more}
        self.shape = self._columns["x"].shape[1:]
        self.class_names = tuple(class_names)
        self._labels = self._checked_labels()
        try:
            self.fetch(np.zeros(1, np.int64))
        except UserError:
            raise
        except ValueError as error:  # what a Cond can't be made of
            raise UserError(f"arrays that don't go together: {error}") from error

    def _check(self) -> None:
        """Whether the arrays go together."""
        x = self._columns["x"]
        check_samples(_called("x", x), x.dtype, x.shape, usable=x.kind in "fp")
        for name, column in self._columns.items():
            if 0 in column.shape:
                raise UserError(f"{_called(name, column)} is empty: its shape is {column.shape}")
            if not column.shape or column.shape[0] != len(self):
                length = f"{column.shape[0]} samples" if column.shape else "no dimension"
                raise UserError(
                    f"{_called('x', x)} has {len(self)} samples and {_called(name, column)} {length}; "
                    "every array is (n, …), a row for each sample"
                )

    def _checked_labels(self) -> Tensor | None:
        """The labels (n,), in memory; sets ``classes``."""
        column = self._columns.pop("labels", None)
        if column is None:
            if self.class_names:
                raise UserError("class_names name what labels count; give the labels, too")
            return None
        if column.kind not in "ip" or len(column.shape) != 1:
            raise UserError(
                f"{_called('labels', column)} must be whole numbers (n,), got {column.dtype} {column.shape}"
            )
        labels = column.all().long()
        if not self.class_names:
            self.classes = int(labels.max()) + 1 or None
        try:
            check_labels(labels, self.classes or 0)
        except ValueError as error:
            raise UserError(f"{_called('labels', column)}: {error}") from error
        return labels

    def __len__(self) -> int:
        return self._columns["x"].shape[0]

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> Batch:
        """The samples at these indices; nothing is augmented."""
        fields = {name: self._fetched(name, indices) for name in self._columns}
        if self._labels is not None:
            fields["labels"] = self._labels[torch.from_numpy(np.ascontiguousarray(indices))]
        return Batch(fields.pop("x"), Cond(**fields))

    def _fetched(self, name: str, indices: Indices) -> Tensor:
        column = self._columns[name]
        values = taken(name, column.rows(indices))
        if values.is_floating_point() and not bool(values.sum().isfinite()):  # which one infinity, or NaN, stays in
            row = first_not_finite(values)
            if row is not None:
                raise UserError(
                    f"{_called(name, column)} is not finite: sample {int(indices[row])} holds NaN, infinity "
                    "or a number beyond float32; repair or remove it"
                )
        return values

    def __repr__(self) -> str:
        arrays = {name: column.shape for name, column in self._columns.items()}
        arrays |= {} if self._labels is None else {"labels": tuple(self._labels.shape)}
        listed = ", ".join(f"{name}={shape}" for name, shape in arrays.items())
        return f"Arrays({listed}, batch_size={self.batch_size}, seed={self.seed})"


def _called(name: str, column: Column) -> str:
    """What messages call an array."""
    return f"{name} ({column.place})" if column.place else name


def _samples(x: Values, others: Mapping[str, Values]) -> dict[str, Column]:
    """What is given as x: itself, or all arrays of an .npz."""
    if not isinstance(x, Path | str) or Path(x).suffix != ".npz":
        return {"x": Column.of("x", x)}
    found = columns_of_npz(Path(x))
    if "x" not in found:
        raise UserError(
            f"{x} holds no array named x, but {', '.join(sorted(found)) or 'nothing'}; give others one by one: "
            "np.load(…)[name]"
        )
    twice = sorted(found.keys() & others.keys())
    if twice:
        raise UserError(f"{twice[0]} is given, and is also in {x}; give it once")
    return found
