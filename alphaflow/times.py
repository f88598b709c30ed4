"""Where on the path to train: distributions of one time t, and of pairs r ≤ t.

A distribution is any object with ``sample(b, device, generator) -> (b,)`` in [0, 1]. One that also has ``cdf`` and
``quantile`` can be truncated.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

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


@runtime_checkable
class PairDistribution(Protocol):
    """A distribution of pairs r ≤ t."""

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""
        ...

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""
        ...


Pairing = Literal["sorted", "min", "product", "truncated", "zero"]


class Pairs(ABC):
    """A `PairDistribution` as objectives use it.

    Attributes:
        zero: every r is 0.
        finest: the length of the shortest jump on its grid of times; 0 where there is no grid.
    """

    zero: bool = False
    finest: float = 0.0

    @abstractmethod
    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""

    @abstractmethod
    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""

    @staticmethod
    def of(times: TimeDistribution | PairDistribution, pairing: Pairing) -> Pairs:
        """Times that are paired already, as they are; others paired so."""
        if isinstance(times, Pairs):
            return times
        return _Foreign(times) if isinstance(times, PairDistribution) else TimePairs(times, pairing)


@dataclass(frozen=True)
class _Foreign(Pairs):
    """A distribution of pairs of the user's own, which may draw anything."""

    inner: PairDistribution

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        return self.inner.sample(b, device, generator)

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        r, t = self.inner.pairs(b, device, generator)
        if bool((r > t).any()):
            raise ValueError(f"a jump goes from t down to r, but {self.inner} drew r > t: swap them")
        return r, t


@dataclass(frozen=True, repr=False)
class TimePairs(Compact, Pairs):
    """Pairs r ≤ t from one distribution of times.

    Args:
        times: the distribution that each draw comes from.
        pairing: ``"sorted"``: two draws, t the larger and r the smaller (MeanFlow's); ``"min"``: t the first draw,
            r = min of both; ``"product"``: r = t·draw; ``"truncated"``: t a draw, r a draw given that it is below t;
            ``"zero"``: r = 0, as consistency models have it.
    """

    times: TimeDistribution = LogitNormal()
    pairing: Pairing = "sorted"

    def __post_init__(self) -> None:
        if self.pairing not in ("sorted", "min", "product", "truncated", "zero"):
            raise ValueError(f"pairing is sorted, min, product, truncated or zero, got {self.pairing!r}")
        if self.pairing == "truncated" and not isinstance(self.times, Invertible):
            raise ValueError(f"pairing truncated needs times with cdf and quantile; {self.times} has none: use min")

    @property
    def zero(self) -> bool:  # type: ignore[override]
        """Whether every r is 0."""
        return self.pairing == "zero"

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""
        return self.times.sample(b, device, generator)

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""
        first = self.times.sample(b, device, generator)
        if self.pairing == "zero":
            return torch.zeros_like(first), first
        if self.pairing == "truncated":
            assert isinstance(self.times, Invertible)
            share = torch.rand(b, device=device, generator=generator)
            below = self.times.quantile(share * self.times.cdf(first)).to(first.dtype)
            return torch.minimum(below, first), first
        second = self.times.sample(b, device, generator)
        if self.pairing == "sorted":
            return torch.minimum(first, second), torch.maximum(first, second)
        if self.pairing == "min":
            return torch.minimum(first, second), first
        return first * second, first


@dataclass(frozen=True, repr=False)
class DyadicPairs(Compact, Pairs):
    """The grid of Shortcut Models (arXiv 2410.12557): jumps of 1, ½, ¼, … down to 2/steps, from multiples of the jump.

    Times without a partner are multiples of 1/steps, t > 0.

    Args:
        steps: steps of the finest grid, a power of two, at least 2.
    """

    steps: int = 128

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps & (self.steps - 1):
            raise ValueError(f"DyadicPairs needs a power of two of at least 2, got {self.steps}")

    @property
    def finest(self) -> float:  # type: ignore[override]
        """The length of the grid's shortest jump."""
        return 1 / self.steps

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner: (b,)."""
        return (torch.randint(self.steps, (b,), device=device, generator=generator) + 1) / self.steps

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r < t: two tensors (b,)."""
        levels = self.steps.bit_length() - 1
        count = 2 ** torch.randint(levels, (b,), device=device, generator=generator)  # jumps from 1 to 0
        index = (torch.rand(b, device=device, generator=generator) * count).floor()
        return index / count, (index + 1) / count


def grid(steps: int) -> tuple[float, ...]:
    """The even time grid of N steps, 1 = t_0 > … > t_N = 0: N + 1 numbers (N − i)/N, so that 0.1 is on that of 10."""
    return tuple((steps - i) / steps for i in range(steps + 1))


def check_grid(times: tuple[float, ...]) -> None:
    """Raises ValueError unless times fall strictly from 1 to 0."""
    falls = all(a > b for a, b in itertools.pairwise(times))
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or not falls or not all(map(math.isfinite, times)):
        raise ValueError(f"a sampler's times must fall strictly from 1 to 0, for example (1, 0.5, 0), got {times}")
