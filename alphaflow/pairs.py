"""Which jumps to train: distributions of pairs of times r ≤ t."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch

from .describe import Compact
from .times import Device, Invertible, LogitNormal, TimeDistribution
from .types import Time


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
    """Pairs r ≤ t of draws from distributions of times: one for all, or one each for t, for r, and for r = t.

    Args:
        times: where t is drawn from.
        pairing: ``"sorted"``: t the larger of two draws and r the smaller (MeanFlow's); ``"min"``: r = min of its draw
            and t; ``"product"``: r = t·draw; ``"truncated"``: r a draw given that it is below t; ``"zero"``: r = 0, as
            consistency models have it.
        r_times: where r's draw is from; None for ``times``.
        fm_times: where the times of samples with r = t are drawn from; None for ``times``, ``"pair"`` for the t of a
            pair, as where a share of pairs is set to r = t after they were sorted (original MeanFlow, arXiv
            2505.13447).
    """

    times: TimeDistribution = LogitNormal()
    pairing: Pairing = "sorted"
    r_times: TimeDistribution | None = None
    fm_times: TimeDistribution | Literal["pair"] | None = None

    def __post_init__(self) -> None:
        if self.pairing not in get_args(Pairing):
            raise ValueError(f"pairing is sorted, min, product, truncated or zero, got {self.pairing!r}")
        _check(self.times, *(times for times in (self.r_times, self.fm_times) if times not in (None, "pair")))
        if self.pairing == "zero" and self.r_times is not None:
            raise ValueError(f"pairing zero draws no r: leave r_times={self.r_times} out")
        if self.pairing == "truncated":
            _invertible(self._of_r, "pairing truncated", "use min", whole=self.r_times is not None)

    @property
    def _of_r(self) -> TimeDistribution:
        return self.times if self.r_times is None else self.r_times

    @property
    def zero(self) -> bool:  # type: ignore[override]
        """Whether every r is 0."""
        return self.pairing == "zero"

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""
        if self.fm_times == "pair":
            return self.pairs(b, device, generator)[1]
        return (self.fm_times or self.times).sample(b, device, generator)

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""
        first = self.times.sample(b, device, generator)
        if self.pairing == "zero":
            return torch.zeros_like(first), first
        if self.pairing == "truncated":
            return _truncated(self._of_r, first, generator), first
        second = self._of_r.sample(b, device, generator)
        if self.pairing == "sorted":
            return torch.minimum(first, second), torch.maximum(first, second)
        if self.pairing == "min":
            return torch.minimum(first, second), first
        return first * second, first


@dataclass(frozen=True, repr=False)
class GapPairs(Compact, Pairs):
    """Pairs by the length of their jump: a gap, an r that leaves room for it, t = r + gap (TVM, arXiv 2511.19797).

    Args:
        gap: where t − r is drawn from.
        r_times: where r is drawn from, given that r ≤ 1 − gap.
        fm_times: where the times of samples with r = t are drawn from.
    """

    gap: TimeDistribution = LogitNormal(-0.8, 1.0)
    r_times: TimeDistribution = LogitNormal(-0.4, 1.0)
    fm_times: TimeDistribution = LogitNormal(-0.4, 1.0)

    def __post_init__(self) -> None:
        _check(self.gap, self.r_times, self.fm_times)
        _invertible(self.r_times, "GapPairs", "use TimePairs", whole=True)

    def sample(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> Time:
        """Draws b times t without a partner (for samples with r = t): (b,)."""
        return self.fm_times.sample(b, device, generator)

    def pairs(self, b: int, device: Device = None, generator: torch.Generator | None = None) -> tuple[Time, Time]:
        """Draws b pairs (r, t), r ≤ t: two tensors (b,)."""
        gap = self.gap.sample(b, device, generator)
        r = _truncated(self.r_times, 1 - gap, generator)
        return r, (r + gap).clamp(max=1)  # rounding


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


def _check(*times: object) -> None:
    for each in times:
        if isinstance(each, type | PairDistribution) or not isinstance(each, TimeDistribution):
            raise ValueError(f"times are distributions such as LogitNormal(), got {each!r}")


def _invertible(times: TimeDistribution, what: str, instead: str, *, whole: bool) -> None:
    """Refuses times that can't be truncated; ``whole``: or that don't reach down to 0, where r may have to lie."""
    if not isinstance(times, Invertible):
        raise ValueError(f"{what} needs times with cdf and quantile; {times} has none: {instead}")
    if whole and float(times.quantile(torch.zeros(1))) > 0:
        raise ValueError(f"{what} needs times of r that reach down to 0, got {times}")


def _truncated(times: TimeDistribution, below: Time, generator: torch.Generator | None) -> Time:
    """A draw of each given that it is at most ``below`` (b,): exact, by the inverse of the distribution function."""
    assert isinstance(times, Invertible)
    share = torch.rand(below.shape, device=below.device, generator=generator)
    return torch.minimum(times.quantile(share * times.cdf(below)).to(below.dtype), below)  # rounding
