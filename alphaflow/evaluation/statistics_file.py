"""Statistics of real pictures in a file: our own, and what ADM's and pytorch-fid's hold.

One .npz, plain arrays only. Inception's mean and covariance are called ``mu`` and ``sigma``, as everywhere; those of
other extractors ``NAME/mu`` and ``NAME/sigma``. ``NAME/features`` are all features, for metrics that need them, and
``labels`` the classes. ``about`` is JSON: extractors with their weights' SHA-256, counts, shape, class names, source.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.arrays import array, array_header, open_npz
from ..errors import UserError, is_whole
from ..features.builtin import UNPUBLISHED
from ..features.extractors import EXTRACTORS
from ..files import parsed, replacing
from ..metrics.frechet import Moments
from ..types import Labels
from .npz_samples import LONGEST
from .statistics import Space, Statistics

FORMAT = "alphaflow statistics 1"

INCEPTION = "inception"


@dataclass(frozen=True)
class StatisticsFile:
    """What a file holds.

    Attributes:
        statistics: statistics of the pictures.
        class_names: class names by label.
        own: whether we wrote it; else it is ADM's or pytorch-fid's, which say nothing of the pictures.
    """

    statistics: Statistics
    class_names: Sequence[str] = ()
    own: bool = True


def write_statistics(path: Path, statistics: Statistics, name: str, class_names: Sequence[str]) -> None:
    """Writes statistics, whole or not at all."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    kept = False
    for extractor, space in statistics.spaces.items():
        prefix = "" if extractor == INCEPTION else f"{extractor}/"
        if space.moments is not None:
            arrays[f"{prefix}mu"] = space.moments.mean.numpy()
            arrays[f"{prefix}sigma"] = space.moments.covariance.numpy()
        if space.features is not None:
            arrays[f"{extractor}/features"], kept = space.features.numpy(), True
    if kept and statistics.labels is not None:
        arrays["labels"] = statistics.labels.numpy()
    about = {
        "format": FORMAT,
        "source": name,
        "count": statistics.count,
        "shape": list(statistics.shape),
        "class_names": list(class_names),
        "extractors": {n: {"count": space.count, "sha256": space.weights} for n, space in statistics.spaces.items()},
    }
    with replacing(path) as beside, beside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)


def holds_statistics(path: Path) -> bool:
    """Whether an .npz holds statistics rather than only pictures."""
    try:
        with open_npz(path) as file:
            return bool({"mu.npy", "about.npy"} & set(file.namelist()))
    except UserError:
        return False


def is_ours(path: Path) -> bool:
    """Whether a file is one that `write_statistics` wrote."""
    try:
        with open_npz(path) as file:
            return str(_about(file, path)["format"]).startswith(FORMAT.rpartition(" ")[0])
    except (UserError, KeyError):
        return False


def read_statistics(path: Path) -> StatisticsFile:
    """Reads a file of ours, or another's with ``mu`` and ``sigma`` of Inception.

    Raises:
        UserError: it is damaged, holds pickled objects, or moments, counts, names or labels that can't be.
    """
    with open_npz(path) as file:
        if "about.npy" not in file.namelist():
            space = Space(0, _moments(file, path))
            return StatisticsFile(Statistics(0, (), {INCEPTION: space}), own=False)
        about = _about(file, path)
        if about.get("format") != FORMAT:
            raise UserError(f"{path} is written in another format, {about.get('format')!r:.100}; make it again")
        wrong = _wrong(about)
        if wrong:
            raise UserError(f"{path} is damaged: {wrong}; make the statistics again")
        spaces = {name: _space(file, path, name, said) for name, said in about["extractors"].items()}
        labels = _labels(file, path, about) if "labels.npy" in file.namelist() else None
    found = Statistics(about["count"], tuple(about["shape"]), spaces, None, labels)
    return StatisticsFile(found, about["class_names"])


