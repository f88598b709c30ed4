"""A network among several processes: whole on each, or split. Nobody else knows which of the two it is."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..network import Wrapped
from .world import World

Parallel = Literal["ddp", "fsdp", "hybrid"]

# a network's output is never changed in place here
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def may_be_split() -> bool:
    """Whether a network that is called may be split among processes: then all of them must call it, or none."""
    return bool(torch.distributed.is_initialized())


class Shared:
    """A network that the processes of a world train together.

    ``"ddp"`` keeps it whole on each (DistributedDataParallel); ``"fsdp"`` splits weights, gradients and optimiser state
    among all, in place (FSDP2); ``"hybrid"`` among the processes of each machine.

    Args:
        model: the network, on the device.
        world: the processes.
        device: where this one works.
        parallel: how.
        unused: says whether some parameters get no gradient; asked where that matters.

    Attributes:
        called: the network as an objective calls it.
        split: all processes must take part whenever it, or what was split `beside` it, is called.
    """

    def __init__(
        self, model: nn.Module, world: World, device: torch.device, parallel: Parallel, unused: Callable[[], bool]
    ) -> None:
        self.called: Any = model
        self.split = world.size > 1 and parallel != "ddp"
        self._where = world, device, parallel
        self._replicated = None
        if self.split:
            _shard(model, *self._where, trained=True)
            self.called = Wrapped(model)
        elif world.size > 1:
            self.called = self._replicated = Replicated(model, device, unused())

    def beside(self, model: nn.Module) -> None:
        """Does the same with a network that isn't trained: an average of this one."""
        if self.split:
            _shard(model, *self._where, trained=False)

    def adding_up(self) -> AbstractContextManager[Any]:
        """While it lasts, gradients may only add up; the next backward pass outside averages them over processes."""
        return nullcontext() if self._replicated is None else self._replicated.shared.no_sync()


class Replicated(Wrapped):
    """A network that is whole on every process, as the objective calls it.

    With gradient through DistributedDataParallel. Without (targets, guidance, derivatives by ``torch.func.jvp``) the
    network itself is called: there is nothing to average then, and DistributedDataParallel can't be differentiated
    forward. A network's own tangent comes with its prediction, through DistributedDataParallel.
    """

    def __init__(self, model: nn.Module, device: torch.device, unused: bool) -> None:
        super().__init__(model)
        ids = [device.index] if device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its old name
        options: dict[str, Any] = {buffers: False, "find_unused_parameters": unused, "gradient_as_bucket_view": True}
        self.shared = DistributedDataParallel(model, device_ids=ids, **options)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the network."""
        called = self.shared if torch.is_grad_enabled() else self.inner
        return called(*arguments, **options)


def _shard(model: nn.Module, world: World, device: torch.device, parallel: Parallel, *, trained: bool) -> None:
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
    inside = set[int]()  # of blocks: what these hold is gathered with them
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList) and id(module) not in inside:
            for block in module:
                if not isinstance(block, FSDPModule) and any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
                    inside.update(map(id, block.modules()))
    if trained:
        fully_shard(model, mesh=mesh)
    else:
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
