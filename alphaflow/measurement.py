"""What may be measured while training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from .objectives.objective import Objective
from .recipe import Recipe
from .types import Batch


class Measurement(ABC):
    """A measurement of samples during training. `alphaflow.TrainingEvaluation` is one; `of` makes one of any callable.

    Attributes:
        every: steps between measurements.
        shares: it takes ``world``: all processes of a training share the work.
    """

    every: int
    shares: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> dict[str, float]:
        """What is measured of the averaged network, by name."""

    def check(self, recipe: Recipe, model: nn.Module, device: torch.device) -> tuple[str, ...] | None:
        """The names of what will be measured, or None where they aren't known; raises a UserError if it can't be."""
        return None

    def higher(self, value: str) -> bool:
        """Whether more of a value is better."""
        return False

    @staticmethod
    def of(evaluation: Any) -> Measurement:
        """Any object with ``every`` that is called like a measurement, as one."""
        return evaluation if isinstance(evaluation, Measurement) else _Foreign(evaluation)


class _Foreign(Measurement):
    def __init__(self, inner: Any) -> None:
        self.every: int = inner.every
        self.inner: Callable[..., dict[str, float]] = inner

    def __call__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> dict[str, float]:
        return self.inner(recipe, model, device)


class GradientMeasurement(Protocol):
    """Measures gradients during training; `alphaflow.GradientProbe` is one."""

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(self, model: nn.Module, objective: Objective, batch: Batch, step: int) -> dict[str, float]:
        """The values at this step, by name."""
        ...
