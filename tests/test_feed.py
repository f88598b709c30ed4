"""Reading ahead: the same batches, and the same places to go on from, as without."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alphaflow as af
from alphaflow.data.dataset import describe_data
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


class Stream:
    """A dataset of the user's own, without a base: it counts."""

    def __init__(self) -> None:
        self.count = 0

    shape, classes = (1, 8, 8), 3

    def __iter__(self) -> Iterator[af.Batch]:
        while True:
            self.count += 1
            yield af.Batch(
                torch.randn(4, 1, 8, 8) + self.count, af.Cond(labels=torch.tensor([0, 1, 2, self.count % 9]))
            )

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_other_datasets_are_read_in_line() -> None:
    """Their randomness may be torch's own, and they may be unable to go back to a place."""
    data = af.Dataset.of(Stream())
    torch.manual_seed(0)
    read = Feed(data, data, CPU, 2)
    next(read)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(4, 1, 8, 8)
    assert torch.equal(state, torch.get_rng_state())


def test_a_dataset_without_a_base_trains_and_is_asked_each_time() -> None:
    """A recipe takes it in once; what it doesn't say has defaults, and messages name its own class."""
    stream = Stream()
    model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=3)
    made = af.Recipe(model=model, objective=af.MeanFlow(), dataset=stream, steps=5, samplers=())  # type: ignore[arg-type]
    assert replace(made, steps=4).dataset is made.dataset
    assert repr(made.dataset) == repr(stream)
    facts = describe_data(made.dataset)
    assert facts == {
        "shape": [1, 8, 8], "classes": 3, "sampled_classes": 3, "class_names": ["0", "1", "2"], "fps": None,
        "conditions": None, "text": None,
    }  # fmt: skip
    trainer = af.Trainer(made)
    trainer.train_step()
    trainer.train_step()
    assert stream.count == 2 == trainer.feed.state_dict()["count"]
    stream.classes = 1  # type: ignore[misc]
    with pytest.raises(af.UserError, match=r"^Stream: "):
        trainer.train_step()


def test_a_dataset_of_the_users_own_says_what_it_knows() -> None:
    """As attributes of its class or of itself, or computed."""

    class Derived(af.Dataset):
        class_names, rewinds = ("a", "b"), True

        def __init__(self) -> None:
            self.stream, self.fps = Stream(), 7.5
            self.shape = (1, 8, 8)

        def __iter__(self) -> Iterator[af.Batch]:
            return iter(self.stream)

        def state_dict(self) -> dict[str, Any]:
            return self.stream.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.stream.load_state_dict(state)

        @property
        def sampled_classes(self) -> int:
            return 1

    data = Derived()
    assert af.Dataset.of(data) is data
    facts = {"shape": [1, 8, 8], "classes": 2, "sampled_classes": 1, "class_names": ["a", "b"], "fps": 7.5}
    assert describe_data(data) == {**facts, "conditions": None, "text": None}
    assert (data.shapes, data.indexed, data.autoencoder, data.batch_size) == (((1, 8, 8),), None, None, None)
    assert Feed(data, data, CPU, 2).ahead == 2
    parts = [next(iter(Derived().share(rank, 2))).cond.labels for rank in range(2)]
    assert [list(part) for part in parts if part is not None] == [[0, 2], [1, 1]]
    with pytest.raises(af.UserError, match="a batch of 4 can't be shared out among 3 processes evenly"):
        next(iter(data.share(0, 3)))


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
from alphaflow.data.dataset import describe_data
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
