"""Where training runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from ..autoencoders.base import Autoencoder
from ..errors import UserError


def find_device(device: str | torch.device) -> torch.device:
    """The device of this name; ``"auto"`` is a GPU if there is one, else the CPU.

    Under torchrun each process has a GPU of its own.

    Raises:
        UserError: there is no such device.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        named = torch.device((there or "cpu") if device == "auto" else device)
        if str(named) == "cuda":
            named = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        if named.type == "meta":
            raise RuntimeError("tensors have no values there")
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {str(device)!r} here; try --device cpu or --device auto") from error
    return named


@contextmanager
def fp32_products(device: torch.device, tf32: bool | None) -> Iterator[None]:
    """While it lasts, products of fp32 matrices run in TF32 on a GPU, or exactly; with None as PyTorch is set."""
    if device.type != "cuda" or tf32 is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
