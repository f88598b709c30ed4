"""Moving averages of a network's weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..printing import Compact
from .distributed import local


@dataclass(frozen=True, repr=False)
class PowerLaw(Compact):
    """An average whose width grows with training: weights of step τ count as τ^γ (EDM2, arXiv 2312.02696, eq. 1–4).

    The decay of step t is (1 − 1/t)^(γ+1). Two of them, kept in a run's checkpoints, give any other width afterwards:
    `post_hoc_average`.

    Args:
        width: σ_rel, the standard deviation of the averaged steps ÷ training's length, below 0.28; EDM2 keeps 0.05 and
            0.1.
    """

    width: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.width < 12**-0.5:
            raise ValueError(f"the width σ_rel of a power-law average lies between 0 and 0.288, got {self.width}")

    @cached_property
    def gamma(self) -> float:
        """γ of this width: σ_rel = √((γ + 1) / ((γ + 2)²·(γ + 3)))."""
        low, high = 0.0, 1e9  # the width falls as γ grows
        for _ in range(200):
            middle = math.sqrt((low + 1) * (high + 1)) - 1
            low, high = (middle, high) if _width(middle) > self.width else (low, middle)
        return low

    def decay(self, updates: int) -> float:
        """The decay d of the update after so many."""
        return float((1 - 1 / (updates + 1)) ** (self.gamma + 1))


def _width(gamma: float) -> float:
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


Average: TypeAlias = float | PowerLaw
"""A decay, or a power law."""


def average_name(average: Average, first: bool) -> str:
    """The name of an average's file: ``ema`` for the first, ``ema-0.999`` or ``ema-width-0.05`` for others."""
    if first:
        return "ema"
    return f"ema-width-{average.width:g}" if isinstance(average, PowerLaw) else f"ema-{average:g}"


RAMP = 0.05
"""An average's half-life is at most this share of its updates so far."""


class EMA:
    """A copy of a network whose parameters average those of the network in training.

    θ_ema ← d·θ_ema + (1 − d)·θ. After k updates d is the smaller of the decay and 2^(−20/k), whose half-life is 5 % of
    these updates (0 at k = 0), so that the random start is soon forgotten (EDM, arXiv 2206.00364; α-Flow's official
    runs); or d is a power law's. Buffers are copied.

    Args:
        model: the network in training.
        decay: the decay d, in [0, 1), or a `PowerLaw`.

    Attributes:
        model: the averaged network, in evaluation mode and without gradients.
        updates: how many updates it has had.
    """

    def __init__(self, model: nn.Module, decay: Average) -> None:
        if not isinstance(decay, PowerLaw) and not 0 <= decay < 1:
            raise ValueError(f"the EMA decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Averages this network's weights from now on, each process its own part of them."""
        self._average: list[Tensor] = [local(parameter) for parameter in self.model.parameters()]
        self._source: list[Tensor] = [local(parameter.detach()) for parameter in model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the network's weights as they are now."""
        if isinstance(self.decay, PowerLaw):
            decay = self.decay.decay(self.updates)
        else:
            decay = min(self.decay, 0.5 ** (1 / (RAMP * self.updates))) if self.updates else 0.0
        torch._foreach_lerp_(self._average, self._source, 1 - decay)
        for average, source in self._buffers:
            average.copy_(source)
        self.updates += 1
