"""What torch's datasets give, items and batches of many forms, as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError, is_whole, reason
from ..pixel_values import first_not_finite
from ..types import Batch, Cond
from .dataset import Dataset
from .fields import check_samples, taken

Fields: TypeAlias = Sequence[str | None] | Mapping[str, str] | None
"""A name for each part of a tuple, None for one that isn't wanted; or, for a dict, names by key of those that are."""


@dataclass(frozen=True)
class Reader:
    """Makes batches of what torch's datasets give."""

    fields: Fields
    classes: int | Sequence[str] | None

    def __post_init__(self) -> None:
        if isinstance(self.fields, str):
            raise UserError(f"fields are several names, ('x', 'image'), not {self.fields!r}")
        named = list(self.fields.values() if isinstance(self.fields, Mapping) else self.fields or ())
        twice = next((name for name in named if name is not None and named.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"fields name two parts {twice!r}; each needs a name of its own, or None to leave it out")
        whole = is_whole(self.classes)
        names = isinstance(self.classes, Sequence) and not isinstance(self.classes, str)
        if not (self.classes is None or names or (whole and self.classes >= 1)):  # type: ignore[operator]
            raise UserError(f"classes is their number, or a list of their names, got {self.classes!r}")
        if whole:
            object.__setattr__(self, "classes", int(self.classes))  # type: ignore[arg-type]

    def describe(self, dataset: Dataset, first: Batch) -> None:
        """Tells a dataset of its classes."""
        if first.cond.labels is not None and self.classes is None:
            raise UserError(
                f"the {dataset.kind_name} has labels; say how many classes there are, or their names: classes=10"
            )
        if isinstance(self.classes, int):
            dataset.classes = self.classes
        else:
            dataset.class_names = tuple(self.classes or ())

    def item(self, given: Any) -> dict[str, Tensor]:
        """An item's parts by name, without a batch dimension."""
        if not isinstance(given, Batch):
            return {name: _tensor(name, part) for name, part in self.named(given, several=False).items()}
        if len(given.x) != 1:
            raise UserError(
                f"an item is a Batch of {len(given.x)} samples, not of one; give a DataLoader(…, batch_size=None)"
            )
        return {name: part[0] for name, part in self.named(given, several=True).items()}

    def named(self, given: Any, *, several: bool) -> dict[str, Any]:
        """The parts of an item, or of a batch (``several``), by name."""
        fields = self.fields
        if isinstance(given, Batch):
            return {"x": given.x, **given.cond.tensors, **({} if given.std is None else {"std": given.std})}
        if isinstance(given, Mapping):
            if fields is None:
                return {str(name): part for name, part in given.items()}
            if not isinstance(fields, Mapping):
                raise UserError(f"an item is a dict of {_listed(given)}; name them by key: fields={{'…': 'x'}}")
            missing = [key for key in fields if key not in given]
            if missing:
                raise UserError(f"fields names {missing[0]!r}, but an item holds {_listed(given)}")
            return {name: given[key] for key, name in fields.items()}
        parts = list(given) if isinstance(given, tuple | list) else [given]
        if fields is None and (len(parts) == 1 or (len(parts) == 2 and _whole(parts[1], int(several)))):
            return dict(zip(("x", "labels"), parts, strict=False))
        if fields is None or isinstance(fields, Mapping) or len(fields) != len(parts):
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise UserError(f"an item has {len(parts)} parts ({kinds}); name each: fields=('x', 'image', …)")
        return {name: part for name, part in zip(fields, parts, strict=True) if name is not None}

    def batch(self, parts: Mapping[str, Any], called: Sequence[str] = ()) -> Batch:
        """A batch of parts (b, …) by name; ``called`` is what messages call each sample.

        Raises:
            UserError: there is no x, they don't make one, or a sample is not finite.
        """
        if "x" not in parts:
            raise UserError(f"there is no x, but {_listed(parts)}; say which it is: fields={{'…': 'x'}}")
        found = {name: _tensor(name, part) for name, part in parts.items()}
        for name, part in found.items():
            row = first_not_finite(part) if part.is_floating_point() and part.ndim else None
            if row is not None:
                which = called[row] if called else f"sample {row} of a batch"
                raise UserError(f"{name} is not finite: {which} holds NaN or infinity; repair it, or leave it out")
        x = found.pop("x")
        usable = x.is_floating_point() or x.dtype == torch.uint8
        check_samples("x", x.dtype, tuple(x.shape), usable=usable)
        std = found.pop("std", None)
        try:
            cond = Cond(**{name: taken(name, part) for name, part in found.items()})
            return Batch(taken("x", x), cond, None if std is None else taken("std", std))
        except ValueError as error:
            raise UserError(f"a batch can't be used: {reason(error)}") from error


def _listed(parts: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, parts)) or "nothing"


def _whole(part: Any, dimensions: int) -> bool:
    """Whether a part is whole numbers in a tensor of so many dimensions, or just one."""
    if isinstance(part, Tensor):
        whole = not part.is_floating_point() and not part.is_complex() and part.dtype != torch.bool
        return whole and part.ndim == dimensions
    return is_whole(part) and not dimensions


def _tensor(name: str, part: Any) -> Tensor:
    """A part as a tensor."""
    if isinstance(part, Tensor):
        return part
    if isinstance(part, Image.Image):
        raise UserError(
            f"{name} is a picture of Pillow's; give the dataset a transform that makes tensors, such as torchvision's "
            "Compose([ToTensor(), Normalize(0.5, 0.5)]), whose pixels lie in [-1, 1]"
        )
    try:
        return torch.tensor(part)
    except (ValueError, TypeError, RuntimeError) as error:
        kind = type(part).__name__
        raise UserError(f"{name} is a {kind}, no tensor or numbers; leave it out: fields says what is taken") from error
