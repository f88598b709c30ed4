"""Where training runs."""

from __future__ import annotations

import torch

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
