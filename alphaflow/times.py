"""Where on the path to train: distributions of one time t (`pairs` has those of pairs), and grids to sample on.

A distribution is any object with ``sample(b, device, generator) -> (b,)`` in [0, 1]. One that also has ``cdf`` and
``quantile`` can be truncated.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .describe import Compact
from .types import Time

Device = torch.device | str | None


def _check_std(std: float) -> None:
    if std <= 0:
        raise ValueError(f"the standard deviation of times must be positive, got {std}")


@runtime_checkable
class TimeDistribution(Protocol):
    """A distribution of times."""

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times in [0, 1]: (b,), float32."""
        ...


@runtime_checkable
class Invertible(TimeDistribution, Protocol):
    """A distribution of times whose cumulative distribution function is known, and its inverse."""

    def cdf(self, t: Time) -> Time:
        """P(time ≤ t): (b,), float64."""
        ...

    def quantile(self, p: Time) -> Time:
        """The time t with cdf(t) = p: (b,), float64."""
        ...


@dataclass(frozen=True, repr=False)
class UniformTimes(Compact):
    """t ~ U(0, 1)."""

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        return torch.rand(b, device=device, generator=generator)

    def cdf(self, t: Time) -> Time:
        """P(time ≤ t): (b,), float64."""
        return t.double()

    def quantile(self, p: Time) -> Time:
        """The time t with cdf(t) = p: (b,), float64."""
        return p.double()


@dataclass(frozen=True, repr=False)
class LogitNormal(Compact):
    """t = sigmoid(n), n ~ N(mean, std²) (SD3, arXiv 2403.03206, eq. 19; MeanFlow's default is mean −0.4, std 1)."""

    mean: float = -0.4
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_std(self.std)

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(b, device=device, generator=generator))

    def cdf(self, t: Time) -> Time:
        """P(time ≤ t): (b,), float64."""
        p: Time = torch.special.ndtr((torch.logit(t.double()) - self.mean) / self.std)
        return p

    def quantile(self, p: Time) -> Time:
        """The time t with cdf(t) = p: (b,), float64."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(p.double()))


@dataclass(frozen=True, repr=False)
class TruncatedLogitNormal(Compact):
    """A logit-normal time, given that it lies in [low, high]."""

    mean: float = -0.4
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_std(self.std)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"a truncated distribution needs 0 <= low < high <= 1, got {self.low} and {self.high}")

    def _ends(self, like: Time) -> tuple[Time, Time]:
        ends = torch.tensor([self.low, self.high], dtype=torch.float64, device=like.device)
        low, high = LogitNormal(self.mean, self.std).cdf(ends)
        return low, high

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        return self.quantile(torch.rand(b, device=device, generator=generator)).float().clamp(self.low, self.high)

    def cdf(self, t: Time) -> Time:
        """P(time ≤ t): (b,), float64."""
        low, high = self._ends(t)
        return ((LogitNormal(self.mean, self.std).cdf(t) - low) / (high - low)).clamp(0, 1)

    def quantile(self, p: Time) -> Time:
        """The time t with cdf(t) = p: (b,), float64."""
        low, high = self._ends(p)
        return LogitNormal(self.mean, self.std).quantile(low + p.double() * (high - low))


@dataclass(frozen=True, repr=False)
class ArctanLogNormal(Compact):
    """t = (2/π)·arctan(σ), log σ ~ N(mean, std²): the noise levels of sCM (arXiv 2410.11081) on [0, 1]."""

    mean: float = -1.0
    std: float = 1.4

    def __post_init__(self) -> None:
        _check_std(self.std)

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        sigma = torch.exp(self.mean + self.std * torch.randn(b, device=device, generator=generator))
        return torch.arctan(sigma) * (2 / math.pi)

    def cdf(self, t: Time) -> Time:
        """P(time ≤ t): (b,), float64."""
        p: Time = torch.special.ndtr((torch.log(torch.tan(t.double() * (math.pi / 2))) - self.mean) / self.std)
        return p

    def quantile(self, p: Time) -> Time:
        """The time t with cdf(t) = p: (b,), float64."""
        return torch.arctan(torch.exp(self.mean + self.std * torch.special.ndtri(p.double()))) * (2 / math.pi)


@dataclass(frozen=True, repr=False)
class BetaTimes(Compact):
    """t ~ Beta(a, b), as the ratio of two gamma draws: density ∝ t^(a−1)·(1−t)^(b−1)."""

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if self.a <= 0 or self.b <= 0:
            raise ValueError(f"BetaTimes needs a > 0 and b > 0, got {self.a} and {self.b}")

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times: (b,)."""
        shapes = torch.tensor([[self.a], [self.b]], dtype=torch.float64, device=device).expand(2, b)
        first, second = torch._standard_gamma(shapes, generator=generator)
        t: Time = (first / (first + second)).float()
        return t


def grid(steps: int) -> tuple[float, ...]:
    """The even time grid of N steps, 1 = t_0 > … > t_N = 0: N + 1 numbers (N − i)/N, so that 0.1 is on that of 10."""
    return tuple((steps - i) / steps for i in range(steps + 1))


def check_grid(times: tuple[float, ...]) -> None:
    """Raises ValueError unless times fall strictly from 1 to 0."""
    falls = all(a > b for a, b in itertools.pairwise(times))
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or not falls or not all(map(math.isfinite, times)):
        raise ValueError(f"a sampler's times must fall strictly from 1 to 0, for example (1, 0.5, 0), got {times}")
