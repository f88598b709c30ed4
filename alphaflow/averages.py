"""Which steps an average of weights is made of: decays, power laws, and mixtures of them (EDM2, arXiv 2312.02696)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from .describe import Compact


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


Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def combination(times: Numbers, gammas: Numbers, time: float, gamma: float) -> Numbers:
    """How much of each kept average makes the wanted one: least squares between their profiles.

    Args:
        times: updates of the kept averages, (n,).
        gammas: their γ, (n,).
        time: updates of the wanted one.
        gamma: its γ.
    """
    among = np.array(
        [[overlap(a, c, b, d) for b, d in zip(times, gammas, strict=True)] for a, c in zip(times, gammas, strict=True)]
    )
    wanted = np.array([overlap(a, c, time, gamma) for a, c in zip(times, gammas, strict=True)])
    shares: Numbers = np.linalg.lstsq(among, wanted, rcond=1e-12)[0]
    return shares


def overlap(time: float, gamma: float, other_time: float, other_gamma: float) -> float:
    """∫ p·q dτ of two profiles, p(τ) = (γ + 1)·τ^γ / t^(γ + 1) on [0, t]."""
    low = math.log(min(time, other_time))
    exponent = (gamma + other_gamma + 1) * low
    exponent -= (gamma + 1) * math.log(time) + (other_gamma + 1) * math.log(other_time)
    return (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * math.exp(exponent)
