"""Where training runs."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch

from ..autoencoders.base import Autoencoder
from ..errors import UserError


def find_device(device: str | torch.device) -> torch.device:
    """The device of this name; ``"auto"`` is a GPU if there is one, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {str(device)!r} here; try --device cpu or --device auto") from error
    return torch.device(device)


def autoencoder_on(autoencoder: Autoencoder, device: torch.device) -> Autoencoder:
    """The autoencoder on this device, if it leaves the choice open: ``device="auto"``, as `DiffusersVAE` has it."""
    known: Any = autoencoder
    names = {field.name for field in fields(known)} if is_dataclass(known) else set[str]()
    if "device" in names and known.device == "auto":
        return cast(Autoencoder, replace(known, device=str(device)))
    return autoencoder
