"""The training loop, for one process or many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import UserError
from ..measurement import GradientMeasurement, Measurement
from ..parallel.device import find_device
from ..parallel.world import join
from ..recipe import Recipe
from ..runs.changes import Changes, changes_to_extend
from ..runs.folder import RunFolder, step_of
from ..runs.record import Origin, describe_run
from ..runs.starting import find_weights, start_from
from ..types import Batch, Loss
from . import recovery, state
from .display import Display, chosen_display
from .ema import EMA
from .engine import Engine, MachineSetup
from .feed import Feed
from .guard import BatchGuard, GuardMemory, Incident, examine, squared_error
from .loggers import Logger
from .meter import Meter
from .reporting import Reporter
from .saving import CheckpointRetention, Saver
from .stopping import Stop
from .summary import TrainingSummary


class Trainer:
    """Trains a recipe.

    ``Trainer(recipe).fit()`` runs all of it; ``trainer.train_step()`` one step. Without ``out`` nothing is written.
    Under ``torchrun`` each process makes one: a batch is shared out among them, and the first one writes.

    Args:
        recipe: what to train.
        out: the run's folder, or None.
        seed: seed of times, noise, and dropped labels. (Weights and data order follow torch's global seed when the
            recipe was built.)
        device: ``"auto"`` takes a GPU if there is one.
        setup: precision, accumulation, recomputation, compilation, and how several processes share the work.
        guard: what is done about bad batches.
        keep: which checkpoints stay.
        checkpoint_every: steps between checkpoints, one also at the end; None for a tenth of all steps.
        sample_every: the same of sample pictures; ``"auto"`` for a tenth of all steps, None or 0 for no pictures.
        log_every: steps between rows of metrics.jsonl; a row holds means over them.
        evaluation: measures samples, `TrainingEvaluation`; its values go to metrics.jsonl and checkpoints' manifests.
        display: what shows the progress; ``"auto"`` takes a bar on a terminal or in a notebook, plain lines elsewhere;
            None shows nothing.
        loggers: what takes figures and pictures, beside the run's own metrics.jsonl; None for `TensorBoard`.
        origin: where the recipe came from, for run.json.
        resume: continue the run in ``out`` from its last whole checkpoint.
        extend: with ``resume``, go on although the recipe was changed: with its steps, rates, batches, and settings of
            the optimiser. What changed is kept in run.json, as ``extended``.
        start: weights to begin with: a run's folder (its last averaged weights), a checkpoint's folder, or a
            safetensors file. What the network doesn't share with it keeps its own initialisation.
        probe: a measurement of gradients during training, `GradientProbe`; its values go to metrics.jsonl.

    Attributes:
        step: optimiser steps done.
        model, ema: the state, with the optimiser of ``engine``.
        stopped: whether a signal ended `fit` early; ``stop.signal`` is the one that this process got, or None.

    Raises:
        UserError: ``out`` holds another run and ``resume`` is off; or there is nothing whole to resume from; or the run
            can't be extended: it is of another recipe, seed, start or network, or has more steps already.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        out: Path | str | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        setup: MachineSetup | None = None,
        guard: BatchGuard | None = None,
        keep: CheckpointRetention | None = None,
        checkpoint_every: int | None = None,
        sample_every: int | Literal["auto"] | None = "auto",
        log_every: int = 50,
        evaluation: Measurement | None = None,
        display: Display | Literal["auto"] | None = "auto",
        loggers: Sequence[Logger] | None = None,
        origin: Origin | None = None,
        resume: bool = False,
        extend: bool = False,
        start: Path | str | None = None,
        probe: GradientMeasurement | None = None,
    ) -> None:
        self.recipe, self.seed, self.probe = recipe, seed, probe
        self.evaluation = None if evaluation is None else Measurement.of(evaluation)
        self.device = find_device(device)
        self.world = join(self.device)
        tenth = max(1, recipe.steps // 10)
        self.checkpoint_every = _positive("checkpoint_every", checkpoint_every, tenth)
        self.sample_every = _positive("sample_every", sample_every, tenth) if sample_every else None
        self.log_every = _positive("log_every", log_every, 1)
        self.display = chosen_display(display if self.world.main else None)

        self.step, self._loaded, self._extended = 0, -1, -1
        recipe.model.to(self.device)
        self.folder = None if out is None else RunFolder(out)
        if start is not None and not (resume and self.folder is not None and self.folder.checkpoints()):
            self.display.say(start_from(find_weights(start), recipe.model, recipe.objective.source))
        setup = (setup or MachineSetup()).of(recipe)
        record = describe_run(recipe, seed, start, setup, self.world.size)  # while each process has the whole network
        self.engine = Engine(recipe, setup, self.device, self.world)
        self.generator = torch.Generator(self.device).manual_seed(self.world.seed(seed))
        self.watch, self.stop = GuardMemory(guard or BatchGuard()), Stop()
        self.feed = Feed(recipe.dataset, recipe.dataset.share(self.world.rank, self.world.size), self.device)
        self._batch: Batch | None = None
        self.stopped = self._retry = False
        self.recovery = recovery.Recovery(self.watch, self.folder, self.world, self.display.say, seed)
        self.report = Reporter(self.engine, self.folder, self.display, loggers, record)
        self._saver: Saver | None = None
        self._open(keep or CheckpointRetention(), origin or Origin("python"), record, resume, extend)

    def _open(
        self, keep: CheckpointRetention, origin: Origin, record: dict[str, Any], resume: bool, extend: bool
    ) -> None:
        """Begins the run's folder, or continues it, if all that is to be measured can be."""
        if extend and not resume:
            raise UserError("`extend=True` goes on with a run that is there: give `resume=True` with it")
        for line in self.engine.remarks():
            self.display.say(line)
        if self.probe is not None:
            self.engine.check_probe()
        self.report.check(self.evaluation, keep.best)
        folder = self.folder
        if folder is None:
            return
        self._saver = Saver(folder, self.engine, keep, self.evaluation)
        record["training"] |= state.own_optimizer(self.engine)
        if resume:
            self._resume(folder, origin, record, extend)
            return
        self.world.first(lambda: folder.create(origin, record))
        self.world.first(lambda: folder.hold(self))

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.engine.model

    @property
    def ema(self) -> EMA:
        """The average that samples are drawn with."""
        return self.engine.ema

    def train_step(self) -> Loss:
        """One optimiser step: a batch, its loss, the gradient, the update, the averages; or a bad batch's skipping.

        Raises:
            UserError: bad batches came in a row, and going back doesn't help or isn't possible; or the first one hasn't
                the conditions that the network takes.
        """
        started = time.perf_counter()
        raw = next(self.feed)
        waited = time.perf_counter() - started
        before = self.generator.get_state()
        if self._batch is None:
            self.report.see(raw)
        self._batch = batch = raw.drawn(self.generator)
        loss = self.engine.gradient(batch, self.step, self.generator)
        norm = self.engine.norm()
        figures = (loss.total.detach(), squared_error(loss), norm)
        total, error, size = torch.stack([value.float() for value in figures]).tolist()
        reason = self._agree(total, error, size)
        if reason:
            self._skip(examine(self.engine, raw, self.step, before, reason))
        else:
            self.engine.update(self.step, norm)
            self.step += 1
            self.report.meter.add(loss, size, waited, len(batch.x) * self.world.size)
        return loss

    def fit(self) -> TrainingSummary:
        """Trains until the recipe's last step, or a signal; logs, samples, measures, and saves on the way.

        SIGTERM, SIGINT and SIGUSR1 let it finish the step and save; a second SIGINT ends it at once.

        Returns:
            What it came to.

        Raises:
            UserError: training can't go on (see `BatchGuard`), or the last checkpoint can't be written. What was saved
                before stays. (Of any other exception the run's error.txt keeps the traceback.)
        """
        started = time.perf_counter()
        with nullcontext() if self.folder is None else self.folder.keeping_faults(self.world.rank):
            self._fit()
        return self.report.summary(self.step, self.stopped, time.perf_counter() - started)

    def _fit(self) -> None:
        saved = self._loaded
        self.stopped = False
        self.model.train()
        self.report.meter = Meter()
        if self.sample_every is not None:
            self.report.prepare(self.feed)
        with closing(self.report):
            self._train(saved)

    def _train(self, saved: int) -> None:
        steps = self.recipe.steps
        self.report.open(self.step)
        if self.step and self._is_due(self.sample_every):
            self.report.missing_picture(self.step)  # where a kill came between the checkpoint and its picture
        with self.feed, self.display as display, self.stop:
            display.start(self.step, steps)
            while self.step < steps and not self.stopped:
                before = self.step
                self.train_step()
                if self.step == before + 1:
                    display.advance()
                    saved = self._after_step(saved)
                if self.step < before:
                    display.start(self.step, steps)
            if saved != self.step and self.step > 0:
                self.save()
            self.wait()

    def _after_step(self, saved: int) -> int:
        """What is due after a step; returns the step that was saved last."""
        due = self._is_due
        probing = self.probe is not None and due(self.probe.every)
        if probing or due(self.log_every):
            self.report.row(self.step, self.engine.probed(self.probe, self._batch, self.step) if probing else {})
        if self.evaluation is not None and due(self.evaluation.every):
            self.feed.rewind()  # nobody else reads the data meanwhile
            self.report.evaluate(self.evaluation, self.step)
        drawn = due(self.sample_every)
        saved = self._saved(saved, due(self.checkpoint_every))
        if drawn:
            if self._saver is not None:
                self._saver.finish()
            self.report.picture(self.step)
        return saved

    def _is_due(self, every: int | None) -> bool:
        return every is not None and (self.step == self.recipe.steps or self.step % every == 0)

    def _saved(self, saved: int, due: bool) -> int:
        """Saves if that is due, or if it failed the last time; returns the step that was saved last."""
        if due or (self._retry and self.step % max(1, self.checkpoint_every // 10) == 0):
            self._retry = False
            broken = self.engine.broken()
            if broken:  # by an optimiser's state that went wrong: what it wrote is not saved
                self._skip(Incident(self.step, "skipped", "the weights are not finite", broken), at_once=True)
                return saved
            self._save()
            return self.step
        return saved

    def save(self) -> Path | None:
        """Writes a checkpoint of this step, whole; returns its folder, or None where there is no run folder.

        Raises:
            UserError: a weight is not finite, or the checkpoint can't be written.
        """
        broken = "" if self._saver is None else self.engine.broken()
        if broken:
            raise UserError(f"the weights {broken} are no longer finite at step {self.step}")
        place = self._save()
        self.wait()
        return place

    def _save(self) -> Path | None:
        """Saves as `save` does, without checking the weights again."""
        if self._saver is None:
            return None
        self.settle()
        plain = {"dataset": self.feed.state_dict(), "watch": self.watch.state_dict()}
        return self._saver.save(self.step, self.generator, plain, self.report.measured_at(self.step))

    def _skip(self, incident: Incident, *, at_once: bool = False) -> None:
        """Leaves a bad batch out, or goes back."""
        place = self.recovery.place_to_go_back(incident, self.settle, at_once=at_once)
        if place is not None:
            self.load(place)
            self.recovery.went_back(self.step, incident.reason, self.generator, self.feed)
            self.report.again(self.step)

    def settle(self) -> None:
        """Waits until the last checkpoint is written, and warns if it can't be."""
        self._warn("" if self._saver is None else self._saver.wait())

    def wait(self) -> None:
        """Waits until the last checkpoint is written; raises a UserError if it can't be."""
        problem = "" if self._saver is None else self._saver.wait()
        if problem:
            raise UserError(
                f"the checkpoint of step {self.step} can't be written: {problem}; "
                "make room, and continue with `resume=True`"
            )

    def load(self, place: Path) -> None:
        """Continues from a checkpoint folder: weights, averages, optimiser, step, randomness, place in the data."""
        settings = step_of(place) > self._extended  # else it was saved before the recipe was changed
        saved = state.restore(place, self.engine, self.generator, self.seed, settings=settings)
        self.step = self._loaded = saved["step"]
        self.recovery.load(place, saved, self.feed)

    def _agree(self, loss: float, error: float, norm: float) -> str:
        """What is wrong with a batch, by all processes' figures; and whether one was asked to stop, or can't write."""
        failed = "" if self._saver is None else self._saver.failure()
        self._warn(failed)
        told = [float(self.stop.signal is not None), float(bool(failed))]
        loss, error, stopping, retry = self.world.mean([loss, error, *told])
        self.stopped, self._retry = stopping > 0, self._retry or retry > 0
        return self.watch.judge(loss, error, norm)

    def _warn(self, problem: str) -> None:
        if problem:
            self.display.say(f"a checkpoint can't be written ({problem}); training continues and tries again")

    def _resume(self, folder: RunFolder, origin: Origin, record: dict[str, Any], extend: bool) -> None:
        self._extended, first = folder.extended_at(), self.world.first
        first(lambda: folder.hold(self))
        place = first(lambda: recovery.place_to_resume(folder, self.display.say))
        step = 0 if place is None else step_of(place)
        changes = first(lambda: changes_to_extend(folder, origin, record, step) if extend else Changes({}))
        self._extended = step if changes else self._extended
        if place is not None:
            self.load(place)
            self.recovery.keep_order(self.step, self.generator, self.feed)
            for line in state.remarks(place, self.engine):
                self.display.say(line)
        if changes:
            first(lambda: folder.extend(origin, record, changes.entry(step)))
            self.display.say(f"extended at step {step}: {changes}")
        self.display.say(f"continuing {folder.path} at step {self.step}")


def _positive(name: str, value: int | Literal["auto"] | None, otherwise: int) -> int:
    if value is None or value == "auto":
        return otherwise
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")
    return value
