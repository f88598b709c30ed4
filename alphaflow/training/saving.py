"""Saving while training continues: checkpoints are copied at once, written in the background, and old ones removed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..describe import Compact
from ..errors import UserError, reason, said
from ..files import put, remove
from ..measurement import Measurement
from ..parallel.pieces import weights
from ..runs import checkpoint
from ..runs.folder import RunFolder, step_of
from . import state
from .engine import Engine


@dataclass(frozen=True, kw_only=True, repr=False)
class CheckpointRetention(Compact):
    """Which checkpoints stay on disk. Without arguments all do.

    Args:
        last: the newest so many; None for all.
        every: also those whose step is a multiple of this.
        best: also the one with the best value of this measurement, for example ``pixel-fd_1``: the largest of what
            is better the larger, ``pixel-recall_1``, and the smallest of all others.
    """

    last: int | None = None
    every: int | None = None
    best: str | None = None

    def __post_init__(self) -> None:
        if (self.last is not None and self.last < 1) or (self.every is not None and self.every < 1):
            raise UserError(f"keep needs last >= 1 and every >= 1, got {self}")

    def remove_from(self, folder: RunFolder, evaluation: Measurement | None = None) -> None:
        """Removes what need not stay; ``evaluation`` knows of what more is better."""
        saved = folder.checkpoints()
        if self.last is None:
            return
        stay = set(saved[-self.last :])
        if self.every is not None:
            stay |= {place for place in saved if step_of(place) % self.every == 0}
        if self.best is not None:
            higher = evaluation is not None and evaluation.higher(self.best)
            best = best_checkpoint(folder, self.best, higher)
            stay |= set() if best is None else {best}
        for place in saved:
            if place not in stay:
                remove(place)


def best_checkpoint(folder: RunFolder, value: str, higher: bool) -> Path | None:
    """The checkpoint with the best value of a measurement; None where none has it."""
    found, sign = [], -1 if higher else 1
    for place in folder.checkpoints():
        values = (checkpoint.manifest(place) or {}).get("values", {})
        if math.isfinite(values.get(value, math.nan)):
            found.append((sign * values[value], place))
    return min(found)[1] if found else None


class Saver:
    """Writes a run's checkpoints, one at a time, in a thread of its own.

    Args:
        folder: folder of the run.
        engine: what is saved.
        keep: which checkpoints stay.
        evaluation: knows of what more is better; None where nothing is measured.
    """

    def __init__(
        self, folder: RunFolder, engine: Engine, keep: CheckpointRetention, evaluation: Measurement | None = None
    ) -> None:
        self.folder = folder
        self.engine = engine
        self.keep = keep
        self.evaluation = evaluation
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(self, step: int, generator: torch.Generator, plain: dict[str, Any], values: Mapping[str, float]) -> Path:
        """Copies everything and begins to write it; returns the checkpoint's place.

        Args:
            step: optimiser steps done.
            generator: generator of the Trainer.
            plain: further plain values for state.json.
            values: what was measured at this step.

        Raises:
            UserError: something in the state is not a plain value.
        """
        engine, main = self.engine, self.engine.world.main
        files = {checkpoint.MODEL: weights(engine.model, main)}
        for name, average in engine.averages.items():
            files[f"{name}.safetensors"] = weights(average.model, main)
        files[checkpoint.TENSORS] = state.tensors(engine, generator)
        try:  # now: what a dataset gave may change while it is written
            rest = json.dumps({**state.plain(engine), **plain, "step": step}, indent=2)
        except TypeError as error:
            raise UserError(
                f"the dataset's or the optimiser's state_dict() holds a value that is not plain: {reason(error)}"
            ) from error
        place = self.folder.checkpoint(step)
        self._pending = self._pool.submit(self._write, place, step, files, rest, dict(values))
        return place

    def failure(self) -> str:
        """What went wrong with the last checkpoint, once; empty if nothing did, or it is being written still."""
        if self._pending is None or not self._pending.done():
            return ""
        error, self._pending = self._pending.exception(), None
        return "" if error is None else said(error)

    def finish(self) -> None:
        """Waits until the last checkpoint is written, or can't be."""
        if self._pending is not None:
            self._pending.exception()

    def wait(self) -> str:
        """Waits until the last checkpoint is written; what went wrong, as `failure`."""
        self.finish()
        return self.failure()

    def _write(
        self,
        place: Path,
        step: int,
        files: Mapping[str, dict[str, torch.Tensor]],
        plain: str,
        values: dict[str, float],
    ) -> None:
        beside, world = place.with_name(f".{place.name}.writing.tmp"), self.engine.world
        with world.together(world.files):
            if not world.main:
                return
            try:
                for leftover in place.parent.glob(".step-*.writing.tmp"):  # of a disk that was full
                    remove(leftover)
                beside.mkdir(parents=True)
                for name, tensors in files.items():
                    checkpoint.write_weights(beside / name, tensors)
                (beside / checkpoint.PLAIN).write_text(plain, encoding="utf-8")
                checkpoint.seal(beside, step, values)
                put(beside, place)
            finally:
                with suppress(OSError):  # tried again the next time
                    remove(beside)
                    self.keep.remove_from(self.folder, self.evaluation)
