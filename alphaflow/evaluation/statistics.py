"""Statistics of real pictures in a file: our own, and what ADM's and pytorch-fid's hold.

One .npz, plain arrays only. Inception's mean and covariance are called ``mu`` and ``sigma``, as everywhere; those of
other extractors ``NAME/mu`` and ``NAME/sigma``. ``NAME/features`` are all features, for metrics that need them, and
``labels`` the classes. ``about`` is JSON: extractors with their weights' SHA-256, counts, shape, class names, source.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from ..metrics.frechet import Moments
from ..metrics.gather import Space, Statistics

FORMAT = "alphaflow statistics 1"
INCEPTION = "inception"


@dataclass(frozen=True)
class StatisticsFile:
    """What a file holds.

    Attributes:
        statistics: of the pictures.
        name: where they came from.
        class_names: by label.
        own: whether we wrote it; else it is ADM's or pytorch-fid's, which say nothing of the pictures.
    """

    statistics: Statistics
    name: str
    class_names: Sequence[str] = ()
    own: bool = True
    about: dict[str, Any] = field(default_factory=dict)


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
        with zipfile.ZipFile(path) as archive:
            return bool({"mu.npy", "about.npy"} & set(archive.namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


def is_ours(path: Path) -> bool:
    """Whether a file is one that `write_statistics` wrote."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(json.loads(str(arrays["about"]))["format"]).startswith(FORMAT.rpartition(" ")[0])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return False


def read_statistics(path: Path) -> StatisticsFile:
    """Reads a file of ours, or another's with ``mu`` and ``sigma`` of Inception.

    Raises:
        UserError: it is damaged, holds pickled objects, or moments that can't be.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"])) if "about" in arrays else None
            if about is None:
                space = Space(0, _moments(path, arrays["mu"], arrays["sigma"]))
                return StatisticsFile(Statistics(0, (), {INCEPTION: space}), str(path), own=False)
            if about.get("format") != FORMAT:
                raise UserError(f"{path} is written in another format, {about.get('format')!r}; make it again")
            spaces = {name: _space(path, arrays, name, said) for name, said in about["extractors"].items()}
            labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
    except KeyError as error:
        raise UserError(f"{path} is incomplete: no {error}; make it again with `alphaflow stats`") from error
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        pickled = "; pickled objects are refused: they can run code" if "pickle" in str(error) else "; is it whole?"
        raise UserError(f"{path} is no readable file of statistics ({_line(error)}){pickled}") from error
    found = Statistics(about["count"], tuple(about["shape"]), spaces, None, labels)
    return StatisticsFile(found, about["source"], about["class_names"], True, about)


def _space(path: Path, arrays: Any, name: str, said: dict[str, Any]) -> Space:
    prefix = "" if name == INCEPTION else f"{name}/"
    moments = _moments(path, arrays[f"{prefix}mu"], arrays[f"{prefix}sigma"]) if f"{prefix}mu" in arrays else None
    features = torch.from_numpy(arrays[f"{name}/features"]) if f"{name}/features" in arrays else None
    return Space(said["count"], moments, None, features, said["sha256"])


def _moments(path: Path, mean: np.ndarray[Any, Any], covariance: np.ndarray[Any, Any]) -> Moments:
    mu, sigma = (torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in (mean, covariance))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise UserError(f"{path}: mu {tuple(mu.shape)} and sigma {tuple(sigma.shape)} don't belong together")
    if not _sound(mu, sigma):
        raise UserError(f"{path} is damaged: mu or sigma is not finite, or sigma no covariance; get it again")
    return Moments(mu, sigma)


def _sound(mu: Tensor, sigma: Tensor) -> bool:
    if not bool(mu.isfinite().all() and sigma.isfinite().all()):
        return False
    return bool(torch.allclose(sigma, sigma.T, atol=1e-6 * float(sigma.abs().max()))) and bool(
        (sigma.diag() >= 0).all()
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
