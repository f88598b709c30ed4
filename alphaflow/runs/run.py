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
from ..parallel.device import check_precision, find_device, ready
from ..recipe import Recipe
from ..samplers import Sampler
from ..sources import Source
from . import checkpoint
from .composed import composed_dataset
from .folder import RunFolder, step_of
from .pipeline import Pipeline
from .rebuilding import label_drop_of, network_of, recipe_of, samplers_of, source_of


class Run(Pipeline):
    """A run's folder, opened: its network with trained weights, and its samplers.

    The network is rebuilt from run.json where it is one of alphaflow's, so neither the recipe nor the data is needed.
    A network of one's own is given, ``af.Run("runs/mine", model=MyNetwork())``, and nothing is run; or the run's
    recipe.py makes it, if it is trusted: that opens the recipe's data too. Modules that the recipe imports from beside
    it are kept in the run, and found there. Weights are never unpickled.

    Args:
        path: the folder that training made.
        model: a network like the trained one, which gets the run's weights; None to have it rebuilt.
        step: step of the checkpoint; None for the last.
        ema: the averaged weights rather than the raw ones.
        device: ``"auto"`` takes a GPU if there is one.
        dtype: precision of the network's weights and arithmetic, for example ``torch.bfloat16``, while samples and
            times stay in float32; None for the network's own.
        trust: the run's recipe.py may be run, where a network of the user's own or the training data are needed. If
            not, nothing that the folder holds is run, but for recipes that equal a built-in one.

    Attributes:
        model: the network in evaluation mode, on the device.
        samplers: the recipe's samplers, by number of network evaluations.
        shape, classes, class_names, sampled_classes, fps: see `Pipeline`.
        step: the checkpoint's step.
        ema: whether the weights are the averaged ones.
        chosen: whether a checkpoint was asked for, rather than the last.

    Raises:
        UserError: the folder is not a run, has no such checkpoint, or the checkpoint is damaged.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        model: nn.Module | None = None,
        step: int | None = None,
        ema: bool = True,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        trust: bool = False,
    ) -> None:
        check_precision(dtype)
        self.chosen = step is not None
        self.folder, self.trust = RunFolder(path), trust
        self.record: dict[str, Any] = self.folder.read()
        place = self.folder.checkpoint_of(step)  # what is wrong with it is said before anything is built
        device = find_device(device)
        weights = place / (checkpoint.AVERAGE if ema else checkpoint.MODEL)
        model, samplers, autoencoder, source = self._built(weights, device, model)
        drop, name, data = label_drop_of(self.record), str(self.folder.path), self.record["data"]
        super().__init__(model, samplers, autoencoder, data, device, name=name, label_drop=drop, source=source)
        self.load(place, ema=ema)
        ready(self.model, device, dtype)

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

    def _built(
        self, weights: Path, device: torch.device, model: nn.Module | None
    ) -> tuple[nn.Module, Mapping[int, Sampler], Autoencoder, Source]:
        """The network, samplers, autoencoder and source, as run.json describes them, or its recipe makes them."""
        record, source = self.record, source_of(self.record)
        if any(part is None for part in [record["autoencoder"], source, *record["samplers"].values()]) or (
            record["model"] is None and model is None
        ):
            recipe = self._recipe_for("network" if record["model"] is None and model is None else "parts")
            return model or recipe.model, recipe.samplers_by_nfe, recipe.decoder.on(device), recipe.objective.source
        assert source is not None
        where = self.folder.record
        samplers = samplers_of(record, where)
        autoencoder = cast(Autoencoder, rebuild(record["autoencoder"], AUTOENCODERS)).on(device)
        return model or network_of(record, weights, where), samplers, autoencoder, source

    def _recipe_for(self, what: str) -> Recipe:
        """The run's recipe, for what only it can make.

        Raises:
            UserError: it isn't trusted or can't be built, for want of data perhaps; and the way without it.
        """
        try:
            return self.recipe()
        except UserError as error:
            way = "to open the run without its recipe and data, give its network: af.Run(…, model=…)"
            raise UserError(f"{error}; {way}" if what == "network" else str(error)) from error
