"""Which conditions a run's samples are made from, and whether what is given is them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data.dataset import Form
from ..errors import UserError, is_whole, reason
from ..network import known
from ..recipe import Recipe
from ..types import NO_CLASS, Cond, check_labels

MOST = 2**28
"""Values in one sample's condition: more are surely damage."""

DTYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool,
)}  # fmt: skip
"""Types of values that a condition may have, by name."""

SEQUENCES = ("tokens", "mask")
"""Conditions whose first dimension, the number of tokens, may be another than in training."""


def read_forms(data: Mapping[str, Any], where: str) -> dict[str, Form] | None:
    """The conditions that a run records of its data; None where it doesn't.

    Raises:
        UserError: it records what can't be.
    """
    found = data.get("conditions")
    if found is None:
        return None
    if not isinstance(found, dict) or not all(_is_form(form) for form in found.values()):
        raise UserError(f"{where} is damaged: data.conditions is not what a run records; restore it, or train again")
    return {name: Form(tuple(form["shape"]), form["dtype"]) for name, form in found.items()}


def _is_form(form: Any) -> bool:
    if not isinstance(form, dict) or not isinstance(form.get("shape"), list):
        return False
    sizes = form["shape"]
    if not all(is_whole(size) and size > 0 for size in sizes) or math.prod(sizes) > MOST:
        return False
    return form.get("dtype") in DTYPES


@dataclass(frozen=True)
class Conditioning:
    """What a run's samples are made from.

    Attributes:
        forms: what the training data have; None where nothing says.
        network: what the network takes; None where it doesn't say.
        source: what the source reads.
        classes: the number of classes; None for none.
        name: what messages call the run.
    """

    forms: Mapping[str, Form] | None
    network: tuple[str, ...] | None
    source: tuple[str, ...]
    classes: int | None
    name: str

    @staticmethod
    def of(recipe: Recipe, name: str = "the run") -> Conditioning:
        """What a recipe's samples are made from."""
        data, takes = recipe.dataset, known(recipe.model).conditions
        return Conditioning(data.condition_forms, takes, recipe.objective.source.conditions, data.classes, name)

    @property
    def known(self) -> tuple[str, ...] | None:
        """What may be given beside labels; None where nothing says."""
        names = self.network if self.network is not None else self.forms
        if names is None:
            return None
        mask = ["mask"] if "tokens" in names else []  # it comes with all tokens
        return tuple(name for name in dict.fromkeys([*names, *mask, *self.source]) if name != "labels")

    @property
    def needed(self) -> tuple[str, ...]:
        """What samples can't be made without; labels can be chosen, and tokens without a mask are all there."""
        names = self.source if self.known is None else self.known
        had = names if self.forms is None else [*self.forms, *self.source]
        return tuple(name for name in names if name in had and name not in ("guidance", "mask"))

    @property
    def seen(self) -> tuple[str, ...]:
        """What of that the network is given: not what only the source reads (`sources.seen`)."""
        return tuple(name for name in self.needed if self.network is None or name in self.network)

    def listed(self, names: tuple[str, ...]) -> str:
        """Names with their shapes, where these are known."""
        shapes = {name: form.shape for name, form in (self.forms or {}).items()}
        return ", ".join(f"{name} {shapes[name]}" if name in shapes else name for name in names)

    def picked(self, cond: Cond) -> Cond:
        """What of a data set's conditions the samples are made from."""
        known = tuple(cond.tensors) if self.known is None else (*self.known, "labels")
        taken = set(known) if self.classes else set(known) - {"labels"}
        return Cond(**{name: tensor for name, tensor in cond.tensors.items() if name in taken})

    def check(self, cond: Cond, count: int) -> None:
        """Refuses what can't be sampled with.

        Raises:
            UserError: a condition is missing, not taken, of another number, shape or kind.
        """
        missing = tuple(name for name in self.needed if name not in cond.tensors)
        if missing:
            raise UserError(f"{self.name} makes its samples from {self.listed(missing)}: give it with `cond=`")
        for name, tensor in cond.tensors.items():
            if self.known is not None and name not in (*self.known, "labels"):
                takes = self.listed(self.known) or "no condition but labels"
                raise UserError(f"{self.name} doesn't take the condition {name}; it takes {takes}")
            if len(tensor) != count:
                raise UserError(f"the condition {name} is of {len(tensor)} samples, and {count} are to be made")
            form = (self.forms or {}).get(name)
            if form is not None and not _fits(name, tensor, form):
                kind = f"{form.dtype} ({', '.join(map(str, (count, *form.shape)))})"
                raise UserError(
                    f"the condition {name} must be {kind}, as in training, got {str(tensor.dtype)[6:]} "
                    f"{tuple(tensor.shape)}"
                )
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise UserError(f"the condition {name} is not finite: it holds NaN or infinity")
        labels = cond.labels
        if labels is not None and not self.classes:
            raise UserError(f"{self.name} has no classes; leave `labels=` out")
        if labels is not None and self.classes and labels.device.type == "cpu":
            try:
                check_labels(labels, self.classes)
            except ValueError as error:
                raise UserError(reason(error)) from error

    def blank(self, count: int, device: torch.device) -> Cond:
        """Conditions without content, to try a network with: zeros, and no class."""
        known, forms = self.known, self.forms or {}
        zeros = {
            name: torch.zeros(count, *form.shape, dtype=DTYPES[form.dtype], device=device)
            for name, form in forms.items()
            if name != "labels" and (known is None or name in known)
        }
        if "mask" in zeros:
            zeros["mask"] = torch.ones_like(zeros["mask"])
        if self.classes:
            zeros["labels"] = torch.full((count,), NO_CLASS, device=device)
        return Cond(**zeros)

    def resized(self, before: tuple[int, ...], after: tuple[int, ...]) -> Conditioning:
        """The same for samples of another size: conditions of the sample's size are of that one too."""
        forms = self.forms and {
            name: replace(form, shape=(*form.shape[:1], *after[1:])) if form.shape[1:] == before[1:] else form
            for name, form in self.forms.items()
        }
        return replace(self, forms=forms)


def _fits(name: str, tensor: torch.Tensor, form: Form) -> bool:
    """Whether a condition (b, …) has the form of those in training, in its kind of values and its shape."""
    there, wanted = tensor.shape[1:], form.shape
    trained = DTYPES[form.dtype]
    if tensor.is_floating_point() != trained.is_floating_point or (trained == torch.bool) != (
        tensor.dtype == torch.bool
    ):
        return False
    if name in SEQUENCES and len(there) == len(wanted):
        there, wanted = there[1:], wanted[1:]
    return tuple(there) == tuple(wanted)
