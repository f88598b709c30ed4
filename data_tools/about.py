"""What a folder of shards says of itself: the plan it was begun with, and what dataset.json holds."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from alphaflow.autoencoders.base import Autoencoder, Normalisation, has_posterior, per_channel
from alphaflow.data.listing.listing import Listing
from alphaflow.describe import NotDescribableError, describe
from alphaflow.errors import UserError

from . import shards
from .decode import Recipe

Measure = Literal["channel", "element"]
"""What has a shift and a scale of its own."""


@dataclass(frozen=True)
class Options:
    """How to encode.

    Attributes:
        prefix: the shards' first name, ``train-000000.tar``.
        samples_per_shard: the unit that is made again after a kill.
        batch_size: of the autoencoder.
        workers: decoding processes; 0 decodes in this one.
        shard, shards: this job makes every shards-th shard, from ``shard`` on.
        max_rejects: the share of samples that may be left out.
        changed: make shards again whose files were replaced, added or removed since, instead of refusing to go on.
        measure: shift and scale on samples of all shards, for each ``"channel"`` or each ``"element"`` (channel and
            position), instead of taking the autoencoder's; None for the autoencoder's, and each channel's where it has
            none.
        measure_on: how many samples, spread over all shards.
    """

    prefix: str = "train"
    samples_per_shard: int = 1000
    batch_size: int = 32
    workers: int = 1
    shard: int = 0
    shards: int = 1
    max_rejects: float = 0.01
    changed: bool = False
    measure: Measure | None = None
    measure_on: int = 2048

    def __post_init__(self) -> None:
        if min(self.samples_per_shard, self.batch_size) < 1 or self.workers < 0:
            raise UserError("samples per shard and batch size must be at least 1, workers at least 0")
        if self.measure not in (None, "channel", "element") or self.measure_on < 2:
            raise UserError(
                "shift and scale are measured for each channel or each element, on at least 2 samples, not for each "
                f"{self.measure} on {self.measure_on}"
            )
        if not 0 <= self.shard < self.shards:
            raise UserError(f"--shard I/N needs 0 <= I < N, got {self.shard}/{self.shards}")
        if not 0 <= self.max_rejects <= 1:
            raise UserError(f"max-rejects is a share between 0 and 1, got {self.max_rejects}")
        if not self.prefix or "/" in self.prefix:
            raise UserError(f"the shards' prefix is a plain name, got {self.prefix!r}")


def plan_of(autoencoder: Autoencoder, recipe: Recipe, options: Options) -> dict[str, Any]:
    """What must be the same when encoding goes on."""
    return {
        "recipe": {"kind": type(recipe).__name__, **asdict(recipe)},
        "autoencoder": identity(autoencoder),
        "prefix": options.prefix,
        "samples_per_shard": options.samples_per_shard,
        "batch_size": options.batch_size,
        "measure": [options.measure, options.measure_on],
    }


def identity(autoencoder: Autoencoder) -> dict[str, Any]:
    """An autoencoder's class and settings, the SHA-256 of its weights, and the kind of device it runs on.

    Not where it lies: a folder may be moved.
    """
    named: list[str] = [field.name for field in fields(autoencoder)] if is_dataclass(autoencoder) else []
    settings = {name: repr(getattr(autoencoder, name)) for name in named if name not in ("device", "inner", "name")}
    network = getattr(autoencoder, "vae", None)
    candidates = [autoencoder] if isinstance(autoencoder, torch.nn.Module) else [network, *vars(autoencoder).values()]
    modules = {id(module): module for module in candidates if isinstance(module, torch.nn.Module)}
    found, device = hashlib.sha256(), "cpu"
    for module in modules.values():
        for name, weight in module.state_dict().items():
            device = weight.device.type
            found.update(name.encode())
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    inner = getattr(autoencoder, "inner", None)
    nested = {} if inner is None else {"inner": identity(inner)}
    kind = type(autoencoder).__name__
    return {"class": kind, "settings": settings, "weights": found.hexdigest(), "device": device, **nested}


def about(
    out: Path, parts: list[shards.Part], listing: Listing, autoencoder: Autoencoder, options: Options
) -> dict[str, Any]:
    """What dataset.json says of the samples, from the parts of all shards."""
    first = next((part for part in parts if part.offsets), None)
    if first is None:
        raise UserError(f"every file of {listing.path} was rejected; see {out / shards.PARTS}")
    stored = _first_array(out, first)
    posterior = has_posterior(autoencoder)
    channels = stored.shape[0] // 2 if posterior else stored.shape[0]
    own = getattr(autoencoder, "normalisation", None)
    measured: dict[str, Any] | None = None
    if options.measure or (own is None and type(autoencoder).__name__ != "Pixels"):
        each, on = options.measure or "channel", options.measure_on
        normalisation, count = measure(out, parts, stored.shape, posterior, each=each, on=on)
        measured = {"each": each, "samples": count}
    else:
        shift, scale = (own.shift, own.scale) if isinstance(own, Normalisation) else own or ((0.0,), (1.0,))
        numbers = [per_channel(v if len(v) > 1 else v[0], channels, 0.0) for v in (tuple(shift), tuple(scale))]
        normalisation = Normalisation(*numbers)
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
        "classes": len(listing.class_names) or None,
        "class_names": listing.class_names,
    }


def _first_array(out: Path, part: shards.Part) -> np.ndarray[Any, Any]:
    with (out / part.file).open("rb") as stream:
        stream.seek(part.offsets[0] - 128)
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def measure(
    out: Path, parts: list[shards.Part], shape: tuple[int, ...], posterior: bool, *, each: Measure, on: int
) -> tuple[Normalisation, int]:
    """Mean and 1 ÷ standard deviation of latents; the posterior's variance included.

    An element's deviation counts as at least a hundredth of its channel's.

    Args:
        out: the folder of shards.
        parts: of all shards.
        shape: of a stored array.
        posterior: whether it holds means and deviations.
        each: what has numbers of its own, a channel or an element.
        on: how many samples to take, evenly from all; all if there are fewer.

    Returns:
        The normalisation, and how many samples were taken.
    """
    channels = shape[0] // 2 if posterior else shape[0]
    positions = tuple(range(1, len(shape)))
    axes = () if each == "element" else positions
    places = [(part.file, offset) for part in parts for offset in part.offsets]
    picked = np.unique(np.linspace(0, len(places) - 1, min(on, len(places))).round().astype(int))
    total = square = np.zeros(())
    for file, chosen in groupby((places[index] for index in picked), key=itemgetter(0)):
        with (out / file).open("rb") as stream:
            for _, offset in chosen:
                stream.seek(offset)
                data = stream.read(2 * math.prod(shape))
                array = np.frombuffer(data, np.float16).reshape(shape).astype(np.float64)
                mean, std = (array[:channels], array[channels:]) if posterior else (array, np.zeros_like(array))
                total, square = total + mean.mean(axes), square + (mean**2 + std**2).mean(axes)
    average = total / len(picked)
    variance = np.maximum(square / len(picked) - average**2, 1e-12)
    if each == "element":  # one that hardly varies in these samples may in others
        variance = np.maximum(variance, 1e-4 * variance.mean(positions, keepdims=True))
    deviation = np.sqrt(variance)
    return Normalisation(_numbers(average), _numbers(1 / deviation)), len(picked)


def _numbers(array: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """As float32 holds them, in few digits."""
    return tuple(float(f"{value:.9g}") for value in array.ravel())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("alphaflow", "torch", "diffusers", "numpy", "pillow", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
