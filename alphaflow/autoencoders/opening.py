"""Autoencoders by a name or a description."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ..errors import UserError, reason
from .autoencoder import Autoencoder, Normalised
from .diffusers_vae import DiffusersVAE
from .pixels import Pixels

AUTOENCODERS = {"Pixels": Pixels, "DiffusersVAE": DiffusersVAE, "Normalised": Normalised}
"""What run.json and dataset.json may name as one."""


def open_autoencoder(name: str, subfolder: str | None, tiling: bool, device: str) -> Autoencoder:
    """The autoencoder of this name, loaded.

    Args:
        name: ``"pixels"``, ``"grey"``, a model on the Hub, a folder, or ``module:name`` for one of the user's own: an
            `Autoencoder`, or a class of them that is made without arguments.
        subfolder: of the model, where the autoencoder lies in one.
        tiling: encode and decode in overlapping tiles.
        device: where it runs; ``"auto"`` takes a GPU if there is one, under torchrun each process its own.

    Raises:
        UserError: there is none of this name, it is no `Autoencoder`, or can't be loaded.
    """
    if name in ("pixels", "grey"):
        return Pixels(3 if name == "pixels" else 1)
    module, colon, attribute = name.partition(":")
    if colon and "/" not in name:
        sys.path.insert(0, str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"the autoencoder {name} can't be imported: {reason(error)}") from error
        return Autoencoder.of(found() if isinstance(found, type) else found)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name  # the shards name it, wherever they are read
    vae = DiffusersVAE(name, subfolder=subfolder, tiling=tiling, device=device)
    _ = vae.vae  # what is wrong with it is said before anything is begun
    return vae
