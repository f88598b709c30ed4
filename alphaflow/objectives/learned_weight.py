"""Losses that are weighted by a small network of the objective's own, a function of the times."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..types import PerSample, Time
from .objective import Objective


class LogWeight(nn.Module):
    """A learned logarithm of a weight: a linear map of 16 sines and 16 cosines of each time, zero at the start.

    Over [0, 1] they have ½, 1, 1½, … 8 periods.

    Args:
        times: how many times it sees.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        rates = torch.pi * torch.arange(1, 17, dtype=torch.float32)
        self.rates: Tensor
        self.register_buffer("rates", rates, persistent=False)
        self.weight = nn.Parameter(torch.zeros(32 * times))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, *times: Time) -> PerSample:
        """(b,) each → (b,)."""
        angles = torch.cat([t.to(self.weight.dtype)[:, None] * self.rates for t in times], dim=1)
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        weight: Tensor = (features * self.weight).sum(1) + self.bias  # autocast would round a product of matrices
        return weight.to(times[0].dtype)


@dataclass(frozen=True, kw_only=True, repr=False)
class LearnedWeight(Objective):
    """An objective with a `LogWeight`, which is trained beside the model."""

    _weight: LogWeight | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def network(self) -> LogWeight | None:
        """The learned weight's logarithm, to be trained beside the model; None where it isn't learned."""
        return self._weight

    def learn(self, times: int) -> None:
        """Makes the network, of so many times.

        Raises:
            ValueError: with ``balance``, whose losses must not be negative.
        """
        if self.balance:
            raise ValueError(f"{type(self).__name__} learns its weights, so that a loss may be negative: no balance")
        object.__setattr__(self, "_weight", LogWeight(times))
