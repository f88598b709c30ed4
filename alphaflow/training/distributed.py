"""Several processes that train one network: which one this is, what they share, and how gradients become one.

Started by ``torchrun``, every process runs the same recipe. Each takes its part of every batch; gradients are averaged,
so that all take the same step as one process would with the whole batch.
"""

from __future__ import annotations

import inspect
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.base import Dataset
from ..errors import UserError, said
from ..types import Batch

# a network's output is never changed in place here
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

T = TypeVar("T")
Parallel = Literal["ddp", "fsdp", "hybrid"]


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: this one's number.
        size: how many there are.
        local_size: how many there are on each machine.
        files: a gloo group of all, for what is written in the background; None for one process.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    files: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes, shows and logs."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed of this process's own: ``seed`` itself for the first."""
        return (
            seed if self.main else int(np.random.SeedSequence((seed, self.rank)).generate_state(1, np.uint64)[0] >> 1)
        )

    def mean(self, values: Sequence[float]) -> list[float]:
        """The average over all processes of each number."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [value / self.size for value in total.tolist()]

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of the CPU, of one shape everywhere, from every process."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor)
        return found

    def first(self, work: Callable[[], T]) -> T:
        """What the first process finds, in all of them; what goes wrong there is raised in all (`together`)."""
        shared: list[Any] = [None]
        with self.together():
            if self.main:
                shared[0] = work()
        if self.size > 1:
            dist.broadcast_object_list(shared, src=0)
        return cast(T, shared[0])

    @contextmanager
    def together(self, group: Any = None) -> Iterator[None]:
        """What goes wrong inside in one process is raised in all at the end: there itself, elsewhere as a UserError.

        All of them must come through it, or the others would wait.

        Args:
            group: of processes; None for all.
        """
        error: BaseException | None = None
        try:
            yield
        except BaseException as wrong:
            error = wrong
        text = str(error) if isinstance(error, UserError) else said(error) if error is not None else None
        told: list[str | None] = [text] * self.size
        if self.size > 1:
            dist.all_gather_object(told, told[0], group=group)
        if error is not None:
            raise error
        failed = next((text for text in told if text is not None), None)
        if failed is not None:
            raise UserError(failed)


def join(device: torch.device) -> World:
    """Joins the processes that torchrun started; a world of one without it."""
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return World()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # after a restart torchrun's store may still hold the addresses of the processes before
        store = dist.PrefixStore(_attempt(store, rank, size), store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    return World(dist.get_rank(), dist.get_world_size(), local, _files_group())


def _attempt(store: Any, rank: int, size: int) -> str:
    """A name for this start of the processes, which all of them agree on, whatever earlier starts left in the store.

    (torchrun counts restarts on each machine for itself, so its count is no such name.) Every process says hello with
    a number that nobody else has; the first one answers whatever hello it sees, until all have taken an answer.

    Raises:
        UserError: a process didn't come in time.
    """
    end = time.monotonic() + store.timeout.total_seconds()
    if rank == 0:
        name = secrets.token_hex(8)
        silent = set(range(1, size))
        while silent:
            for other in list(silent):
                if store.check([f"hello-{other}"]):
                    store.set(f"answer-{store.get(f'hello-{other}').decode()}", name)
                if store.check([f"taken-{name}-{other}"]):
                    silent.remove(other)
            if time.monotonic() > end:
                raise UserError(f"process {min(silent)} of {size} hasn't come in {store.timeout}; is it running?")
            time.sleep(0.01)
        return name
    own = secrets.token_hex(8)
    store.set(f"hello-{rank}", own)
    answer: str = store.get(f"answer-{own}").decode()  # waits
    store.set(f"taken-{answer}-{rank}", "1")
    return answer


@cache
def _files_group() -> Any:
    return dist.new_group(backend="gloo")


def leave() -> None:
    """Takes leave of the other processes, once all is done."""
    if dist.is_initialized():
        dist.destroy_process_group()
        _files_group.cache_clear()


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


def average_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Averages the gradients of parameters outside the shared network: an objective's own."""
    for parameter in parameters:
        if world.size > 1:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size


def shared_out(dataset: Dataset, world: World) -> Iterable[Batch]:
    """The part of every batch that this process works on: by the dataset's own ``share``, else cut from whole batches.

    Raises:
        UserError: a batch can't be shared out evenly.
    """
    if world.size == 1:
        return dataset
    share = getattr(dataset, "share", None)
    if share is not None:
        share(world.rank, world.size)
        return dataset
    return _Cut(dataset, world)


@dataclass(frozen=True)
class _Cut:
    """Every world-th sample of each batch."""

    dataset: Dataset
    world: World

    def __iter__(self) -> Iterator[Batch]:
        rank, size = self.world.rank, self.world.size
        for batch in self.dataset:
            if len(batch.x) % size:
                raise UserError(f"a batch of {len(batch.x)} can't be shared out among {size} processes evenly")
            yield batch[slice(rank, None, size)]
