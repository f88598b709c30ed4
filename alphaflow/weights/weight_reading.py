"""Other projects' weights from their files, of which nothing is ever run."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError, reason

HARMLESS: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
"""What a checkpoint may hold beside tensors and plain values: its training's options."""

RECORDS, NUMBERS = (
    re.compile(r"src\.structs(\.\w+)+"),
    re.compile(r"numpy\.(_?core\.multiarray\.scalar|dtype|dtypes\.\w+)"),
)
"""Names of what a checkpoint may hold and nobody here needs: α-Flow's records, and NumPy's numbers."""

AVERAGES, RAW = ("ema", "model_ema", "ema_model"), ("model", "net", "state_dict", "module")
"""Where a checkpoint keeps its averaged weights, and the others."""

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before each name."""


def read_state(file: Path, *, ema: bool = True) -> dict[str, Tensor]:
    """The weights that a file holds, by the names of whoever wrote it.

    Args:
        file: a .safetensors file, or one of ``torch.save``: weights, or a checkpoint that holds them beside others.
        ema: of a checkpoint, its averaged weights rather than the raw ones, if it has any.

    Raises:
        UserError: it is missing, damaged, holds Python objects that loading would run code of, or no weights.
    """
    if not file.is_file():
        raise UserError(f"{file} is {'a folder' if file.is_dir() else 'missing'}; give a .pt or .safetensors file")
    found = _loaded_safely(file) if file.suffix == ".safetensors" else _unpickled(file)
    weights = _weights_in(found, (*AVERAGES, *RAW) if ema else (*RAW, *AVERAGES))
    strange = isinstance(found, Mapping) and next((key for key in AVERAGES if _is_strange(found.get(key))), None)
    if ema and strange:
        raise UserError(
            f"{file}: its {strange!r} holds more than weights by their names; choose `ema=False`, or save it alone"
        )
    if weights is None:
        raise UserError(f"{file} holds no weights: neither tensors by their names, nor these under {', '.join(RAW)}")
    for wrapper in WRAPPERS * 2:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): weight for name, weight in weights.items()}
    return weights


def _loaded_safely(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short ({reason(error)}); fetch it again") from error


class _PassedOver:
    """Stands for a number of NumPy's: takes whatever it would be made of, and does nothing with it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _unpickled(file: Path) -> Any:
    """What torch.save wrote, by torch's own unpickler of tensors and plain values, which calls nothing else."""
    zipped = zipfile.is_zipfile(file)
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(file) if zipped else []
        passed: list[Any] = [(_PassedOver, name) for name in asked if NUMBERS.fullmatch(name)]
        passed += [(OrderedDict, name) for name in asked if RECORDS.fullmatch(name)]
        with torch.serialization.safe_globals([*HARMLESS, *passed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped or None)
    except Exception as error:  # whatever a damaged file makes of the reader
        named = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named is None:
            what = f"{file} is damaged or cut short, or nothing that torch.save wrote"
            raise UserError(f"{what} ({type(error).__name__})") from error
        raise UserError(
            f"{file} holds more than weights and plain values, {named[1]:.100}, which can't be loaded without running "
            "code: have its weights saved alone by whoever trusts it"
        ) from error


def _weights_in(found: Any, keys: tuple[str, ...], depth: int = 3) -> dict[str, Tensor] | None:
    """A mapping of names to tensors: this one, or the first under these keys."""
    if not isinstance(found, Mapping) or not depth:
        return None
    for key in keys:
        inside = _weights_in(found.get(key), keys, depth - 1)
        if inside:
            return inside
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    return tensors if tensors and len(tensors) == len(found) else None


def _is_strange(average: Any) -> bool:
    """Whether something stands where averaged weights do, and isn't them."""
    return average is not None and _weights_in(average, (*AVERAGES, *RAW)) is None
