"""Where on the path to train: distributions of one time t, and of pairs r ≤ t.

A distribution is any object with ``sample(b, device, generator) -> (b,)`` in [0, 1].
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from .printing import Compact
from .types import Time

Device = torch.device | str | None


class TimeDistribution(Protocol):
    """A distribution of times."""

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times in [0, 1]: (b,), float32."""
        ...


@dataclass(frozen=True, repr=False)
class Uniform(Compact):
    """t ~ U(0, 1)."""

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        return torch.rand(b, device=device, generator=generator)


@dataclass(frozen=True, repr=False)
class LogitNormal(Compact):
    """t = sigmoid(n), n ~ N(mean, std²) (SD3, arXiv 2403.03206, eq. 19; MeanFlow's default is mean −0.4, std 1)."""

    mean: float = -0.4
    std: float = 1.0

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(b, device=device, generator=generator))


@dataclass(frozen=True, repr=False)
class TimePairs(Compact):
    """Pairs r ≤ t from one distribution of times.

    Args:
        times: the distribution that each draw comes from.
        pairing: ``"sorted"``: two draws, t the larger and r the smaller (MeanFlow's); ``"min"``: t the first draw,
            r = min of both; ``"product"``: r = t·draw.
    """

    times: TimeDistribution = LogitNormal()
    pairing: Literal["sorted", "min", "product"] = "sorted"

    def __post_init__(self) -> None:
        if self.pairing not in ("sorted", "min", "product"):
            raise ValueError(f"pairing is sorted, min or product, got {self.pairing!r}")

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""
        return self.times.sample(b, device, generator)

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""
        first = self.times.sample(b, device, generator)
        second = self.times.sample(b, device, generator)
        if self.pairing == "sorted":
            return torch.minimum(first, second), torch.maximum(first, second)
        if self.pairing == "min":
            return torch.minimum(first, second), first
        return first * second, first


def grid(steps: int) -> tuple[float, ...]:
    """The even time grid of N steps, 1 = t_0 > … > t_N = 0: N + 1 numbers."""
    return tuple(1 - i / steps for i in range(steps + 1))


def check_grid(times: tuple[float, ...]) -> None:
    """Raises ValueError unless times fall strictly from 1 to 0."""
    falls = all(a > b for a, b in itertools.pairwise(times))
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or not falls or not all(map(math.isfinite, times)):
        raise ValueError(f"a sampler's times must fall strictly from 1 to 0, for example (1, 0.5, 0), got {times}")
