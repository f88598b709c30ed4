"""Autoencoders by a name or a description, and on a device."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import UserError
from ..parallel.device import find_device
from .autoencoder import Autoencoder, Normalised
from .diffusers_vae import DiffusersVAE
from .pixels import Pixels

AUTOENCODERS = {"Pixels": Pixels, "DiffusersVAE": DiffusersVAE, "Normalised": Normalised}
"""What run.json and dataset.json may name as one."""


def autoencoder_on(autoencoder: Autoencoder, device: torch.device) -> Autoencoder:
    """The autoencoder on this device, if it is a module or leaves the choice open (``device="auto"``)."""
    if isinstance(autoencoder, nn.Module):
        return autoencoder.to(device)
    known: Any = autoencoder
    names = {field.name for field in fields(known)} if is_dataclass(known) else set[str]()
    if "device" in names and known.device == "auto":
        return cast(Autoencoder, replace(known, device=str(device)))
    if "inner" in names:  # `Normalised`
        return cast(Autoencoder, replace(known, inner=autoencoder_on(known.inner, device)))
    return autoencoder


def open_autoencoder(name: str, subfolder: str | None, tiling: bool, device: str) -> Any:
    """The autoencoder of this name."""
    if name in ("pixels", "grey"):
        return Pixels(3 if name == "pixels" else 1)
    module, colon, attribute = name.partition(":")
    if colon and "/" not in name:
        sys.path.insert(0, str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"the autoencoder {name} can't be imported: {error}") from error
        made = found() if isinstance(found, type) else found
        if not callable(getattr(made, "encode", None)) or not callable(getattr(made, "decode", None)):
            raise UserError(f"the autoencoder {name} needs the methods encode and decode")
        return made
    local = os.environ.get("LOCAL_RANK")
    place = f"cuda:{local}" if device == "auto" and local is not None and _has_cuda() else device
    if place != "auto":
        find_device(place)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name  # the shards name it, wherever they are read
    vae = DiffusersVAE(name, subfolder=subfolder, tiling=tiling, device=place)
    _ = vae.vae  # what is wrong with it is said before anything is begun
    return vae


def _has_cuda() -> bool:
    return torch.cuda.is_available()
