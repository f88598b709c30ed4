"""The processes of a job: which one this is, and what they tell each other."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import UserError, said
from ..seeds import derived

T = TypeVar("T")

Parts = Iterable[Sequence[Tensor]]


def from_others(parts: Parts, rank: int, world: int) -> Iterator[Iterator[list[Tensor]]]:
    """In the first process: what each other one has, one after another. In the others: sends it, and gives nothing."""
    if not rank:
        for other in range(1, world):
            yield _received(other)
        return
    for part in parts:
        dist.send_object_list([[(tuple(tensor.shape), tensor.dtype) for tensor in part]], dst=0)
        for tensor in part:
            dist.send(tensor.cpu().contiguous(), dst=0)
    dist.send_object_list([None], dst=0)


def _received(source: int) -> Iterator[list[Tensor]]:
    """The parts that a process sends, until it says that there are no more."""
    while True:
        forms: list[Any] = [None]
        dist.recv_object_list(forms, src=source)
        if forms[0] is None:
            return
        part = [torch.empty(shape, dtype=dtype) for shape, dtype in forms[0]]
        for tensor in part:
            dist.recv(tensor, src=source)
        yield part


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
        return seed if self.main else derived(seed, self.rank)

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


def average_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Averages the gradients of parameters outside the shared network: an objective's own."""
    for parameter in parameters:
        if world.size > 1:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size
