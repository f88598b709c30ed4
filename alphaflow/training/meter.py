"""Means of a run's figures over steps."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..types import Loss


class Meter:
    """Means over the steps since the last log row. The losses' parts are read from the device only then.

    Attributes:
        batch: samples in the last batch, all processes together.
    """

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._norm = self._waited = 0.0
        self._steps = self._samples = self.batch = 0

    def add(self, loss: Loss, norm: float, waited: float, samples: int) -> None:
        """Takes in a step.

        Args:
            loss: the step's.
            norm: norm of its gradient.
            waited: seconds that its batch was waited for.
            samples: in the batch, all processes together.
        """
        values = {"loss": loss.total.detach(), **{name: term.mean() for name, term in loss.terms.items()}}
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._norm, self._waited = self._norm + norm, self._waited + waited
        self._steps, self._samples, self.batch = self._steps + 1, self._samples + samples, samples

    def take(self) -> dict[str, float]:
        """The means, the rates, the share of time that data were waited for, and memory in GiB; starts over."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        now = time.perf_counter()
        passed = max(now - self._last, 1e-9)
        figures = {
            "grad_norm": self._norm / max(self._steps, 1),
            "steps_per_second": self._steps / passed,
            "samples_per_second": self._samples / passed,
            "data_wait": self._waited / passed,
            "memory_gib": _peak_memory() / 2**30,
            "seconds": now - self._start,
        }
        self._last = now
        self._sums = {}
        self._norm = 0.0
        self._waited = 0.0
        self._steps = 0
        self._samples = 0
        return {**means, **figures}


def _peak_memory() -> int:
    """The most bytes that were in use: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
