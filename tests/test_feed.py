"""Reading ahead: the same batches, and the same places to go on from, as without."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import alphaflow as af
from alphaflow.training.feed import Feed

CPU = torch.device("cpu")


def feed(ahead: int, batch_size: int = 48) -> Feed:
    data = af.Digits(batch_size=batch_size, seed=3)
    return Feed(data, data.share(0, 1), CPU, ahead)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "alphaflow-feed"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not readers()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_same_batches_and_places(ahead: int) -> None:
    read, plain = feed(ahead), iter(af.Digits(batch_size=48, seed=3))
    counted = af.Digits(batch_size=48, seed=3)
    stream = iter(counted)
    for _ in range(80):  # two epochs
        batch, own = next(read), next(plain)
        next(stream)
        assert torch.equal(batch.x, own.x)
        assert torch.equal(batch.cond.labels, own.cond.labels)
        assert read.state_dict() == counted.state_dict()
    read.rewind()
    assert read.dataset.state_dict() == counted.state_dict()
    assert torch.equal(next(read).x, next(plain).x)
    read.rewind()
    assert not readers()


def test_going_back_and_another_order() -> None:
    read = feed(2)
    for _ in range(3):
        next(read)
    place = read.state_dict()
    after = [next(read).x for _ in range(3)]
    read.load_state_dict(place)
    assert all(torch.equal(next(read).x, x) for x in after)
    read.load_state_dict(place)
    read.reorder(17)
    plain = af.Digits(batch_size=48, seed=3)
    plain.load_state_dict(place)
    plain.reorder(17)
    assert torch.equal(next(read).x, next(iter(plain)).x)


def test_what_goes_wrong_in_the_thread_is_raised_here() -> None:
    class Broken(af.Digits):
        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            raise af.UserError("shard 7 is damaged")

    data = Broken(batch_size=8, seed=0)
    with pytest.raises(af.UserError, match="shard 7"):
        next(Feed(data, data, CPU, 2))


def test_other_datasets_are_read_in_line() -> None:
    """Their randomness may be torch's own, and they may be unable to go back to a place."""

    class Stream:
        shape, classes = (1, 2, 2), None

        def __iter__(self) -> Iterator[af.Batch]:
            while True:
                yield af.Batch(torch.randn(4, 1, 2, 2))

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    data = af.Dataset.of(Stream())
    torch.manual_seed(0)
    read = Feed(data, data, CPU, 2)
    next(read)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(4, 1, 2, 2)
    assert torch.equal(state, torch.get_rng_state())


def test_a_run_that_reads_ahead_resumes_exactly(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def trainer(out: str, ahead: int, **options: Any) -> af.Trainer:
        torch.manual_seed(0)
        recipe = af.find_recipe("digits")(steps=9, width=32, depth=1, batch_size=16)
        made = af.Trainer(recipe, out=tmp_path / out, checkpoint_every=3, **options)
        made.feed = Feed(recipe.dataset, recipe.dataset, made.device, ahead)
        return made

    trainer("plain", 0).fit()
    stopped = trainer("ahead", 3)
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    next(stopped.feed)
    trainer("ahead", 3, resume=True).fit()
    plain, ahead = (
        load_file(tmp_path / run / "checkpoints" / "step-00000009" / "model.safetensors") for run in ("plain", "ahead")
    )
    assert all(torch.equal(plain[name], ahead[name]) for name in plain)


def test_training_that_fails_leaves_the_data_where_it_stood() -> None:
    torch.manual_seed(0)
    recipe = af.find_recipe("digits")(steps=9, width=32, depth=1, batch_size=16)
    trainer = af.Trainer(recipe)
    trainer.feed = Feed(recipe.dataset, recipe.dataset, trainer.device, 3)
    steps = iter(range(4))
    own = trainer.train_step

    def failing() -> Any:
        if next(steps, None) is None:
            raise af.UserError("broken")
        return own()

    trainer.train_step = failing  # type: ignore[method-assign]
    with pytest.raises(af.UserError, match="broken"):
        trainer.fit()
    assert not readers()
    assert recipe.dataset.state_dict()["position"] == 4 * 16


def test_a_process_that_ends_while_reading_ends_well() -> None:
    """The thread is inside an operation of PyTorch's when the process wants to go."""
    code = """
import alphaflow as af, torch
from alphaflow.training.feed import Feed
class Slow(af.Digits):
    def fetch(self, indices, generator=None):
        for _ in range(20):
            torch.randn(700, 700) @ torch.randn(700, 700)
        return super().fetch(indices, generator)
data = Slow(batch_size=8, seed=0)
feed = Feed(data, data, torch.device("cpu"), 2)
next(feed), next(feed)
"""
    path = str(Path(af.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
