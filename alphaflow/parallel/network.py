"""A network as it is called among several processes: whole on each, or split."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from .world import World

Parallel = Literal["ddp", "fsdp", "hybrid"]


class Replicated:
    """A network on every process, as the objective calls it: with gradient through DistributedDataParallel.

    Without gradient (targets, guidance, derivatives by ``torch.func.jvp``) the network itself is called: there is
    nothing to average then, and DistributedDataParallel can't be differentiated forward. A network's own tangent comes
    with its prediction, through DistributedDataParallel.

    Args:
        model: the network.
        device: where it is.
        unused: whether some parameters get no gradient.
    """

    def __init__(self, model: nn.Module, device: torch.device, unused: bool) -> None:
        self.model = model
        ids = [device.index] if device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its old name
        options: dict[str, Any] = {buffers: False, "find_unused_parameters": unused, "gradient_as_bucket_view": True}
        self.shared = DistributedDataParallel(model, device_ids=ids, **options)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the network."""
        called = self.shared if torch.is_grad_enabled() else self.model
        return called(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "shared"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def alone(self) -> Any:
        """While it lasts, gradients only add up; they are averaged by the next backward pass outside."""
        return self.shared.no_sync()


class Sharded:
    """A network whose weights, gradients and optimiser state are split among processes (FSDP2), as it is called."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the network; weights are gathered layer by layer."""
        return self.model(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def alone(self) -> Any:
        """Gradients are averaged by every backward pass: they are kept in parts."""
        return nullcontext()


def shard(model: nn.Module, world: World, device: torch.device, parallel: Parallel, *, trained: bool = True) -> None:
    """Splits a network among all processes, or with ``"hybrid"`` among those of a machine, in place.

    Every module in a ModuleList (a transformer's blocks) is gathered on its own while it runs, and the rest with the
    whole. One that isn't ``trained`` (an average, which is written to between its forward passes) gives all of its
    gathered weights back after each; else the last ones stay for the backward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if parallel == "hybrid":
        if world.size % world.local_size:
            raise UserError("hybrid sharding needs the same number of processes on every machine")
        shape: tuple[int, ...] = (world.size // world.local_size, world.local_size)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(device.type, (world.size,), mesh_dim_names=("shard",))
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                if not isinstance(block, FSDPModule) and any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
    if trained:
        fully_shard(model, mesh=mesh)
    else:
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
