"""The training loop, for one process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from ..autoencoders.pixels import Pixels
from ..describe import NotDescribableError, describe
from ..errors import UserError
from ..objectives.base import Objective
from ..schedules import value_at
from ..types import Batch, Loss
from . import checkpoint
from .device import find_device
from .ema import EMA
from .logging import Display, Meter, MetricsLog
from .pictures import sample_picture
from .run_folder import Origin, RunFolder, find_weights

if TYPE_CHECKING:
    from ..diagnostics.probe import Probe
    from ..recipe import Recipe


class Trainer:
    """Trains a recipe.

    ``Trainer(recipe).fit()`` runs all of it; ``trainer.train_step()`` one step. Without ``out`` nothing is written.

    Args:
        recipe: what to train.
        out: the run's folder, or None.
        seed: of times, noise, and dropped labels. (Weights and data order follow torch's global seed at the time the
            recipe was built.)
        device: ``"auto"`` takes a GPU if there is one.
        checkpoint_every, sample_every: steps between checkpoints and between sample pictures, both also written at
            the end; None for a tenth of all steps.
        log_every: steps between rows of metrics.jsonl; a row holds means over them.
        display: what shows the progress.
        origin: where the recipe came from, for run.json.
        resume: continue the run in ``out`` from its last checkpoint.
        start: weights to begin with: a run's folder (its last averaged weights), a checkpoint's folder, or a
            safetensors file. What the network doesn't share with it keeps its own initialisation.
        probe: a measurement during training, `Probe`; its values go to metrics.jsonl.

    Attributes:
        step: optimiser steps done.
        model, ema, optimizer: the state.

    Raises:
        UserError: ``out`` holds another run and ``resume`` is off; or there is nothing whole to resume from.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        out: Path | str | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        checkpoint_every: int | None = None,
        sample_every: int | None = None,
        log_every: int = 50,
        display: Display | None = None,
        origin: Origin | None = None,
        resume: bool = False,
        start: Path | str | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.recipe, self.seed, self.probe = recipe, seed, probe
        self.device = find_device(device)
        tenth = max(1, recipe.steps // 10)
        self.checkpoint_every = _positive("checkpoint_every", checkpoint_every, tenth)
        self.sample_every = _positive("sample_every", sample_every, tenth)
        self.log_every = _positive("log_every", log_every, 1)
        self.display = Display() if display is None else display

        self.step = 0
        self.model = recipe.model.to(self.device)
        self.start = start
        if start is not None and not (resume and out is not None and RunFolder(out).checkpoints()):
            self._start(find_weights(start))
        self.ema = EMA(self.model, recipe.ema)
        self.network: nn.Module | None = None  # the objective's own, trained beside the model
        objective: object = recipe.objective  # any callable may be one
        if isinstance(objective, Objective):
            objective.prepare(self.device)
            self.network = objective.network
        elif probe is not None:
            raise UserError(f"only an af.Objective can be probed, not {type(objective).__name__}")
        self.optimizer = _optimizer(recipe, self._parameters())
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._batches: Iterator[Batch] | None = None
        self._batch: Batch | None = None
        self._log: MetricsLog | None = None

        self.folder = None if out is None else RunFolder(out)
        if self.folder is not None:
            if resume:
                self._resume(self.folder)
            else:
                self.folder.create(origin or Origin("python"), self._record())

    def train_step(self) -> Loss:
        """One optimiser step: a batch, its loss, the gradient, the update, the EMA."""
        recipe, step = self.recipe, self.step
        if self._batches is None:
            self._batches = iter(recipe.dataset)
        self._batch = batch = next(self._batches).to(self.device).drawn(self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = value_at(recipe.lr, step)
        averaged = {"ema": self.ema.model} if getattr(recipe.objective, "ema_target", False) else {}
        loss = recipe.objective(self.model, batch.x, batch.cond, step, self.generator, **averaged)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters(), recipe.clip)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return loss

    def fit(self) -> None:
        """Trains until the recipe's last step, logging, sampling, and saving on the way.

        Raises:
            UserError: the loss or a weight is no longer finite. What was saved before stays.
        """
        steps = self.recipe.steps
        self.model.train()
        meter = Meter()
        with self.display as display:
            display.start(self.step, steps)
            while self.step < steps:
                loss = self.train_step()
                meter.add(loss)
                display.advance()
                last = self.step == steps
                probing = self.probe is not None and (last or self.step % self.probe.every == 0)
                if last or probing or self.step % self.log_every == 0:
                    self._log_row(meter, self._probed() if probing else None)
                if last or self.step % self.sample_every == 0:
                    self._picture()
                if last or self.step % self.checkpoint_every == 0:
                    if not loss.total.isfinite():
                        self._diverged(f"the loss is {loss.total.item()}")
                    self.save()
        if self._log is not None:
            self._log.close()
            self._log = None

    def save(self) -> Path | None:
        """Writes a checkpoint of this step; returns its folder, or None where there is no run folder.

        Raises:
            UserError: a weight is not finite; nothing is written.
        """
        if self.folder is None:
            return None
        networks = [self.model] if self.network is None else [self.model, self.network]
        named = [pair for network in networks for pair in network.named_parameters()]
        broken = [name for name, weight in named if not weight.isfinite().all()]
        if broken:
            self._diverged(f"the weights {broken[0]} are no longer finite")
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "ema_updates": self.ema.updates,
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "dataset": self.recipe.dataset.state_dict(),
            "objective": {} if self.network is None else self.network.state_dict(),
        }
        place = self.folder.checkpoint(self.step)
        checkpoint.save(place, self.model, self.ema.model, state)
        return place

    def load(self, place: Path) -> None:
        """Continues from a checkpoint folder: weights, EMA, optimiser, step, randomness, place in the data."""
        state = checkpoint.load_state(place)
        checkpoint.load_weights(place / checkpoint.MODEL, self.model)
        checkpoint.load_weights(place / checkpoint.AVERAGE, self.ema.model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.updates = state["ema_updates"]
        if self.network is not None:
            self.network.load_state_dict(state["objective"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        try:
            self.recipe.dataset.load_state_dict(state["dataset"])
        except ValueError as error:
            raise UserError(f"the run in {place.parent.parent} can't go on with this data: {error}") from error
        self.step, self._batches = state["step"], None

    def _parameters(self) -> list[nn.Parameter]:
        """What is trained: the model's parameters, then the objective's own."""
        networks = [self.model] if self.network is None else [self.model, self.network]
        return [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]

    def _start(self, weights: Path) -> None:
        new, unused = checkpoint.load_matching(weights, self.model)
        says = [f"starting from {weights}"]
        says += [f"{len(new)} weights are new, {new[0]} the first"] if new else []
        says += [f"{len(unused)} of its weights are not used, {unused[0]} the first"] if unused else []
        self.display.say("; ".join(says))

    def _resume(self, folder: RunFolder) -> None:
        folder.read()
        folder.sweep()
        saved = folder.checkpoints()
        if saved:
            self.load(saved[-1])
        self.display.say(f"continuing {folder.path} at step {self.step}")

    def _record(self) -> dict[str, Any]:
        """What run.json keeps beside the recipe's origin."""
        recipe = self.recipe
        objects = {"model": recipe.model, "autoencoder": recipe.autoencoder or Pixels(), "objective": recipe.objective}
        described: dict[str, Any] = {name: _describe(value) for name, value in objects.items()}
        described["samplers"] = {str(nfe): _describe(sampler) for nfe, sampler in recipe.samplers.items()}
        classes = recipe.dataset.classes
        names = list(getattr(recipe.dataset, "class_names", [])) or [str(index) for index in range(classes or 0)]
        data = {"shape": list(recipe.dataset.shape), "classes": classes, "class_names": names}
        parameters = sum(parameter.numel() for parameter in recipe.model.parameters())
        start = None if self.start is None else str(self.start)
        run = {"steps": recipe.steps, "seed": self.seed, "parameters": parameters, "start": start}
        return {**described, "data": data, **run}

    def _probed(self) -> dict[str, float]:
        assert self.probe is not None
        assert self._batch is not None
        return self.probe(self.model, self.recipe.objective, self._batch, self.step)

    def _log_row(self, meter: Meter, probed: Mapping[str, float] | None = None) -> None:
        scalars = getattr(self.recipe.objective, "scalars", None)  # any callable may be an objective
        scheduled: dict[str, float] = {} if scalars is None else scalars(self.step - 1)
        row = {"step": self.step, **meter.take(), **scheduled, "lr": value_at(self.recipe.lr, self.step - 1)}
        row |= probed or {}
        if not math.isfinite(row["loss"]):
            self._diverged(f"the loss is {row['loss']}")
        self.display.row(row)
        if self.folder is not None:
            if self._log is None:
                self._log = MetricsLog(self.folder.metrics, keep_until=self.step - 1)
            self._log.write(row)

    def _diverged(self, what: str) -> NoReturn:
        saved = [] if self.folder is None else self.folder.checkpoints()
        kept = f"; the last good checkpoint is {saved[-1]}" if saved else ""
        raise UserError(f"{what} at step {self.step}; train anew with a lower learning rate, or with clip{kept}")

    def _picture(self) -> None:
        if self.folder is None:
            return
        try:
            sample_picture(self.recipe, self.ema.model, self.device, self.folder.samples(self.step))
        except UserError as error:  # an autoencoder that can't be loaded here is no reason to stop training
            self.display.say(f"no picture at step {self.step}: {error}")


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if not parameters:
        raise UserError("the network has no weight to train: those of an opened run are frozen; start with --from")
    if recipe.optimizer is not None:
        return recipe.optimizer(parameters)
    adam = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    return adam(parameters, lr=value_at(recipe.lr, 0), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)


def _describe(value: Any) -> Any:
    """The description, or None where the value is the user's own: the recipe rebuilds it then."""
    with suppress(NotDescribableError):
        return describe(value)
    return None


def _positive(name: str, value: int | None, otherwise: int) -> int:
    if value is not None and value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")
    return otherwise if value is None else value
