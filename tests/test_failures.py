"""What can go wrong in a run: bad batches, signals, a full disk, a kill; and what is left of it."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alphaflow as af
from alphaflow.measurement import Measurement
from alphaflow.training.display import Display
from alphaflow.training.guard import GuardMemory
from alphaflow.training.stopping import Stop

PATH = str(Path(af.__file__).resolve().parent.parent)


class Harmed(af.Digits):
    """Digits whose batches with these numbers, counted from 0 as they are read, are multiplied by a factor."""

    def __init__(self, which: Callable[[int], bool], factor: float) -> None:
        super().__init__(batch_size=16, seed=1)
        self.which, self.factor, self.count = which, factor, 0

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        batch = super().fetch(indices, generator)
        if generator is None:  # looked at before training
            return batch
        harmed, self.count = self.which(self.count), self.count + 1
        return af.Batch(batch.x * self.factor, batch.cond) if harmed else batch


class Listening(Display):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def recipe(dataset: af.Dataset | None = None, steps: int = 20, **options: Any) -> af.Recipe:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"objective": af.AlphaFlow(alpha=af.Constant(0.3)), "samplers": (), "lr": 1e-3}
    data = af.Digits(batch_size=16, seed=1) if dataset is None else dataset
    model = options.pop("model", None) or af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10)
    return af.Recipe(model=model, dataset=data, steps=steps, **{**settings, **options})


def incidents(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "incidents.jsonl").read_text().splitlines()]


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_batch_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    """Weights, average and step stay; what was wrong is written down; the next batch is learned from."""
    said = Listening()
    trainer = af.Trainer(recipe(Harmed(lambda n: n == 3, math.nan)), out=tmp_path / "run", display=said)
    for _ in range(3):
        trainer.train_step()
    before, average = flat(trainer.model).clone(), flat(trainer.ema.model).clone()
    trainer.train_step()
    assert trainer.step == 3
    assert torch.equal(flat(trainer.model), before)
    assert torch.equal(flat(trainer.ema.model), average)
    trainer.train_step()
    assert trainer.step == 4
    assert not torch.equal(flat(trainer.model), before)
    (line,) = incidents(tmp_path / "run")
    assert (line["step"], line["kind"], line["of_data"]) == (3, "skipped", True)
    assert line["reason"] == "the loss is nan, since the data are not finite: sample 0 of the batch, in its x"
    assert line["parameter"] in dict(trainer.model.named_parameters())
    assert 0 <= line["r"] <= line["t"] <= 1
    assert line["alpha"] == 0.3
    assert said.lines[-1].startswith(f"skipped: {line['reason']} at step 3, first in the gradient of ")


def test_data_that_are_not_finite_are_not_called_a_problem_of_training(tmp_path: Path) -> None:
    class Holed(af.Digits):
        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            batch = super().fetch(indices, generator)
            batch.x[7, 0, 3, 3] = math.nan
            return batch

    with pytest.raises(
        af.UserError, match=r"3 bad batches in a row.*sample 7 of the batch, in its x.*; mend the data$"
    ):
        af.Trainer(recipe(Holed(batch_size=16)), out=tmp_path / "run").fit()


def test_data_that_can_hardly_be_meant_are_remarked(tmp_path: Path) -> None:
    """Once, before the first step; good data and good latents pass without a word."""

    class Changed(af.IndexedDataset):
        class_names = ()

        def __init__(self, count: int, shape: tuple[int, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__(16, 0)
            self.x = change(torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1))

        @property
        def shape(self) -> tuple[int, ...]:
            return tuple(self.x.shape[1:])

        def __len__(self) -> int:
            return len(self.x)

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            return af.Batch(self.x[indices])

    image, latents = (1, 8, 8), (4, 8, 8)
    for count, shape, change, message in [
        (40, image, lambda x: (x + 1) * 127.5, r"lie in \[0, 255\]"),
        (40, image, lambda x: (x + 1) / 2, r"in \[0, 1\]"),
        (40, image, lambda x: x * 3, r"in \[-3, 3\]"), (40, image, lambda x: x, ""), (40, latents, lambda x: x * 2, ""),
        (40, latents, lambda x: x * 50, "root mean square .* this scale is intended"),
        (1, image, lambda x: x, "holds 1 sam"),
        (40, image, lambda x: x[:1].expand_as(x), "are equal"), (40, latents, lambda x: x * 1e-3, "scale is intended"),
    ]:  # fmt: skip
        said = Listening()
        model = af.DiT(shape, patch=4, depth=1, width=16, heads=2)
        made = recipe(Changed(count, shape, change), model=model, steps=2)
        af.Trainer(made, out=tmp_path / f"{len(list(tmp_path.iterdir()))}", display=said).fit()
        notes = [line for line in said.lines if line.startswith("note: ")]
        assert len(notes) == bool(message), (message, notes)
        assert not message or re.search(message, notes[0]), (message, notes)


def test_labels_that_nobody_takes_are_remarked() -> None:
    said = Listening()
    model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2)
    af.Trainer(recipe(af.Digits(batch_size=16), model=model, steps=2), display=said).fit()
    assert len([line for line in said.lines if "the network takes none: it is trained without classes" in line]) == 1


def test_the_worst_samples_times_are_those_it_was_trained_with(tmp_path: Path) -> None:
    """One sample of the batch is infinite: the times named are the ones drawn for it."""

    class One(af.Digits):
        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            batch = super().fetch(indices, generator)
            batch.x[5] = math.inf
            return batch

    made = recipe(One(batch_size=16, seed=1))
    trainer = af.Trainer(made, out=tmp_path / "run", seed=7)
    trainer.train_step()
    (line,) = incidents(tmp_path / "run")
    twin = One(batch_size=16, seed=1)
    batch = next(iter(twin))
    objective = made.objective
    assert isinstance(objective, af.Objective)
    draw = objective.draw(made.model, batch.x, batch.cond, 0, torch.Generator().manual_seed(7))
    assert line["r"] == pytest.approx(float(draw.r[5]))
    assert line["t"] == pytest.approx(float(draw.t[5]))


def test_a_spike_is_skipped(tmp_path: Path) -> None:
    guard = af.BatchGuard(window=10)
    trainer = af.Trainer(recipe(Harmed(lambda n: n == 15, 300.0)), out=tmp_path / "run", guard=guard)
    trainer.fit()
    (line,) = incidents(tmp_path / "run")
    assert line["step"] == 15
    assert "times its median (robust z" in line["reason"]
    quiet = af.Trainer(recipe(Harmed(lambda n: n == 15, 300.0)), out=tmp_path / "off", guard=af.BatchGuard(spike=None))
    quiet.fit()
    assert not (tmp_path / "off" / "incidents.jsonl").exists()


@pytest.mark.slow
def test_the_end_of_a_curriculum_is_no_spike(tmp_path: Path) -> None:
    """From α = 0.005 to 0 the plain error leaps by four orders of magnitude; what the guard compares doesn't."""
    torch.manual_seed(0)
    steps, generator = 160, torch.Generator().manual_seed(1)
    alpha = af.Linear(start=0, end=steps - 40, first=0.02, last=0.005)
    model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10)
    objective = af.AlphaFlow(alpha=lambda step: alpha(step) if step < steps - 40 else 0.0, fm_share=0.0)
    made = af.Recipe(model=model, objective=objective, dataset=af.Digits(batch_size=16, seed=1), samplers=(),
                     steps=steps, lr=1e-3, ema=0.9)  # fmt: skip
    trainer = af.Trainer(made, out=tmp_path / "run")
    trainer.fit()
    assert not (tmp_path / "run" / "incidents.jsonl").exists()
    batch = next(iter(made.dataset))
    two_point, jvp = (objective(trainer.model, batch.x, batch.cond, k, generator.manual_seed(1)) for k in (100, 159))
    assert float(jvp.terms["mse"].mean() / two_point.terms["mse"].mean()) > 1000
    assert float(jvp.terms["residual"].mean() / two_point.terms["residual"].mean()) == pytest.approx(1, abs=0.1)


