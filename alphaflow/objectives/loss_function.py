"""What training asks of an objective, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..derivatives import Derivative, derivative_of
from ..guidance import TrainedGuidance
from ..sources import Gaussian, Source
from ..types import Cond, Loss, Model, Sample

Differentiated = Literal["target", "network", "with gradient"]
"""Whose derivative a loss needs: that of u⁻, or the network's in training, without gradient or with it."""


class LossFunction(ABC):
    """What training asks of an objective: a loss, and what belongs to it. `of` makes one of any function.

    Attributes:
        guidance: classifier-free guidance trained into the target velocity, or None.
        source: what stands at t = 1, and where sampling starts.
        derivative: how a derivative is taken, where the loss needs it.
        differentiated: whose it is.
    """

    guidance: TrainedGuidance | None = None
    source: Source = Gaussian()
    derivative: Derivative = "exact"
    differentiated: ClassVar[Differentiated] = "target"

    @property
    def network(self) -> nn.Module | None:
        """A network of the objective's own that is trained beside the model, or None."""
        return None

    def scalars(self, step: int) -> dict[str, float]:
        """The scheduled values at a step, for logs."""
        return {}

    def takes_derivative(self, step: int) -> bool:
        """Whether the loss at a step needs du/dt."""
        return False

    def derivative_by(self, model: Model) -> str:
        """How a network's derivative is taken, where the loss needs it (`derivative_of`)."""
        return derivative_of(model, self.derivative, graph=self.differentiated == "with gradient")

    def prepare(self, device: torch.device) -> None:
        """Moves what belongs to the objective to a device."""
        if self.network is not None:
            self.network.to(device)

    @abstractmethod
    def __call__(
        self,
        model: Model,
        x: Sample,
        cond: Cond | None = None,
        step: int = 0,
        generator: torch.Generator | None = None,
        *,
        ema: Model | None = None,
        start: int = 0,
    ) -> Loss:
        """One batch's loss; arguments as `Objective` takes them."""

    @staticmethod
    def of(function: Callable[..., Loss]) -> LossFunction:
        """Any ``function(model, x, cond, step, generator) -> Loss`` as an objective."""
        return function if isinstance(function, LossFunction) else _Function(function)


class _Function(LossFunction):
    def __init__(self, function: Callable[..., Loss]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, ema: Model | None = None, start: int = 0) -> Loss:
        return self.function(*arguments)
