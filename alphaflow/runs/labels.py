"""Labels to sample with."""

from __future__ import annotations

import torch

from ..errors import UserError
from ..types import Labels


def balanced_labels(count: int, classes: int, start: int = 0) -> Labels:
    """Every class equally often: 0, 1, …, classes − 1, 0, 1, … from the ``start``-th sample on, (count,).

    Where ``count`` is not a multiple of ``classes``, the first classes have one more. For ImageNet's 50,000 samples
    that is 50 of each of 1,000 classes.
    """
    return torch.arange(start, start + count) % classes


def chosen_labels(count: int, chosen: list[int], classes: int | None) -> Labels:
    """The chosen classes in turn: (count,).

    Raises:
        UserError: the model has no classes, or an index is out of range.
    """
    if not classes:
        raise UserError("this model has no classes; leave `chosen=` out")
    wrong = [index for index in chosen if not 0 <= index < classes]
    if wrong:
        raise UserError(f"class {wrong[0]} is out of range: this model has the classes 0 to {classes - 1}")
    return torch.tensor(chosen)[torch.arange(count) % len(chosen)]


def random_labels(count: int, classes: int, generator: torch.Generator) -> Labels:
    """Classes drawn uniformly: (count,)."""
    return torch.randint(classes, (count,), generator=generator)
