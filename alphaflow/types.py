"""Tensor aliases, and the records that objects hand to one another: `Cond`, `Batch`, `Loss`; what a `Model` is.

Shapes are written for jaxtyping: ``b`` is the batch, ``...`` any trailing shape (nothing here assumes images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import UserError

Sample: TypeAlias = Float[Tensor, "b ..."]
"""Data, noise, or a velocity: (b, …)."""

Time: TypeAlias = Float[Tensor, " b"]
"""A time in [0, 1] for each sample, 0 = data and 1 = noise: (b,)."""

PerSample: TypeAlias = Float[Tensor, " b"]
"""One number for each sample: (b,)."""

Labels: TypeAlias = Int[Tensor, " b"]
"""A class index for each sample, or `NO_CLASS`: (b,)."""

NO_CLASS = -1
"""The label of a sample without a class. Networks turn it into their learned 'no class' (`Cond.class_index`)."""


class Direction(NamedTuple):
    """A direction in (z, r, t), along which a network is differentiated; of the first n samples of a batch.

    Attributes:
        z: dz, (n, …).
        r, t: dr and dt, (n,).
    """

    z: Sample
    r: Time
    t: Time

    @staticmethod
    def of(along: Sample | Direction, like: Time) -> Direction:
        """A direction as it is; a dz/dt (n, …) as that of a path on which only z and t move, (dz/dt, 0, 1)."""
        if isinstance(along, Direction):
            return along
        t = torch.ones_like(like[: len(along)])
        return Direction(along, torch.zeros_like(t), t)


class Cond:
    """What a model is conditioned on: batch-first tensors of one batch size.

    ``Cond(labels=labels, pose=pose)`` holds two; ``cond.labels`` and ``cond.pose`` give them back, and ``Cond()`` is
    the unconditional case. Nothing changes a `Cond` or its tensors in place. Any name will do for a network of your
    own; these have a meaning all over alphaflow:

    ============ ================== ============================================================ ==================
    name         shape              what it is                                                   dropped (`drop`)
    ============ ================== ============================================================ ==================
    ``labels``   (b,)               class indices, integers                                      `NO_CLASS`
    ``vector``   (b, d)             numbers that belong to the whole sample: a pose, a speed     zeros
    ``tokens``   (b, n, d) or (b,n) a sequence, of features or of indices: a sentence            zeros, all masked
    ``mask``     (b, n)             which tokens there are (True); without it all                all False
    ``image``    (b, c, …)          what has the sample's size: what to restore, a sketch        zeros
    ``guidance`` (b, 3)             how to sample, not what (`GuidanceInputs`)                   stays
    ============ ================== ============================================================ ==================

    `DiT` takes them all, each if it is made so. A source (`FromCondition`) may read one that the network doesn't.

    Args:
        labels: class indices (b,), integers; `NO_CLASS` marks a sample without one.
        **tensors: further conditions, each (b, …).

    Raises:
        ValueError: the batch sizes differ, labels are no integers, or a mask doesn't go with its tokens.
    """

    def __init__(self, labels: Labels | None = None, **tensors: Tensor) -> None:
        if labels is not None:
            if labels.is_floating_point() or labels.ndim != 1:
                raise UserError(f"labels must be integers of shape (b,), got {labels.dtype} {tuple(labels.shape)}")
            tensors = {"labels": labels, **tensors}
        if "tokens" in tensors or "mask" in tensors:
            tensors["mask"] = _mask_of(tensors.get("tokens"), tensors.get("mask"))
        scalar = next((name for name, tensor in tensors.items() if not tensor.ndim), None)
        if scalar is not None:
            raise UserError(f"a condition is (b, …), a row for each sample; {scalar!r} has no dimension")
        sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
        first = next(iter(sizes.values()), 0)
        if any(size != first for size in sizes.values()):
            raise UserError(f"every condition needs the same batch size, got {sizes}")
        self.tensors: Mapping[str, Tensor] = tensors

    @property
    def labels(self) -> Labels | None:
        """Class indices (b,), or None where the data has no classes."""
        return self.tensors.get("labels")

    def __getattr__(self, name: str) -> Tensor:
        if name != "tensors" and name in self.tensors:
            return self.tensors[name]
        raise AttributeError(f"no condition {name!r}; a Cond has what it was made with")

    def __getitem__(self, index: Tensor | slice) -> Cond:
        """The samples that a mask, an index tensor, or a slice picks."""
        return Cond(**{name: tensor[index] for name, tensor in self.tensors.items()})

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"Cond({shapes})"

    def drop(self, mask: Tensor) -> Cond:
        """Takes the condition away where ``mask`` (b,) is true: labels become `NO_CLASS`, other tensors zero or False.

        ``guidance`` stays.
        """

        def dropped(name: str, tensor: Tensor) -> Tensor:
            if name == "guidance":
                return tensor
            where = mask.view(-1, *(1,) * (tensor.ndim - 1))
            return tensor.masked_fill(where, NO_CLASS if name == "labels" else 0)

        return Cond(**{name: dropped(name, tensor) for name, tensor in self.tensors.items()})

    def null(self) -> Cond:
        """The same batch with every condition taken away."""
        if not self.tensors:
            return self
        first = next(iter(self.tensors.values()))
        return self.drop(torch.ones(first.shape[0], dtype=torch.bool, device=first.device))

    def class_index(self, classes: int, batch: int, device: torch.device) -> Labels:
        """Labels as rows of an embedding of ``classes + 1`` rows, whose last row is 'no class': (b,).

        Raises:
            ValueError: a label is none of these classes' (on a CPU).
        """
        if self.labels is None:
            return torch.full((batch,), classes, device=device)
        if self.labels.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere asking would cost a wait
            check_labels(self.labels, classes)
        index = torch.where(self.labels >= classes, classes + 1, self.labels)  # out of range there, not 'no class'
        return torch.where(self.labels == NO_CLASS, classes, index)

    def without(self, name: str) -> Cond:
        """The same condition without one of its tensors; without tokens their mask goes, too."""
        gone = (name, "mask") if name == "tokens" else (name,)
        return Cond(**{key: tensor for key, tensor in self.tensors.items() if key not in gone})

    def replace(self, **tensors: Tensor) -> Cond:
        """The same condition with some tensors added or replaced."""
        return Cond(**{**self.tensors, **tensors})

    def to(self, device: torch.device | str) -> Cond:
        """The same condition on a device."""
        return Cond(**{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()})

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Several conditions with the same names, one batch after another."""
        return Cond(**{name: torch.cat([cond.tensors[name] for cond in conds]) for name in conds[0].tensors})


