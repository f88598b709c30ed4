"""An exported run, opened: a folder with config.json and model.safetensors, or a repository of the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder, Normalised
from ..autoencoders.diffusers_vae import DiffusersVAE
from ..autoencoders.opening import AUTOENCODERS
from ..describe import rebuild
from ..errors import UserError
from ..guidance import CFG
from ..parallel.device import check_precision, find_device, ready
from ..recipe import Recipe
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..runs.pipeline import Pipeline
from ..runs.rebuilding import label_drop_of, network_of, samplers_of, source_of
from ..types import Cond
from .hub_repository import fetched

CONFIG, DECODER = "config.json", "autoencoder"
"""What an exported folder holds beside the weights: a run's record, and an autoencoder that lay in a folder."""


class ExportedFolder(RunFolder):
    """A folder that `export` made: a run's record under another name."""

    @property
    def record(self) -> Path:
        """config.json."""
        return self.path / CONFIG


@dataclass(frozen=True)
class Generated:
    """What an exported network made.

    Attributes:
        samples: 8-bit pixels (n, c, h, w), clips (n, c, f, h, w), or floats (n, …) of what is no picture.
    """

    samples: Tensor

    @cached_property
    def images(self) -> list[Image.Image]:
        """Images one by one.

        Raises:
            UserError: the samples are no images.
        """
        if self.samples.ndim != 4 or self.samples.dtype != torch.uint8 or self.samples.shape[1] not in (1, 3):
            raise UserError(f"these samples, {tuple(self.samples.shape)}, are no images; take `.samples`")
        return [Image.fromarray(each.squeeze(2).numpy()) for each in self.samples.permute(0, 2, 3, 1)]


class ExportedPipeline(Pipeline):
    """An exported network with what samples are drawn by; `load` opens one.

    ``pipe = af.load("digits")``, then ``pipe([3, 7], steps=1).images[0].save("three.png")``.

    Args:
        path: the folder that `export` made.
        device: ``"auto"`` takes a GPU if there is one.
        dtype: precision of the network's weights and arithmetic, while samples and times stay in float32; None for
            float32.

    Raises:
        UserError: the folder is none, is damaged, or its network is none of this alphaflow's.
    """

    def __init__(self, path: Path, *, device: str | torch.device = "auto", dtype: torch.dtype | None = None) -> None:
        check_precision(dtype)
        folder = ExportedFolder(path)
        if not folder.exists():
            raise UserError(f"{path} holds no {CONFIG}; give a folder that an export made")
        self.record = record = folder.read()
        source, weights = source_of(record), path / checkpoint.MODEL
        if source is None or None in (record["model"], record["autoencoder"]):
            raise UserError(f"{folder.record} doesn't describe all parts; export the run again")
        known = record["model"].get("inner", record["model"])
        if known.get("shape") != record["data"]["shape"]:
            raise UserError(f"{folder.record} is damaged: its data are of another shape than its network")
        model = network_of(record, weights, folder.record)
        checkpoint.load_weights(weights, model)
        there, place = find_device(device), path / DECODER
        autoencoder = cast(Autoencoder, rebuild(record["autoencoder"], AUTOENCODERS))
        check_names(record["autoencoder"])
        if place.is_dir():
            if not any(place.glob("*.safetensors")):  # others would be unpickled
                raise UserError(f"{place} holds no weights as safetensors; export the run again")
            autoencoder = moved(autoencoder, str(place))
        samplers, name = samplers_of(record, folder.record), str(path)
        drop, data = label_drop_of(record), record["data"]
        super().__init__(
            ready(model, there, dtype),
            samplers, autoencoder.on(there), data, there, name=name, label_drop=drop, source=source,
        )  # fmt: skip

    def __call__(
        self,
        labels: Sequence[int] | Tensor | None = None,
        steps: int = 1,
        *,
        count: int | None = None,
        cond: Cond | None = None,
        seed: int = 0,
        guidance: CFG | None = None,
        **options: Any,
    ) -> Generated:
        """Makes samples as `Pipeline.sample` does.

        Args:
            labels: their classes; None for every class equally often, or what has none.
            steps: network evaluations a sample.
            count: how many, where neither labels nor conditions tell.
            cond: what they are conditioned on beside labels.
            seed: seed of the noise.
            guidance: scale and interval, or None.
            **options: further ones of `Pipeline.sample`.

        Raises:
            UserError: as `Pipeline.sample`.
        """
        try:
            given = None if labels is None else torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"labels are class indices, whole numbers, one a sample; got {labels!r:.100}") from error
        if given is not None and (given.ndim != 1 or given.is_floating_point()):
            raise UserError(f"labels are class indices, whole numbers, one a sample; got {labels!r:.100}")
        given = None if given is None else given.long()
        made = self.sample(count, steps, labels=given, cond=cond, seed=seed, guidance=guidance, **options)
        return Generated(made)

    def recipe(self) -> Recipe:
        """None: an exported network has no recipe that is run."""
        raise UserError(f"{self.name} was exported, and has neither recipe nor data; give `reference=`")


def check_names(autoencoder: Any) -> None:
    """Refuses an autoencoder of diffusers by any name but the export's own folder or OWNER/NAME of the Hub: no path.

    Raises:
        UserError: so it is.
    """
    if isinstance(autoencoder, dict) and "inner" in autoencoder:
        check_names(autoencoder["inner"])
    elif isinstance(autoencoder, dict) and "name" in autoencoder:
        name, inside = str(autoencoder["name"]), str(autoencoder.get("subfolder") or "vae")
        named = name == DECODER or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)
        if not named or not re.fullmatch(r"[\w-]+", inside):
            raise UserError(f"this export's autoencoder is {name!r:.100}, no model of the Hub; export the run again")


def moved(autoencoder: Autoencoder, name: str) -> Autoencoder:
    """The same autoencoder of diffusers under another name, be it inside a normalisation or not."""
    if isinstance(autoencoder, Normalised):
        return replace(autoencoder, inner=moved(autoencoder.inner, name))
    return replace(autoencoder, name=name, subfolder=None) if isinstance(autoencoder, DiffusersVAE) else autoencoder


def load(
    name: Path | str, *, device: str | torch.device = "auto", dtype: torch.dtype | None = None
) -> ExportedPipeline:
    """Opens what `export` made.

    Args:
        name: its folder, or OWNER/NAME of a repository on the Hub, which is fetched once.
        device: ``"auto"`` takes a GPU if there is one.
        dtype: precision of the network's weights and arithmetic, while samples and times stay in float32; None for
            float32.

    Raises:
        UserError: there is none, or it is damaged; or the Hub can't be reached, or huggingface_hub isn't installed.
    """
    path = Path(name)
    return ExportedPipeline(path if path.exists() else fetched(str(name)), device=device, dtype=dtype)
