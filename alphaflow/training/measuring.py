"""What may be measured while training: two protocols."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from ..objectives.objective import Objective
from ..recipe import Recipe
from ..types import Batch


class Evaluation(Protocol):
    """Measures samples during training; `alphaflow.Evaluation` is one."""

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> dict[str, float]:
        """What is measured of the averaged network, by name; smaller is better for what is to be kept by."""
        ...


def higher_is_better(evaluation: Evaluation | None, value: str | None) -> bool:
    """Whether more of a value is better, if the evaluation says so."""
    look = getattr(evaluation, "higher", None)  # any callable may be an evaluation
    return bool(value is not None and look is not None and look(value))


class Probe(Protocol):
    """Measures gradients during training; `alphaflow.Probe` is one."""

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(self, model: nn.Module, objective: Objective, batch: Batch, step: int) -> dict[str, float]:
        """The values at this step, by name."""
        ...
