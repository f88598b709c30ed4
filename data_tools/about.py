"""What a folder of shards says of itself: the plan it was begun with, and what dataset.json holds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from alphaflow.autoencoders.base import Autoencoder, Normalisation, has_posterior, per_channel
from alphaflow.describe import NotDescribableError, describe
from alphaflow.errors import UserError

from . import shards
from .decode import Recipe
from .sources import Source


@dataclass(frozen=True)
class Options:
    """How to encode.

    Attributes:
        split: the shards' first name, ``train-000000.tar``.
        samples_per_shard: the unit that is made again after a kill.
        batch_size: of the autoencoder.
        workers: decoding processes; 0 decodes in this one.
        shard, shards: this job makes every shards-th shard, from ``shard`` on.
        max_rejects: the share of samples that may be left out.
        measured: measure shift and scale, on samples of all shards, instead of taking the autoencoder's.
    """

    split: str = "train"
    samples_per_shard: int = 1000
    batch_size: int = 32
    workers: int = 1
    shard: int = 0
    shards: int = 1
    max_rejects: float = 0.01
    measured: bool = False

    def __post_init__(self) -> None:
        if min(self.samples_per_shard, self.batch_size) < 1 or self.workers < 0:
            raise UserError("samples per shard and batch size must be at least 1, workers at least 0")
        if not 0 <= self.shard < self.shards:
            raise UserError(f"--shard I/N needs 0 <= I < N, got {self.shard}/{self.shards}")
        if not 0 <= self.max_rejects <= 1:
            raise UserError(f"max-rejects is a share between 0 and 1, got {self.max_rejects}")
        if not self.split or "/" in self.split:
            raise UserError(f"the split is a plain name, got {self.split!r}")


def plan_of(source: Source, autoencoder: Autoencoder, recipe: Recipe, options: Options) -> dict[str, Any]:
    """What must be the same when encoding goes on."""
    return {
        "source": source.digest(),
        "recipe": {"kind": type(recipe).__name__, **asdict(recipe)},
        "autoencoder": identity(autoencoder),
        "split": options.split,
        "samples_per_shard": options.samples_per_shard,
        "batch_size": options.batch_size,
        "measured": options.measured,
    }


def identity(autoencoder: Autoencoder) -> dict[str, Any]:
    """An autoencoder's class and settings, the SHA-256 of its weights, and the kind of device it runs on.

    Not where it lies: a folder may be moved.
    """
    named: list[str] = [field.name for field in fields(autoencoder)] if is_dataclass(autoencoder) else []
    settings = {name: repr(getattr(autoencoder, name)) for name in named if name not in ("device", "inner", "name")}
    network = getattr(autoencoder, "vae", None)
    modules = [network, autoencoder, *vars(autoencoder).values()]
    found, device = hashlib.sha256(), "cpu"
    for module in modules:
        if isinstance(module, torch.nn.Module):
            for name, weight in module.state_dict().items():
                device = weight.device.type
                found.update(name.encode())
                found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            break
    inner = getattr(autoencoder, "inner", None)
    nested = {} if inner is None else {"inner": identity(inner)}
    kind = type(autoencoder).__name__
    return {"class": kind, "settings": settings, "weights": found.hexdigest(), "device": device, **nested}


def about(
    out: Path, parts: list[shards.Part], source: Source, autoencoder: Autoencoder, options: Options
) -> dict[str, Any]:
    """What dataset.json says of the samples, from the parts of all shards."""
    first = next((part for part in parts if part.offsets), None)
    if first is None:
        raise UserError(f"every file of {source.path} was rejected; see {out / shards.PARTS}")
    stored = _first_array(out, first)
    posterior = has_posterior(autoencoder)
    channels = stored.shape[0] // 2 if posterior else stored.shape[0]
    own = getattr(autoencoder, "normalisation", None)
    if options.measured or (own is None and type(autoencoder).__name__ != "Pixels"):
        normalisation, measured = measure(out, parts, stored.shape, posterior), True
    else:
        shift, scale = (own.shift, own.scale) if isinstance(own, Normalisation) else own or ((0.0,), (1.0,))
        numbers = [per_channel(v if len(v) > 1 else v[0], channels, 0.0) for v in (tuple(shift), tuple(scale))]
        normalisation, measured = Normalisation(*numbers), False
    try:
        described = describe(autoencoder)
        if "device" in described:
            described["device"] = "auto"  # of whoever decodes
    except NotDescribableError:
        described = None
    return {
        "autoencoder": described,
        "versions": _versions(),
        "shape": [channels, *stored.shape[1:]],
        "stored_shape": list(stored.shape),
        "posterior": posterior,
        "shift": list(normalisation.shift),
        "scale": list(normalisation.scale),
        "measured": measured,
        "fps": median(rates) if (rates := [fps for part in parts for fps in part.fps]) else None,
        "classes": len(source.class_names) or None,
        "class_names": source.class_names,
    }


def _first_array(out: Path, part: shards.Part) -> np.ndarray[Any, Any]:
    with (out / part.file).open("rb") as stream:
        stream.seek(part.offsets[0] - 128)
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


MEASURED = 2048
"""Samples that shift and scale are measured on, spread over all shards."""


def measure(out: Path, parts: list[shards.Part], shape: tuple[int, ...], posterior: bool) -> Normalisation:
    """Mean and 1 ÷ standard deviation of each channel's latents; the posterior's variance included.

    Args:
        out: the folder of shards.
        parts: of all shards.
        shape: of a stored array.
        posterior: whether it holds means and deviations.
    """
    channels = shape[0] // 2 if posterior else shape[0]
    total = square = count = np.zeros(channels)
    every = max(sum(len(part.offsets) for part in parts) // MEASURED, 1)
    for part in parts:
        with (out / part.file).open("rb") as stream:
            for offset in part.offsets[::every]:
                stream.seek(offset)
                data = stream.read(2 * int(np.prod(shape)))
                array = np.frombuffer(data, np.float16).reshape(shape).astype(np.float64)
                mean, std = (array[:channels], array[channels:]) if posterior else (array, np.zeros_like(array))
                axes = tuple(range(1, array.ndim))
                total = total + mean.sum(axes)
                square = square + (mean**2 + std**2).sum(axes)
                count = count + mean[0].size
    average = total / count
    deviation = np.sqrt(np.maximum(square / count - average**2, 1e-12))
    return Normalisation(tuple(average.tolist()), tuple((1 / deviation).tolist()))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("alphaflow", "torch", "diffusers", "numpy", "pillow", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
