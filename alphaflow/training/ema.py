"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """A copy of a network whose parameters average those of the network in training.

    θ_ema ← d·θ_ema + (1 − d)·θ with d = min(decay, (1 + k)/(10 + k)) at the k-th update, so that the random start is
    soon forgotten. Buffers are copied.

    Args:
        model: the network in training.
        decay: the decay d, in [0, 1).

    Attributes:
        model: the averaged network, in evaluation mode and without gradients.
        updates: how many updates it has had.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the EMA decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._average: list[Tensor] = list(self.model.parameters())
        self._source: list[Tensor] = [parameter.detach() for parameter in model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the network's weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, self._source, 1 - decay)
        for average, source in self._buffers:
            average.copy_(source)
        self.updates += 1
