"""What a training came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import printable
from .display import clock, figures


@dataclass(frozen=True, repr=False)
class TrainingSummary:
    """What `Trainer.fit` came to. Printed, it is a few lines.

    Attributes:
        step, steps: steps that are done, and that the recipe has.
        stopped: whether a signal ended it early.
        seconds: how long this call took.
        figures: the last row of figures, as in metrics.jsonl: ``figures["loss"]``; empty where there was none.
        measured: what was measured last, by an evaluation; empty where nothing was.
        folder, checkpoint: the run's folder and its newest checkpoint, or None.
        samples: the last step's picture of samples, or None.
    """

    step: int
    steps: int
    stopped: bool
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None
    checkpoint: Path | None = None
    samples: Path | None = None

    def __repr__(self) -> str:
        end = "stopped" if self.stopped else "done"
        lines = [f"{end}: {self.step:,} of {self.steps:,} steps in {clock(self.seconds)}"]
        if self.figures:
            lines.append(figures(self.figures))
        if self.measured:
            lines.append("measured: " + "  ".join(f"{name} {value:.4g}" for name, value in self.measured.items()))
        for name in ("folder", "checkpoint", "samples"):
            place = getattr(self, name)
            lines += [] if place is None else [f"{name}: {printable(str(place))}"]
        return "\n".join(lines)
