"""What a run reports while it goes: rows of figures, sample pictures, measurements."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError, reason, said
from ..measurement import Measurement
from ..runs.folder import RunFolder
from ..schedules import value_at
from ..types import Batch
from .display import Display
from .engine import Engine
from .feed import Feed
from .flops import peak_flops
from .loggers import LoggedRun, Logger, TensorBoard
from .meter import Meter
from .metrics_log import MetricsLog
from .sample_pictures import example_count, fixed_examples, sample_picture
from .sanity import check_conditions, remarks
from .summary import TrainingSummary

T = TypeVar("T")


class Reporter:
    """Reports for a Trainer. Figures are averaged over all processes; the first one shows and writes them.

    Args:
        engine: what is trained.
        folder: folder of the run, or None.
        display: shows rows.
        loggers: take rows and pictures, too; None for `TensorBoard`, where there is a folder.
        record: what is known of the run where it has no folder.

    Attributes:
        meter: takes in every step.
        last: the last row of figures.
        values: what was measured last.
    """

    def __init__(
        self,
        engine: Engine,
        folder: RunFolder | None,
        display: Display,
        loggers: Sequence[Logger] | None,
        record: Mapping[str, Any],
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.display = display
        self.loggers: Sequence[Logger] = [TensorBoard()] * (folder is not None) if loggers is None else loggers
        self._record = record
        self.meter = Meter()
        self.last: dict[str, float] = {}
        self.values: dict[str, float] = {}
        self._measured = -1
        self._log: MetricsLog | None = None
        self._started: list[Logger] = []
        self._failed: list[Logger] = []
        self._id = f"alphaflow-{secrets.token_hex(4)}"
        self._full = False
        self._told: set[str] = set()
        self._examples: Batch | None = None

    def prepare(self, feed: Feed) -> None:
        """Reads, before training does, the samples of the data that pictures show."""
        if self.folder is not None and self._examples is None:
            feed.rewind()  # nobody else reads the data meanwhile
            with self._spared("no samples of the data in pictures"):
                self._examples = fixed_examples(self.engine.recipe)

    def see(self, batch: Batch) -> None:
        """Says what is strange in the first batch; keeps what pictures show where the data can't be read in order.

        Raises:
            UserError: it hasn't the conditions that the network takes.
        """
        check_conditions(self.engine.recipe, batch.cond.tensors)
        for line in remarks(self.engine.recipe, batch, self.engine.world.size):
            self.display.say(f"note: {line}")
        if self.folder is not None and self._examples is None and self.engine.recipe.dataset.indexed is None:
            self._examples = batch[: example_count(self.engine.recipe)].to("cpu")

    def open(self, step: int) -> None:
        """Opens metrics.jsonl and starts the loggers: rows of later steps follow."""
        if not self.engine.world.main:
            return
        if self.folder is not None:
            with self._room():
                self._log = MetricsLog(self.folder.metrics, keep_until=step)
        self._started = []
        for logger in self.loggers:
            with self._forgiven(logger):
                logger.start(self._described(step))
                self._started.append(logger)

    def _described(self, step: int) -> LoggedRun:
        if self.folder is None:
            return LoggedRun("alphaflow", self._id, None, step, self._record)
        record, path = self.folder.read(), self.folder.path.resolve()
        stamp = re.sub(r"[^0-9]", "", str(record.get("started", "")))[:14]
        name = re.sub(r"[^A-Za-z0-9_-]", "-", path.name)[:48]
        return LoggedRun(path.name, f"{name}-{stamp}", path, step, record)

    def row(self, step: int, more: Mapping[str, float]) -> None:
        """Shows and logs the means since the last row, and more values of this step."""
        recipe, world = self.engine.recipe, self.engine.world
        taken = self.meter.take()
        taken = dict(zip(taken, world.mean(list(taken.values())), strict=True))
        if not world.main:
            return
        scheduled = recipe.objective.scalars(step - 1)
        if "fm_share" in scheduled and self.meter.batch:  # as it is counted, in whole samples
            scheduled["fm_share"] = math.floor(scheduled["fm_share"] * self.meter.batch + 1e-9) / self.meter.batch
        row = {"step": step, **taken, **scheduled, "lr": value_at(recipe.lr, step - 1), **self._compute(taken), **more}
        self.last = row
        self.display.row(row)
        self._write(row)

    def picture(self, step: int) -> None:
        """Writes a picture of samples, and hands it to the loggers."""
        engine = self.engine
        if self.folder is None or not (engine.world.main or engine.split):
            return
        with self._spared(f"no picture at step {step}", once=True):
            picture = sample_picture(engine.recipe, engine.ema.model, engine.device, self._examples)
            if picture is not None and engine.world.main:
                with self._room():
                    picture.save(self.folder.samples(step))
                    images, file = picture.images, self.folder.samples(step)
                    self._tell(lambda logger: logger.picture(step, images, file))

    def missing_picture(self, step: int) -> None:
        """Writes the picture of a step if the run's folder lacks it."""
        folder = self.folder
        if folder is not None and self.engine.world.first(lambda: not folder.samples(step).exists()):
            self.picture(step)

    def check(self, evaluation: Measurement | None, best: str | None) -> None:
        """Looks, before the first step, whether what is to be measured can be, and is what checkpoints are kept by.

        Raises:
            UserError: it can't, or isn't.
        """
        with self.engine.world.together():
            self._check(evaluation, best)

    def _check(self, evaluation: Measurement | None, best: str | None) -> None:
        forms = self.engine.recipe.dataset.condition_forms
        if forms is not None:
            check_conditions(self.engine.recipe, forms)
        measured: tuple[str, ...] | None = ()
        if evaluation is not None:
            measured = self._measure(evaluation.check, evaluation)
        if best is not None and measured is not None and best not in measured:
            found = f"what is measured is {', '.join(measured)}" if measured else "nothing is; give `evaluation=`"
            raise UserError(f"the best checkpoint can't be chosen by {best}, which isn't measured; {found}")

    def evaluate(self, evaluation: Measurement, step: int) -> None:
        """Measures samples of the averaged network; the values go to the log and to the next checkpoint."""
        engine = self.engine
        with self._spared(f"nothing measured at step {step}"):
            values = self._measure(evaluation, evaluation)
            if values is not None:
                self.values, self._measured = values, step
        if self._measured != step:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        self.display.say(f"measured at step {step}: {shown}")
        if engine.world.main:
            self._write({"step": step, **{f"eval/{name}": value for name, value in self.values.items()}})

    def _measure(self, call: Callable[..., T], evaluation: Measurement) -> T | None:
        """Calls an evaluation, or its check, in those processes that take part; None in the others."""
        engine = self.engine
        shared = not engine.split and evaluation.shares
        if not (engine.world.main or engine.split or shared):
            return None
        return call(engine.recipe, engine.ema.model, engine.device, **({"world": engine.world} if shared else {}))

    def measured_at(self, step: int) -> dict[str, float]:
        """What was measured at this step; empty if nothing was."""
        return self.values if self._measured == step else {}

    def summary(self, step: int, stopped: bool, seconds: float) -> TrainingSummary:
        """What training came to at a step, after so many seconds.

        Raises:
            UserError: the run's folder was removed meanwhile.
        """
        steps, places = self.engine.recipe.steps, dict[str, Path | None]()
        if self.folder is not None:
            if self.engine.world.main and not self.folder.exists():
                lost = "lost its run.json while it was trained: it can't be opened any more"
                raise UserError(f"{self.folder.path} {lost}")
            saved, picture = self.folder.checkpoints(), self.folder.samples(step)
            places = {"folder": self.folder.path, "checkpoint": saved[-1] if saved else None}
            places["samples"] = picture if picture.is_file() else None
        return TrainingSummary(step, steps, stopped, seconds, dict(self.last), dict(self.values), **places)

    def again(self, step: int) -> None:
        """Training went back to a step: later rows are repeated."""
        self.meter = Meter()
        if self._log is not None or self._started:
            self.close()
            self.open(step)

    def close(self) -> None:
        """Closes the files, and the loggers."""
        if self._log is not None:
            with self._room():
                self._log.close()
            self._log = None
        self._tell(lambda logger: logger.close())
        self._started = []

    def _compute(self, taken: Mapping[str, float]) -> dict[str, float]:
        """Floating-point operations a second, counting three forward passes a sample; and their share of the peak."""
        if self.engine.flops is None:
            return {}
        rate = 3 * self.engine.flops * taken["samples_per_second"] / self.engine.world.size
        setup = self.engine.setup
        peak = peak_flops(self.engine.device, "bf16" if setup.precision == "bf16" else "tf32" if setup.tf32 else "fp32")
        return {"tflops": rate / 1e12, **({} if peak is None else {"mfu": rate / peak})}

    def _write(self, row: Mapping[str, float]) -> None:
        if self._log is not None:
            with self._room():
                self._log.write(row)
        step, values = int(row["step"]), {name: float(value) for name, value in row.items() if name != "step"}
        self._tell(lambda logger: logger.row(step, values))

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for logger in self._started:
            with self._forgiven(logger):
                call(logger)

    @contextmanager
    def _forgiven(self, logger: Logger) -> Iterator[None]:
        """Whatever goes wrong in a logger is no reason to stop training: says so once."""
        try:
            yield
        except Exception as error:
            if logger not in self._failed:
                self._failed.append(logger)
                self.display.say(f"{type(logger).__name__} doesn't take everything ({said(error)}); training continues")

    @contextmanager
    def _spared(self, what: str, once: bool = False) -> Iterator[None]:
        """Whatever goes wrong in looking at samples is no reason to stop training: it is said, or the first time."""
        try:
            yield
        except Exception as error:
            problem = said(error)
            if not once or problem not in self._told:
                self.display.say(f"{what}: {problem}")
            self._told.add(problem)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """A full disk is no reason to stop training: says so once."""
        try:
            yield
        except OSError as error:
            if not self._full:
                self.display.say(
                    f"can't write to {self.folder and self.folder.path} ({reason(error)}); training continues"
                )
            self._full = True
