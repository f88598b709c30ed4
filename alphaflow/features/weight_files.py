"""Pretrained weights of feature extractors: which file, from where, with which SHA-256; never another by mistake."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch

from ..errors import UserError, reason
from ..files import sha256


@dataclass(frozen=True)
class Weights:
    """A published file of weights.

    Attributes:
        file: its name in torch's cache, where torch-fidelity keeps it too.
        url: where it comes from.
        sha256: of the published file; None where no digest of it is known.
        otherwise: what else can be done where it can't be had.
    """

    file: str
    url: str
    sha256: str | None
    otherwise: str = ""


@dataclass(frozen=True)
class WeightsFile:
    """Weights on disk that were checked.

    Attributes:
        path: the file.
        sha256: of its bytes.
        published: whether it is the published file, so that figures compare with other people's.
    """

    path: Path
    sha256: str
    published: bool


def cache_folder() -> Path:
    """Torch's folder of downloaded weights: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(name: str, weights: Weights, given: str | None = None) -> WeightsFile:
    """The checked file of an extractor's weights: one that the user names, the cached one, or a download.

    Args:
        name: the extractor's.
        weights: the published file.
        given: a path, or ``PATH#SHA256`` for weights of one's own.

    Raises:
        UserError: there is no such file and it can't be downloaded, or its SHA-256 is another.
    """
    if given is not None:
        text, _, digest = given.partition("#")
        return _checked(name, weights, Path(text).expanduser(), digest.lower() or None)
    path = cache_folder() / weights.file
    if not path.exists():
        _download(name, weights, path)
    return _checked(name, weights, path, None)


def _checked(name: str, weights: Weights, path: Path, own: str | None) -> WeightsFile:
    try:
        found = sha256(path)
    except FileNotFoundError as error:
        raise UserError(f"the weights of {name}, {path}, don't exist; {_remedy(name, weights)}") from error
    except IsADirectoryError as error:
        raise UserError(f"the weights of {name}, {path}, are a folder; give the file in it") from error
    expected = own or weights.sha256
    if expected is not None and found != expected:
        raise UserError(
            f"{path} is not the {'file with that SHA-256' if own else 'published file'} of {name}'s weights: "
            f"its SHA-256 is {found}, not {expected}; "
            + (
                "give the file's own SHA-256"
                if own
                else f"to use it all the same, give `weights={ {name: f'{path}#{found}'} }`"
            )
        )
    return WeightsFile(path, found, found == weights.sha256 or (weights.sha256 is None and own is None))


def _download(name: str, weights: Weights, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.hub.download_url_to_file(weights.url, str(beside), hash_prefix=weights.sha256, progress=False)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: another SHA-256
        host, why = urlparse(weights.url).hostname, reason(getattr(error, "reason", error))
        raise UserError(
            f"the weights of {name} are not here and can't be downloaded from {host} ({why}); {_remedy(name, weights)}"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _remedy(name: str, weights: Weights) -> str:
    otherwise = f"; {weights.otherwise}" if weights.otherwise else ""
    return f"put {weights.url} at {cache_folder() / weights.file}, or give `weights={ {name: 'FILE'} }`{otherwise}"
