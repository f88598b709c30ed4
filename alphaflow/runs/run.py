"""A trained run, opened to sample from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.opening import AUTOENCODERS
from ..data.dataset import Dataset
from ..describe import rebuild
from ..errors import UserError
from ..parallel.device import find_device
from ..recipe import Recipe
from ..samplers import SAMPLERS, Sampler
from . import checkpoint
from .composed import composed_dataset
from .folder import RunFolder, step_of
from .pipeline import Pipeline
from .rebuilding import NETWORKS, recipe_of


class Run(Pipeline):
    """A run's folder, opened: its network with trained weights, and its samplers.

    The network is rebuilt from run.json where it is one of alphaflow's, so neither the recipe nor the data is needed;
    a network of the user's own is rebuilt by the run's recipe.py, if it is trusted. Weights are never unpickled.

    Args:
        path: the folder that training made.
        step: step of the checkpoint; None for the last.
        ema: the averaged weights rather than the raw ones.
        device: ``"auto"`` takes a GPU if there is one.
        trust: the run's recipe.py may be run, where a network of the user's own or the training data are needed. If
            not, nothing that the folder holds is run, but for recipes that equal a built-in one.

    Attributes:
        model: the network in evaluation mode, on the device.
        samplers: the recipe's samplers, by number of network evaluations.
        shape, classes, class_names, sampled_classes, fps: see `Pipeline`.
        step: the checkpoint's step.
        ema: whether the weights are the averaged ones.

    Raises:
        UserError: the folder is not a run, has no such checkpoint, or the checkpoint is damaged.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        step: int | None = None,
        ema: bool = True,
        device: str | torch.device = "auto",
        trust: bool = False,
    ) -> None:
        self.folder, self.trust = RunFolder(path), trust
        self.record: dict[str, Any] = self.folder.read()
        place = self.folder.checkpoint_of(step)  # what is wrong with it is said before anything is built
        device = find_device(device)
        model, samplers, autoencoder = self._built(place / (checkpoint.AVERAGE if ema else checkpoint.MODEL), device)
        trained = self.record.get("objective")
        drop = None if trained is None else (trained.get("guidance") or {}).get("label_drop", 0)
        name = str(self.folder.path)
        super().__init__(model, samplers, autoencoder, self.record["data"], device, name=name, label_drop=drop)
        self.load(place, ema=ema)
        self.model.to(device).eval().requires_grad_(False)

    def load(self, place: Path, *, ema: bool = True) -> None:
        """Takes over the weights of one of the run's checkpoints, a folder."""
        checkpoint.load_weights(place / (checkpoint.AVERAGE if ema else checkpoint.MODEL), self.model)
        self.step, self.ema = step_of(place), ema

    def recipe(self) -> Recipe:
        """Runs the run's recipe.py with its arguments: its dataset, objective, and all else."""
        return recipe_of(self.folder, trust=self.trust)

    def dataset(self) -> Dataset:
        """What it was trained on: the recipe's; of a run that was composed in Python, as run.json describes it."""
        return self.recipe().dataset if self.folder.origin().text else composed_dataset(self.folder)

    def _built(self, weights: Path, device: torch.device) -> tuple[nn.Module, Mapping[int, Sampler], Autoencoder]:
        """The network, samplers and autoencoder, as run.json describes them, or its recipe makes them."""
        record = self.record
        if any(part is None for part in [record["model"], record["autoencoder"], *record["samplers"].values()]):
            recipe = self.recipe()
            return recipe.model, recipe.samplers_by_nfe, recipe.decoder.on(device)
        samplers = {int(nfe): cast(Sampler, rebuild(part, SAMPLERS)) for nfe, part in record["samplers"].items()}
        autoencoder = cast(Autoencoder, rebuild(record["autoencoder"], AUTOENCODERS)).on(device)
        with torch.device("meta"):  # takes no memory
            size = sum(weight.nbytes for weight in rebuild(record["model"], NETWORKS).parameters())
        if weights.is_file() and size > 2 * weights.stat().st_size + 2**28:  # one cut short is said to be so, later
            raise UserError(f"{self.folder.record} describes a network of {size:,} bytes, which {weights} can't hold")
        return cast(nn.Module, rebuild(record["model"], NETWORKS)), samplers, autoencoder