def test_the_robust_score() -> None:
    """Against the formula, worked by hand: errors e^0 … e^8, median e^4, MAD 2."""
    before = [math.exp(k) for k in range(9)]
    guard = af.BatchGuard(window=9, spike=1.5, factor=10.0)
    z = 0.6745 * 5 / 2  # of e^9
    assert f"(robust z {z:.0f})" in guard.judge(1.0, math.exp(9), 1.0, before)
    assert guard.judge(1.0, math.exp(4 + 2.29), 1.0, before) == ""  # under ten times the median
    assert guard.judge(1.0, math.exp(4 + 4.4), 1.0, before) == ""  # a score of 1.48
    assert guard.judge(1.0, math.exp(9), 1.0, before[1:]) == ""  # too few are known
    assert guard.judge(math.inf, 1.0, 1.0, []) == "the loss is inf"
    assert guard.judge(1.0, 1.0, math.nan, []) == "the gradient's norm is nan"
    with pytest.raises(af.UserError, match="patience >= 1"):
        af.BatchGuard(patience=0)
    watch = GuardMemory(af.BatchGuard(window=3))
    for error in (1.0, 2.0, 3.0, 4.0):
        watch.judge(1.0, error, 1.0)
    assert list(watch.good) == [2.0, 3.0, 4.0]


