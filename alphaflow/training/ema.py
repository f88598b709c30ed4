"""Moving averages of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..averages import Average, PowerLaw
from ..parallel.pieces import parts

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
        self._average, self._source = parts(self.model), parts(model)
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
