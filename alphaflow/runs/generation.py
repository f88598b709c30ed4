"""Samples of a run, made while they are written: memory doesn't grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..data.columns import Column
from ..errors import UserError
from ..guidance import CFG
from ..progress import ProgressCallback
from ..types import Labels
from .condition_rows import ArrayRows, ConditionRows, shown_beside
from .pipeline import Pipeline
from .rebuilding import text_encoder_of
from .run import Run

SHOWN = 32
"""Inputs and truths that are kept to be looked at beside the samples."""


class Generation:
    """Samples one after another, each (c, …), as `Pipeline.sample` makes them all at once.

    Args:
        run: what they are made by.
        count: how many.
        nfe: network evaluations a sample.
        labels: (count,); None for the rows' or every class equally often.
        rows: the conditions, taken in turn; None for none but labels.
        seed: seed of the noise.
        batch_size: samples at a time.
        guidance: scale and interval, or None.
        progress: told how many are done.

    Attributes:
        labels: of the samples that were made; None for a run without classes.

    Raises:
        UserError: as `Pipeline.maker`; or conditions are missing.
    """

    def __init__(
        self,
        run: Pipeline,
        count: int,
        nfe: int,
        labels: Labels | None = None,
        rows: ConditionRows | None = None,
        seed: int = 0,
        batch_size: int = 256,
        guidance: CFG | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.run, self.count, self.batch_size = run, count, batch_size
        self._given, self._rows, self._progress = labels, rows, progress
        self._maker = run.maker(nfe, seed=seed, guidance=guidance)
        self._name = f"sampling at {nfe} NFE"
        self._shown: list[tuple[Tensor | None, Tensor | None]] = []
        first = self._conditions(0, 1)[0]
        self.labels: list[int] | None = None if first.labels is None else []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        """Makes them, batch by batch."""
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            cond, truth = self._conditions(start, stop)
            if self.labels is not None and cond.labels is not None:
                self.labels += cond.labels.tolist()
            if self._rows is not None and start < SHOWN:
                part = slice(0, SHOWN - start)
                self._shown.append(shown_beside(self.run, cond[part], None if truth is None else truth[part]))
            yield from self._maker(start, stop, cond)
            if self._progress is not None:
                self._progress(self._name, stop, self.count)

    def beside(self) -> tuple[Tensor | None, Tensor | None]:
        """What the first samples were made from, and what they should be; None of each where that can't be shown."""
        inputs, truths = zip(*self._shown, strict=True) if self._shown else ((None,), (None,))
        found = [None if any(part is None for part in parts) else torch.cat(parts) for parts in (inputs, truths)]
        return found[0], found[1]

    def _conditions(self, start: int, stop: int) -> tuple[Any, Tensor | None]:
        cond, truth = (None, None) if self._rows is None else self._rows.read(start, stop)
        labels = None if self._given is None else self._given[start:stop]
        return self.run.conditions(stop - start, labels, cond, start), truth


def text_rows(run: Run, text: str) -> ConditionRows:
    """A sentence as the condition of every sample, encoded as those that the run was trained on.

    Raises:
        UserError: the run takes no sentences, nothing says how they were encoded, or this one can't be.
    """
    if "tokens" not in run.conditioning.needed:
        takes = run.conditioning.listed(run.conditioning.needed) or "no condition but labels"
        raise UserError(f"{run.name} takes no sentences, `text=`: its samples are made from {takes}")
    tokens, mask = text_encoder_of(run.record).encode([text])
    return ArrayRows({"tokens": Column.of("tokens", tokens), "mask": Column.of("mask", mask)})
