"""Where tensors are worked on, and in which arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions that a network samples in, by their names."""


def check_precision(dtype: torch.dtype | None) -> None:
    """Raises a UserError unless a network can be of this type; None leaves it as it is."""
    if dtype not in (None, torch.float64, *PRECISIONS.values()):
        raise UserError(f"`dtype=` is torch.float32, bfloat16, float16 or float64, got {dtype!r}")


def ready(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A network to sample with: on the device, its floats of a type unless that is None, in evaluation mode, frozen."""
    model = model.to(device)
    if dtype is not None:  # complex tables stay, which nn.Module.to(dtype) would cut
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    return model.eval().requires_grad_(False)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Convolutions without TF32, which torch allows them otherwise."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


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
        raise UserError(f"there is no device {str(device)!r} here; try `device='cpu'` or `device='auto'`") from error
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
