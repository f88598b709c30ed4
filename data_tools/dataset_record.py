"""What dataset.json says of the samples."""

from __future__ import annotations

import io
import math
import tarfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, takewhile
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alphaflow.autoencoders.autoencoder import Autoencoder, Normalisation, per_channel
from alphaflow.data.arrays import read_array
from alphaflow.data.listing.listing import Listing
from alphaflow.describe import described_anywhere
from alphaflow.errors import UserError
from alphaflow.text.text_encoder import TextEncoder

from . import shard_writer
from .plan import EncodeOptions, Measure


def about(
    out: Path,
    shards: list[shard_writer.ShardRecord],
    listing: Listing,
    autoencoder: Autoencoder,
    options: EncodeOptions,
    text: TextEncoder | None,
) -> dict[str, Any]:
    """What dataset.json says of the samples, from the records of all shards."""
    first = next((shard for shard in shards if shard.offsets), None)
    if first is None:
        raise UserError(f"every file of {listing.path} was rejected; see {out / shard_writer.RECORDS}")
    conditions = _first_arrays(out, first)
    stored = conditions.pop("latent")
    channels = stored.shape[0] // 2 if autoencoder.posterior else stored.shape[0]
    own, measured = autoencoder.normalisation, None
    if options.measure or (own is None and not autoencoder.plain):
        each, on = options.measure or "channel", options.measure_on
        normalisation, count = measure(out, shards, stored.shape, autoencoder.posterior, each=each, on=on)
        measured = {"each": each, "samples": count}
    else:
        shift, scale = ((0.0,), (1.0,)) if own is None else (own.shift, own.scale)
        normalisation = Normalisation(*(per_channel(v if len(v) > 1 else v[0], channels) for v in (shift, scale)))
    held: dict[str, dict[str, Any]] = {
        name: {"shape": list(array.shape), "dtype": array.dtype.str} for name, array in conditions.items()
    }
    if text is not None and text.vocabulary is not None:
        held["tokens"]["vocabulary"] = text.vocabulary
    return {
        "autoencoder": described_anywhere(autoencoder),
        **({} if text is None else {"text_encoder": described_anywhere(text)}),
        **({"conditions": held} if held else {}),
        "versions": _versions(),
        "shape": [channels, *stored.shape[1:]],
        "stored_shape": list(stored.shape),
        "posterior": autoencoder.posterior,
        "shift": list(normalisation.shift),
        "scale": list(normalisation.scale),
        "measured": measured,
        "fps": median(rates) if (rates := [fps for shard in shards for fps in shard.fps]) else None,
        "classes": len(listing.class_names) or None,
        "class_names": listing.class_names,
    }


def _first_arrays(out: Path, shard: shard_writer.ShardRecord) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a shard's first sample."""
    found = {}
    with tarfile.open(out / shard.file) as archive:
        members = iter(archive)
        first = next(members)
        for member in [first, *takewhile(lambda member: _key(member) == _key(first), members)]:
            stream = archive.extractfile(member)
            if member.name.endswith(".npy") and stream is not None:
                name = member.name.split(".")[1]
                found[name] = read_array(io.BytesIO(stream.read()), member.size)
    return found


def _key(member: tarfile.TarInfo) -> str:
    return member.name.partition(".")[0]


def measure(
    out: Path,
    shards: list[shard_writer.ShardRecord],
    shape: tuple[int, ...],
    posterior: bool,
    *,
    each: Measure,
    on: int,
) -> tuple[Normalisation, int]:
    """Mean and 1 ÷ standard deviation of latents; the posterior's variance included.

    An element's deviation counts as at least a hundredth of its channel's.

    Args:
        out: the folder of shards.
        shards: the records of all.
        shape: shape of a stored array.
        posterior: whether it holds means and deviations.
        each: what has numbers of its own, a channel or an element.
        on: how many samples to take, evenly from all; all if there are fewer.

    Returns:
        The normalisation, and how many samples were taken.
    """
    channels = shape[0] // 2 if posterior else shape[0]
    positions = tuple(range(1, len(shape)))
    axes = () if each == "element" else positions
    places = [(shard.file, offset) for shard in shards for offset in shard.offsets]
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
    """Rounds numbers to the digits that float32 holds."""
    return tuple(float(f"{value:.9g}") for value in array.ravel())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("alphaflow", "torch", "diffusers", "numpy", "pillow", "av"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