def _mask_of(tokens: Tensor | None, mask: Tensor | None) -> Tensor:
    """The mask of tokens (b, n): as it was given, or True for all.

    Raises:
        ValueError: it isn't theirs.
    """
    if tokens is None or tokens.ndim not in (2, 3):
        found = "none" if tokens is None else tuple(tokens.shape)
        raise UserError(f"tokens are features (b, n, d) or indices (b, n), and a mask goes with them; got {found}")
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise UserError(
            f"the mask of tokens {tuple(tokens.shape)} is boolean {tuple(tokens.shape[:2])}, True for "
            f"those that are there; got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask


@dataclass(frozen=True)
class Batch:
    """What a dataset yields: samples x (b, …) and their condition.

    Attributes:
        x: the samples; or the means of an autoencoder's posterior, where ``std`` is given.
        cond: what they are conditioned on.
        std: the posterior's standard deviations (b, …), or None. `drawn` turns both into samples.

    Raises:
        ValueError: a condition is of another number of samples than x, or std of another shape.
    """

    x: Sample
    cond: Cond = field(default_factory=Cond)
    std: Sample | None = None

    def __post_init__(self) -> None:
        for name, tensor in self.cond.tensors.items():
            if len(tensor) != len(self.x):
                raise UserError(f"a batch has {len(self.x)} samples x, but its condition {name!r} {len(tensor)}")
        if self.std is not None and self.std.shape != self.x.shape:
            raise UserError(f"a batch's std must have x's shape {tuple(self.x.shape)}, got {tuple(self.std.shape)}")

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        std = None if self.std is None else self.std.to(device, non_blocking=True)
        return Batch(self.x.to(device, non_blocking=True), self.cond.to(device), std)

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU copies while it works."""

        def pinned(tensor: Tensor) -> Tensor:
            return tensor.pin_memory() if tensor.device.type == "cpu" else tensor

        cond = Cond(**{name: pinned(tensor) for name, tensor in self.cond.tensors.items()})
        return Batch(pinned(self.x), cond, None if self.std is None else pinned(self.std))

    def split(self, size: int) -> list[Batch]:
        """The batch in parts of at most so many samples."""
        if size >= len(self.x):
            return [self]
        return [self[slice(start, start + size)] for start in range(0, len(self.x), size)]

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """The samples that a mask, an index tensor, or a slice picks."""
        return Batch(self.x[index], self.cond[index], None if self.std is None else self.std[index])

    def drawn(self, generator: torch.Generator | None = None) -> Batch:
        """Samples mean + std·ε from the posterior; the batch itself where there is none."""
        if self.std is None:
            return self
        noise = torch.randn(self.x.shape, dtype=self.x.dtype, device=self.x.device, generator=generator)
        return Batch(torch.addcmul(self.x, self.std, noise), self.cond)


@dataclass(frozen=True)
class Loss:
    """What an objective returns.

    Attributes:
        total: scalar with gradient, the mean of ``per_sample``.
        per_sample: (b,), weighted.
        terms: named parts, each (b,) and detached, for logs and diagnosis.
    """

    total: Float[Tensor, ""]
    per_sample: PerSample
    terms: Mapping[str, PerSample]


class Model(Protocol):
    """Any callable that predicts a mean velocity: ``model(z, r, t, cond) -> u``.

    z and u are (b, …) of one shape, r ≤ t are (b,) in [0, 1]. u is the mean velocity of the jump t → r, so that
    z_r = z_t − (t − r)·u (MeanFlow, arXiv 2505.13447, eq. 3); at r = t it is the instantaneous velocity.
    """

    def __call__(self, z: Sample, r: Time, t: Time, cond: Cond, /) -> Sample:
        """Predicts u."""
        ...


def check_labels(labels: Labels, classes: int) -> None:
    """Raises a ValueError unless all labels are 0 … classes − 1, or `NO_CLASS`."""
    wrong = ((labels < NO_CLASS) | (labels >= classes)).nonzero()
    if len(wrong):
        sample = int(wrong[0])
        raise UserError(
            f"label {int(labels[sample])} of sample {sample} is out of range: labels are 0 to {classes - 1}, "
            f"or {NO_CLASS} for none"
        )
