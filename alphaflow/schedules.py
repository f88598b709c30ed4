"""Schedules: training step k ↦ value. For α (the curriculum), the share of r = t samples, the learning rate.

Each ramp goes from ``first`` (held before step ``start``) to ``last`` (held after step ``end``);
the defaults go 1 → 0, as the curriculum of α-Flow does (arXiv 2510.20771). With ``clamp`` = η > 0,
values below η become 0 and values above 1 − η become 1, so that the cheap limits are reached exactly.

In the formulas p = (k − start) / (end − start) ∈ [0, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from .describe import Compact


@runtime_checkable
class Schedule(Protocol):
    """Any callable ``schedule(step) -> float``."""

    def __call__(self, step: int, /) -> float:
        """The value at a step."""
        ...


Scheduled: TypeAlias = Schedule | float
"""A schedule, or a number that stays."""


def value_at(scheduled: Scheduled, step: int) -> float:
    """The value at a step of a schedule or a plain number."""
    return scheduled(step) if callable(scheduled) else float(scheduled)


@dataclass(frozen=True, repr=False)
class Constant(Compact):
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True, repr=False)
class StepSchedule(Compact):
    """``first`` before step ``at``, ``last`` from it on."""

    at: int
    first: float = 1.0
    last: float = 0.0

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.first if step < self.at else self.last


@dataclass(frozen=True, repr=False)
class DoublingIntervals(Compact):
    """From ``first``, twice as much at even intervals, until ``last`` at the end of training.

    The number of time intervals in consistency training: min(first·2^⌊k/K′⌋, last) with
    K′ = ⌊end / (log₂⌊last/first⌋ + 1)⌋ (iCT, arXiv 2310.14189; its N(k) counts points, one more than intervals).

    Args:
        end: the number of training steps K.
        first, last: s₀ and s₁.
    """

    end: int
    first: int = 10
    last: int = 1280

    def __post_init__(self) -> None:
        if self.end < 1 or not 1 <= self.first <= self.last:
            raise ValueError(f"DoublingIntervals needs end >= 1 and 1 <= first <= last, got {self}")

    def __call__(self, step: int) -> float:
        """The value at a step, a whole number."""
        every = max(math.floor(self.end / (math.log2(self.last // self.first) + 1)), 1)
        doublings = min(step // every, self.last.bit_length())
        return float(min(self.first * 2**doublings, self.last))


@dataclass(frozen=True, repr=False)
class WarmUp(Compact):
    """From near 0 in a straight line over the first steps, then as another schedule says: for the learning rate.

    The value at step k is min((k + 1)/steps, 1) times the other's.

    Args:
        steps: how many.
        then: a number or a schedule, ``WarmUp(10_000, Cosine(10_000, 400_000, first=1e-4))``.
    """

    steps: int
    then: Scheduled

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"WarmUp needs steps >= 1, got {self.steps}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return min((step + 1) / self.steps, 1.0) * value_at(self.then, step)


@dataclass(frozen=True, repr=False)
class _Ramp(Compact, ABC):
    """From ``first`` at step ``start`` to ``last`` at step ``end``, constant outside."""

    start: int = 0
    end: int = 0  # no default in truth: the check below asks for one
    first: float = 1.0
    last: float = 0.0
    clamp: float = 0.0

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(f"{type(self).__name__} needs end > start, got start={self.start} and end={self.end}")
        if not 0 <= self.clamp < 0.5:
            raise ValueError(f"{type(self).__name__} needs 0 <= clamp < 0.5, got {self.clamp}")
        if self.clamp and max(self.first, self.last) < 0.5:
            raise ValueError(
                f"{type(self).__name__}'s clamp of {self.clamp} is for values between 0 and 1; "
                f"for first={self.first} and last={self.last} give clamp=0"
            )

    def __call__(self, step: int) -> float:
        """The value at a step."""
        if step < self.start:
            value = self.first
        elif step > self.end:
            value = self.last
        else:
            value = self._between((step - self.start) / (self.end - self.start))
        if self.clamp and value < self.clamp:
            return 0.0
        if self.clamp and value > 1 - self.clamp:
            return 1.0
        return value

    @abstractmethod
    def _between(self, p: float) -> float:
        """The value at progress p ∈ [0, 1]."""

    def _mix(self, weight: float) -> float:
        return self.first + (self.last - self.first) * weight


@dataclass(frozen=True, repr=False)
class Linear(_Ramp):
    """first + (last − first)·p."""

    def _between(self, p: float) -> float:
        return self._mix(p)


@dataclass(frozen=True, repr=False)
class Exponential(_Ramp):
    """first·(last/first)^(p^γ): a straight line in the logarithm at γ = 1. Both ends must be > 0.

    By default it ends at 1e-3 with a clamp of 5e-3, so it goes 1 → 0 like its siblings.
    """

    last: float = 1e-3
    clamp: float = 5e-3
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first <= 0 or self.last <= 0:
            raise ValueError(f"Exponential needs first > 0 and last > 0, got {self.first} and {self.last}")

    def _between(self, p: float) -> float:
        return self.first * math.pow(self.last / self.first, p**self.gamma)


@dataclass(frozen=True, repr=False)
class Logarithmic(_Ramp):
    """first + (last − first)·log₁₀(1 + 9p): fast at the start."""

    def _between(self, p: float) -> float:
        return self._mix(math.log10(1 + 9 * p))


@dataclass(frozen=True, repr=False)
class Cosine(_Ramp):
    """first + (last − first)·(1 − cos πp)/2: flat at both ends."""

    def _between(self, p: float) -> float:
        return self._mix((1 - math.cos(math.pi * p)) / 2)


@dataclass(frozen=True, repr=False)
class Sigmoid(_Ramp):
    """first + (last − first)/(1 + exp(−γ(p − ½))): the curriculum of α-Flow (arXiv 2510.20771).

    With the defaults α(k) = 1 − 1/(1 + exp(−γ·(p − ½))), γ = 25, clamp η = 5e-3.
    """

    gamma: float = 25.0
    clamp: float = 5e-3

    def _between(self, p: float) -> float:
        return self._mix(1 / (1 + math.exp(-self.gamma * (p - 0.5))))