def test_repeated_bad_batches_go_back_and_take_another_order(tmp_path: Path) -> None:
    """Batches 10 to 12 are bad: back to step 8, other data from there, and through."""
    data = Harmed(lambda n: 10 <= n <= 12, math.nan)
    trainer = af.Trainer(recipe(data), out=tmp_path / "run", checkpoint_every=4)
    trainer.fit()
    assert trainer.step == 20
    kinds = [(line["kind"], line["step"]) for line in incidents(tmp_path / "run")]
    assert kinds == [("skipped", 10)] * 3 + [("rollback", 8)]
    assert data.seed != 1
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows))
    assert not torch.isnan(flat(trainer.model)).any()


def test_it_stops_with_a_diagnosis_when_going_back_does_not_help(tmp_path: Path) -> None:
    data = Harmed(lambda n: n >= 10, math.nan)
    trainer = af.Trainer(recipe(data), out=tmp_path / "run", checkpoint_every=4, guard=af.BatchGuard(rollbacks=2))
    with pytest.raises(af.UserError) as stopped:
        trainer.fit()
    for words in ("3 bad batches in a row after going back 2 times", "the loss is nan", "at step 8", "gradient of",
                  "r = ", "α = 0.3", "step-00000008"):  # fmt: skip
        assert words in str(stopped.value)
    assert [line["kind"] for line in incidents(tmp_path / "run")].count("rollback") == 2
    assert sorted(place.name for place in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step-00000008"


class Once(af.FlowMatching):
    """Flow matching whose loss is NaN at a step, once."""

    def __call__(self, *arguments: Any, **options: Any) -> af.Loss:
        loss = super().__call__(*arguments, **options)
        if arguments[3] == 13 and not LOST:
            LOST.append(True)
            return af.Loss(loss.total * math.nan, loss.per_sample, loss.terms)
        return loss


LOST: list[bool] = []


def put_nan(place: str, trainer: af.Trainer) -> None:
    """NaN into what step 13 is about to use."""
    weight = trainer.model.final.out.weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.Tensor)
    if place == "parameter":
        with torch.no_grad():
            weight[0, 0] = math.nan
    elif place == "optimiser state":
        trainer.engine.optimizer.state[weight]["exp_avg"][0, 0] = math.nan
    elif place == "gradient":
        handle: Any = weight.register_hook(lambda gradient: (handle.remove(), gradient * math.nan)[1])


@pytest.mark.parametrize("place", ["data", "loss", "gradient", "parameter", "optimiser state"])
@pytest.mark.parametrize("every", [4, 7])
def test_nan_anywhere_is_found_at_once_and_recovered_from(place: str, every: int, tmp_path: Path) -> None:
    """At step 13: found at 13, or at 14 where the step itself makes it, also if a checkpoint is due just then."""
    LOST.clear()
    data = Harmed(lambda n: place == "data" and n == 13, math.nan)
    objective = Once() if place == "loss" else af.FlowMatching()
    trainer = af.Trainer(recipe(data, steps=24, objective=objective), out=tmp_path / "run", checkpoint_every=every)

    class Putting(Listening):
        def advance(self) -> None:
            if trainer.step == 13 and not done:
                done.append(True)
                put_nan(place, trainer)

    done: list[bool] = []
    trainer.display = trainer.report.display = Putting()
    trainer.fit()
    assert trainer.step == 24
    lines = incidents(tmp_path / "run")
    assert lines[0]["step"] == (14 if place == "optimiser state" else 13)
    back = [line["step"] for line in lines if line["kind"] == "rollback"]
    assert back == ([12 if every == 4 else 7] if place in ("parameter", "optimiser state") else [])
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())
    assert all(bool(weight.isfinite().all()) for weight in trainer.ema.model.parameters())


def test_signals_and_their_second() -> None:
    before = signal.getsignal(signal.SIGTERM)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        with Stop() as stop:
            os.kill(os.getpid(), getattr(signal, name))
            assert stop.signal == getattr(signal, name)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


