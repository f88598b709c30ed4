"""What goes wrong in one process of several is raised in all: prints, for each, what it got."""

import errno
import os
from collections.abc import Iterator

import torch

import alphaflow as af
from alphaflow.evaluation.evaluator import Evaluator
from alphaflow.evaluation.reference import EvaluationReference
from alphaflow.evaluation.sample_set import SampleBatch
from alphaflow.parallel.world import join, leave


class Torn(af.InMemorySamples):
    """Pictures of which the second process can't read any."""

    def batches(self, size: int, rank: int = 0, world: int = 1) -> Iterator[SampleBatch]:
        if rank == 1:
            raise OSError(errno.EIO, "Input/output error", "picture 7")
        yield from super().batches(size, rank, world)


def say(line: str) -> None:
    """Prints a line whole: others print too."""
    os.write(1, f"{line}\n".encode())


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "run.json")


def wrong() -> None:
    raise af.UserError("no such thing")


def bug() -> None:
    raise KeyError("x")


def end() -> None:
    raise SystemExit(3)


world = join(torch.device("cpu"))
pictures = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
evaluator = Evaluator(["pixel-fd"], EvaluationReference("real", Torn(pictures)), world=world)
for work in (full, wrong, bug, end):
    try:
        world.first(work)
    except BaseException as error:
        say(f"{world.rank} {work.__name__}: {type(error).__name__}: {error}")
try:
    evaluator.real()
except Exception as error:
    say(f"{world.rank} torn: {type(error).__name__}: {error}")
say(f"{world.rank} all: {world.first(lambda: [1, 2])}")
leave()
