"""What may be measured while training: two protocols."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from ..objectives.objective import Objective
from ..recipe import Recipe
from ..types import Batch


class EvaluationCallback(Protocol):
    """Measures samples during training; `alphaflow.TrainingEvaluation` is one."""

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> dict[str, float]:
        """What is measured of the averaged network, by name; smaller is better for what is to be kept by."""
        ...


def higher_is_better(evaluation: EvaluationCallback | None, value: str | None) -> bool:
    """Whether more of a value is better, if the evaluation says so."""
    look = getattr(evaluation, "higher", None)  # any callable may be an evaluation
    return bool(value is not None and look is not None and look(value))


class ProbeCallback(Protocol):
    """Measures gradients during training; `alphaflow.GradientProbe` is one."""

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(self, model: nn.Module, objective: Objective, batch: Batch, step: int) -> dict[str, float]:
        """The values at this step, by name."""
        ...