SMALL = ["digits", "--steps", "60", "--width", "32", "--depth", "1", "--batch-size", "32"]


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    call = [sys.executable, "-m", "alphaflow", "train", *SMALL, "--checkpoint-every", "10", "--out", str(out), *options]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def final(run: Path) -> dict[str, torch.Tensor]:
    place = run / "checkpoints" / "step-00000060"
    return {
        f"{file}/{name}": tensor
        for file in ("model", "ema")
        for name, tensor in load_file(place / f"{file}.safetensors").items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(out)
    assert process.wait() == 0
    return final(out)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    name: str, status: int, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    process = start(tmp_path / "run")
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate()
    assert process.returncode == status, err
    assert f"stopped by {name} at step " in out
    step = int(out.partition("at step ")[2].partition(",")[0])
    assert 10 <= step < 60
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "manifest.json").is_file()
    if name == "SIGTERM":  # the others save in the same way
        assert start(tmp_path / "run", "--resume").wait() == 0
        assert same(final(tmp_path / "run"), undisturbed)


@pytest.mark.slow
def test_kills_at_random_moments(undisturbed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """SIGKILL three times, resumed each time: the undisturbed run's weights. benchmarks/failures.py has twenty."""
    chance = random.Random(0)
    for _ in range(3):
        process = start(tmp_path / "run", "--resume")
        time.sleep(chance.uniform(2.0, 4.5))
        process.kill()
        process.communicate()
    process = start(tmp_path / "run", "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert same(final(tmp_path / "run"), undisturbed)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_full_disk_does_not_stop_training(tmp_path: Path) -> None:
    """A real limit on files' sizes: checkpoints can't be written, training continues, and they can be again."""
    resource = pytest.importorskip("resource")
    said, limits = Listening(), resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = af.Trainer(recipe(steps=60), out=tmp_path / "run", checkpoint_every=20, display=said)

    class Lifting(Display):
        def advance(self) -> None:
            if trainer.step == 30:
                trainer.settle()
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        def say(self, message: str) -> None:
            said.say(message)

    trainer.display = trainer.report.display = Lifting()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert any("a checkpoint can't be written" in line and "tries again" in line for line in said.lines)
    saved = [int(place.name[5:]) for place in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert saved[-2:] == [40, 60]
    assert 20 not in saved
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert af.Trainer(recipe(steps=60), out=tmp_path / "run", resume=True).step == 60


def test_a_disk_that_stays_full_is_an_error_at_the_end(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = af.Trainer(recipe(steps=5), out=tmp_path / "run", checkpoint_every=5)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(af.UserError, match=r"the checkpoint of step 5 can't be written: .*make room"):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_logs_survive_a_full_disk(tmp_path: Path) -> None:
    """Rows and pictures can't be written for a while: said once; training continues."""
    resource = pytest.importorskip("resource")
    said, limits = Listening(), resource.getrlimit(resource.RLIMIT_FSIZE)
    settings: dict[str, Any] = {"samplers": (af.ODE(1),), "steps": 4}
    trainer = af.Trainer(recipe(**settings), out=tmp_path / "run", log_every=1, checkpoint_every=100, display=said)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        for _ in range(3):
            trainer.train_step()
            trainer.report.row(trainer.step, {})
            trainer.report.picture(trainer.step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len([line for line in said.lines if "can't write to" in line]) == 1
    assert trainer.step == 3


def test_state_that_is_no_plain_value_is_said_at_once(tmp_path: Path) -> None:
    class Odd(af.Digits):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "own": torch.ones(2)}

    trainer = af.Trainer(recipe(Odd(batch_size=16, seed=1)), out=tmp_path / "run")
    trainer.train_step()
    with pytest.raises(af.UserError, match="a value that is not plain"):
        trainer.save()


def test_a_killed_replacement_is_put_back(tmp_path: Path) -> None:
    from alphaflow.runs.folder import RunFolder

    place = tmp_path / "checkpoints" / ".step-00000008.4194305-0123abcd.old.tmp"
    place.mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-00000009.writing.tmp").mkdir()
    RunFolder(tmp_path).sweep()
    assert [found.name for found in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


def test_checkpoints_that_stay(tmp_path: Path) -> None:
    class Counting:
        """A measurement that is best at step 8."""

        every = 2

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, recipe: af.Recipe, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
            self.calls += 1
            return {"own": abs(self.calls * 2 - 8) + 0.5}

    keep = af.CheckpointRetention(last=2, every=6, best="own")
    af.Trainer(recipe(), out=tmp_path / "run", checkpoint_every=2, keep=keep, evaluation=Counting()).fit()
    saved = [int(place.name[5:]) for place in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert saved == [6, 8, 12, 18, 20]
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step-00000008" / "manifest.json").read_text())
    assert manifest["values"] == {"own": 0.5}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/own"] for row in rows if "eval/own" in row][3] == 0.5
    with pytest.raises(af.UserError, match="last >= 1"):
        af.CheckpointRetention(last=0)


@pytest.mark.parametrize(("value", "best"), [("pixel-recall_1", 6), ("pixel-fd_1", 4), ("own", 4)])
def test_the_best_is_the_largest_where_more_is_better(value: str, best: int, tmp_path: Path) -> None:
    class Falling(Measurement):
        """0.9, 0.1, 0.95, 0.5 at steps 2, 4, 6, 8."""

        every = 2

        def __init__(self) -> None:
            self.values = iter([0.9, 0.1, 0.95, 0.5])

        def higher(self, name: str) -> bool:
            return "recall" in name

        def __call__(self, recipe: af.Recipe, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
            return {value: next(self.values)}

    keep = af.CheckpointRetention(last=1, best=value)
    made = recipe(steps=8)
    af.Trainer(made, out=tmp_path / "run", checkpoint_every=2, keep=keep, evaluation=Falling()).fit()
    saved = [int(place.name[5:]) for place in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert saved == [best, 8]


def test_measuring_in_the_loop_changes_nothing(tmp_path: Path) -> None:
    """`TrainingEvaluation` gives what `evaluate` gives for the same network, and training continues as without it."""
    settings: dict[str, Any] = {"samplers": (af.ODE(1), af.ODE(2)), "steps": 4}
    plain = af.Trainer(recipe(**settings), out=tmp_path / "plain")
    plain.fit()
    evaluation = af.TrainingEvaluation(2, nfes=(1, 2), count=100, metrics=("pixel-fd", "pixel-pr"))
    measured = af.Trainer(recipe(**settings), out=tmp_path / "run", evaluation=evaluation)
    measured.fit()
    assert torch.equal(flat(plain.model), flat(measured.model))
    run = af.Run(tmp_path / "run", device="cpu")
    result = af.evaluate(run, "digits", nfes=(1, 2), count=100, metrics=("pixel-fd", "pixel-pr"))
    assert result is not None
    assert measured.report.values["pixel-fd_2"] == result.rows[1].values["pixel-fd"]
    assert {"pixel-fd_1", "pixel-precision_1", "pixel-recall_2"} <= measured.report.values.keys()


SIXTY_FOUR = """import alphaflow as af, torch
class Noise(af.IndexedDataset):
    shape, class_names = (3, 64, 64), ()
    def __len__(self): return 60
    def fetch(self, indices, generator=None):
        one = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
        return af.Batch(torch.stack([one.roll(int(i), -1).clamp(-1, 1) for i in indices]))
def recipe(*, steps: int = 2) -> af.Recipe:
    net = af.DiT((3, 64, 64), patch=16, depth=1, width=32, heads=2)
    more = {"dataset": Noise(4, 0), "steps": steps, "samplers": (af.ODE(1),)}
    return af.Recipe(model=net, objective=af.FlowMatching(), **more)
"""


def test_pictures_of_any_size_are_measured_without_a_file(here: Callable[..., Any], tmp_path: Path) -> None:
    """At 64 × 64 the pixel FD is refused, and training measures the FD of random features."""
    (tmp_path / "mine.py").write_text(SIXTY_FOUR)
    run = tmp_path / "run"
    call = ["train", tmp_path / "mine.py", "--out", run, "--evaluate-every", "1", "--keep-last", "1"]
    assert "random-fd_1" in (done := here(*call, "--keep-best", "pixel-fd_1")).err
    assert done.status == 2
    assert not run.exists()
    assert here(*call, "--keep-best", "random-fd_1").status == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/random-fd_1"] > 0 for row in rows if "eval/random-fd_1" in row] == [True, True]


def test_what_cant_be_measured_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    (tmp_path / "empty").mkdir()
    for options, message in [
        ({"metrics": ("fid",)}, r"`metrics=\('random-fd',\)`"), ({"nfes": (3,)}, "no sampler for `nfe=3`"),
        ({"metrics": ("motion",)}, "motion is for clips"), ({"reference": tmp_path / "empty"}, "holds no images"),
        ({"metrics": ("pixel-fd", "is"), "weights": {"inception": "none.pth"}}, "none.pth, don't exist"),
    ]:  # fmt: skip
        evaluation = af.TrainingEvaluation(1, **{"count": 50, **options})
        made = recipe(samplers=(af.Consistency(1),))
        with pytest.raises(af.UserError, match=message):
            af.Trainer(made, out=tmp_path / "run", evaluation=evaluation)
        assert not (tmp_path / "run").exists()


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("Network is unreachable")


def test_measuring_reads_the_data_where_training_does() -> None:
    """By one thread, while nobody reads ahead."""

    class Counted(af.Digits):
        inside, threads = 0, set[int]()

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            assert Counted.inside == 0
            Counted.inside += 1
            time.sleep(0.002)
            Counted.threads.add(threading.get_ident())
            Counted.inside -= 1
            return super().fetch(indices, generator)

    evaluation = af.TrainingEvaluation(2, count=50)
    trainer = af.Trainer(recipe(Counted(batch_size=16), steps=6, samplers=(af.ODE(1),)), evaluation=evaluation)
    trainer.fit()
    assert Counted.threads == {threading.get_ident()}
    weights = flat(trainer.model)
    ahead = af.Trainer(recipe(Counted(batch_size=16), steps=6, samplers=(af.ODE(1),)), evaluation=evaluation)
    ahead.feed.ahead = 2  # as on a GPU
    ahead.fit()
    assert torch.equal(flat(ahead.model), weights)


def test_wrong_inputs(here: Callable[..., Any], tmp_path: Path) -> None:
    """One line on standard error and status 2 each."""
    for words, message in [
        (["train", "digits", "--keep-best", "loss", "--keep-last", "1"], "nothing is; give --evaluate-every"),
        (["train", "digits", "--keep-last", "0"], "--keep-last"),
        (["train", "digits", "--precision", "fp8"], "--precision"),
        (["train", "digits", "--accumulate", "0"], "--accumulate"),
        (["info", "digitz"], "digitz"),
        (["info", "imagenet256", "--data", tmp_path], "train"),
        (["train", "digits", "--resume", "--out", tmp_path / "file"], "is not a run's folder"),
    ]:
        (tmp_path / "file").write_text("x")
        done = here(*words)
        assert done.status == 2, (words, done.out)
        assert message in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1


def test_info_and_dry_run(here: Callable[..., Any], tmp_path: Path) -> None:
    """Parameters, a row for each phase, memory; two steps that leave nothing."""
    small = ["--width", "32", "--depth", "1", "--batch-size", "8", "--steps", "1000"]
    done = here("info", "digits", "--measure", "1", *small)
    assert done.status == 0, done.err
    parameters = sum(p.numel() for p in af.find_recipe("digits")(width=32, depth=1).model.parameters())
    assert f"parameters: {parameters:,}" in done.out
    for words in ("JVP (α = 0)", "flow matching", "hours on this cpu", "memory by batch size", "16: 0."):
        assert words in done.out
    before = set(Path.cwd().iterdir())
    done = here("train", "digits", "--dry-run", *small)
    assert "dry run: two steps on cpu" in done.out
    assert set(Path.cwd().iterdir()) == before


def test_one_process_trains_a_run_at_a_time(tmp_path: Path) -> None:
    """Another one is told who does; a death lets go, and so does the end of a Trainer."""
    af.Trainer(recipe(steps=2), out=tmp_path / "run", checkpoint_every=1).fit()
    gc.collect()
    code = (
        "import pathlib, sys, time; from alphaflow.files import hold; lock = hold(pathlib.Path(sys.argv[1]), 'trained')"
    )
    call = [sys.executable, "-c", f"{code}; print('held', flush=True); time.sleep(60)", str(tmp_path / "run")]
    other = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PATH})
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(af.UserError, match=rf"is being trained by process {other.pid} on .*, since .*; wait for it"):
        af.Trainer(recipe(steps=4), out=tmp_path / "run", resume=True)
    assert af.Run(tmp_path / "run", device="cpu").step == 2  # to look at it is free
    other.kill()
    other.wait()
    trainer = af.Trainer(recipe(steps=4), out=tmp_path / "run", resume=True)
    assert af.Trainer(recipe(steps=4), out=tmp_path / "run", resume=True).step == 2  # the same process may
    trainer.fit()
    assert trainer.step == 4
