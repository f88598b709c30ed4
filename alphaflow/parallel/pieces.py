"""Tensors that may be split among processes: whole, and the part that is here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


def weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Copies of a network's weights on the CPU, whole: as safetensors takes them, none sharing memory with another.

    Args:
        model: all processes must ask, where it is split among them.
        keep: whether this process wants them.
    """
    return whole_copies(model.state_dict(), keep)


def whole_copies(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Gathers any tensors as `weights` does: one after another, so that never more than one is whole on a GPU."""
    found = {}
    for name, tensor in tensors.items():
        whole = full(tensor)
        if keep:
            found[name] = whole.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return found


def is_split(tensor: Any) -> bool:
    """Whether a tensor is split among processes: a DTensor, whose slow import is left to those who make one."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full(tensor: Tensor) -> Tensor:
    """A tensor whole, where it is split among processes: all must ask for it."""
    found: Any = tensor
    return cast(Tensor, found.full_tensor()) if is_split(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has."""
    found: Any = tensor
    return cast(Tensor, found.to_local()) if is_split(tensor) else tensor


def parts(model: nn.Module) -> list[Tensor]:
    """What this process has of a network's parameters, without gradient; they change with the network's."""
    return [local(parameter.detach()) for parameter in model.parameters()]


def finite(tensor: Tensor) -> bool:
    """Whether all is finite that this process has of a tensor."""
    return bool(local(tensor).isfinite().all())


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together, of what other processes have of them too; a scalar."""
    if not any(map(is_split, tensors)):
        return torch.as_tensor(torch.nn.utils.get_total_norm(tensors))
    norms = [full(torch.linalg.vector_norm(tensor)) for tensor in tensors]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def scale(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiplies tensors by a scalar, in place."""
    torch._foreach_mul_([local(tensor) for tensor in tensors], factor)


def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """``load_state_dict`` with whole tensors, also for a network that is split among processes.

    Raises:
        RuntimeError: as ``load_state_dict`` does.
    """
    own = model.state_dict()
    found = {name: placed_as(own[name], w) if is_split(own.get(name)) else w for name, w in weights.items()}
    model.load_state_dict(found)


def placed_as(there: Tensor, tensor: Tensor) -> Tensor:
    """A copy of a whole tensor where another one is; if it has that one's shape, laid out and split as that is."""
    if there.shape != tensor.shape:
        return tensor.to(there.device, copy=True)
    if not is_split(there):
        return torch.empty_like(there, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    from torch.distributed.tensor import distribute_tensor

    split: Any = there
    return distribute_tensor(tensor.to(there.device), split.device_mesh, split.placements)