def _about(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    try:
        about = parsed(str(array(file, "about", path, "U", ())))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is damaged: about is not JSON; make the statistics again") from error
    if not isinstance(about, dict):
        raise UserError(f"{path} is damaged: about is not a JSON object; make the statistics again")
    return about


def _wrong(about: dict[str, Any]) -> str:
    """What of a file's own account can't be; empty if all can."""
    count, shape, names, extractors = (about.get(key) for key in ("count", "shape", "class_names", "extractors"))
    if not _positive(count):
        return f"its count is {count!r:.100}"
    if not isinstance(shape, list) or len(shape) not in (3, 4) or not all(map(_positive, shape)):
        return f"its shape is {shape!r:.100}"
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= LONGEST for name in names):
        return "its class_names is not a list of names"
    if not isinstance(about.get("source"), str):
        return f"its source is {about.get('source')!r:.100}"
    if not isinstance(extractors, dict) or not extractors.keys() <= EXTRACTORS.keys() | UNPUBLISHED.keys():
        return f"its extractors are {extractors if extractors is None else list(extractors)!r:.100}"
    counts = (count, count * shape[1]) if len(shape) == 4 else (count,)  # of clips, or of their frames
    for name, said in extractors.items():
        if not isinstance(said, dict) or said.get("count") not in counts or not isinstance(said.get("sha256"), str):
            return f"of {name} it says {said!r:.100}, and of the samples that they are {count}"
    return ""


def _positive(value: Any) -> bool:
    return is_whole(value) and 0 < value < 2**53


def _labels(file: zipfile.ZipFile, path: Path, about: dict[str, Any]) -> Labels:
    labels = array(file, "labels", path, "iu", (about["count"],))
    classes = len(about["class_names"])
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{path} is damaged: labels from {labels.min()} to {labels.max()} of {classes} classes; "
            "make the statistics again"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _space(file: zipfile.ZipFile, path: Path, name: str, said: dict[str, Any]) -> Space:
    prefix = "" if name == INCEPTION else f"{name}/"
    names, features = file.namelist(), None
    moments = _moments(file, path, prefix) if f"{prefix}mu.npy" in names else None
    if f"{name}/features.npy" in names:
        rows = array(file, f"{name}/features", path, "f", (said["count"], None))
        features = torch.from_numpy(rows.astype(np.float32, copy=False))
        if not features.sum(dtype=torch.float64).isfinite():
            raise UserError(f"{path} is damaged: {name}/features is not finite; make the statistics again")
        if moments is not None and features.shape[1] != len(moments.mean):
            widths = f"{features.shape[1]} wide, and mu is {len(moments.mean)}"
            raise UserError(f"{path}: {name}/features is {widths}: they don't belong together")
    return Space(said["count"], moments, None, features, said["sha256"])


def _moments(file: zipfile.ZipFile, path: Path, prefix: str = "") -> Moments:
    shapes = [array_header(file, f"{prefix}{name}", path)[0] for name in ("mu", "sigma")]
    if shapes[1] != shapes[0] * 2:
        raise UserError(f"{path}: mu {shapes[0]} and sigma {shapes[1]} don't belong together")
    mu, sigma = (
        torch.from_numpy(array(file, f"{prefix}{name}", path, "f", (None,) * n).astype(np.float64))
        for n, name in enumerate(("mu", "sigma"), 1)
    )
    if not _sound(mu, sigma):
        raise UserError(f"{path} is damaged: mu or sigma is not finite, or sigma no covariance; get it again")
    return Moments(mu, sigma)


def _sound(mu: Tensor, sigma: Tensor) -> bool:
    """Whether both are finite, squares too, and sigma symmetric with no product above those of its variances."""
    variances, slack = sigma.diag(), 1e-6 * float(sigma.abs().max())
    if not bool(mu.square().sum().isfinite() and sigma.square().sum().isfinite()) or bool((variances < 0).any()):
        return False
    deviations = variances.sqrt()
    most = torch.outer(deviations, deviations).add_(slack)
    return bool(torch.allclose(sigma, sigma.T, atol=slack) and (sigma.abs() <= most).all())
