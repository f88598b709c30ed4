"""Which steps an average of weights is made of: decays, and power laws (EDM2, arXiv 2312.02696)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

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
        """γ of this width: σ_rel² = (γ + 1) / ((γ + 2)²·(γ + 3)), a cubic equation whose largest root it is."""
        import numpy as np  # slow, and help pages need none

        wide = self.width**-2
        return float(np.roots([1, 7, 16 - wide, 12 - wide]).real.max())

    def decay(self, updates: int) -> float:
        """The decay d of the update after so many."""
        return float((1 - 1 / (updates + 1)) ** (self.gamma + 1))


Average: TypeAlias = float | PowerLaw
"""A decay, or a power law."""


def average_name(average: Average, first: bool) -> str:
    """The name of an average's file: ``ema`` for the first, ``ema-0.999`` or ``ema-width-0.05`` for others."""
    if first:
        return "ema"
    return f"ema-width-{average.width:g}" if isinstance(average, PowerLaw) else f"ema-{average:g}"
