"""metrics.jsonl and TensorBoard's events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import parsed, replacing

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

Row = Mapping[str, float]


class MetricsLog:
    """metrics.jsonl, one JSON object a log step, and TensorBoard event files beside it.

    Args:
        file: metrics.jsonl.
        keep_until: rows of later steps, and a last row that was cut short, are removed: a resumed run repeats them.
    """

    def __init__(self, file: Path, keep_until: int) -> None:
        if file.exists():
            kept = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if _step(line) <= keep_until
            ]
            with replacing(file) as beside:
                beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = file, file.open("a", encoding="utf-8")
        self._folder, self._purge = file.parent, keep_until + 1
        self._events: SummaryWriter | None = None

    def write(self, row: Row) -> None:
        """Adds a row; ``row["step"]`` is its step."""
        if not self._path.exists():  # somebody removed it
            self._file.close()
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._board().add_scalar(name, value, int(row["step"]))

    def picture(self, pixels: Tensor, step: int) -> None:
        """Adds a grid of samples (n, c, h, w), 8-bit, to TensorBoard."""
        self._board().add_images("samples", pixels, step)

    def _board(self) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._folder), purge_step=self._purge if self._purge > 1 else None)
        return self._events

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _step(line: str) -> float:
    try:
        return float(parsed(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
