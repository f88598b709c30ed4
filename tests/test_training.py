"""The Trainer: exact resume, the EMA, checkpoints that were cut short, run folders, logs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alphaflow as af
from alphaflow.autoencoders.opening import AUTOENCODERS
from alphaflow.describe import describe, rebuild
from alphaflow.runs.checkpoint import damage, seal
from alphaflow.runs.folder import RunFolder, step_of
from alphaflow.runs.rebuilding import NETWORKS
from alphaflow.samplers import SAMPLERS
from alphaflow.training.display import Display, PlainDisplay
from alphaflow.training.metrics_log import MetricsLog
from alphaflow.training.saving import CheckpointRetention
from alphaflow.training.stopping import Stop


def recipe(steps: int = 12, **options: Any) -> af.Recipe:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=16, seed=1)
    settings: dict[str, Any] = {
        "model": af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2, classes=10),
        "objective": af.AlphaFlow(
            alpha=af.Linear(0, steps), fm_share=0.5, guidance=af.Guidance(kappa=0.3, label_drop=0.3)
        ),
        "dataset": digits,
        "samplers": (af.ODE(1), af.Consistency(2)),
        "steps": steps,
        "lr": af.Linear(0, steps, first=1e-2, last=1e-3),
        "ema": 0.9,
    }
    return af.Recipe(**{**settings, **options})


class Listening(Display):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def weights(place: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file}/{name}": tensor
        for file in ("model", "ema")
        for name, tensor in load_file(place / f"{file}.safetensors").items()
    }


def training_state(place: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(place / "training.safetensors")
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_resumed_run_equals_the_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    """Bit for bit: weights, EMA, randomness, place in the data. α goes through all three branches."""
    af.Trainer(recipe(), out=tmp_path / "straight", checkpoint_every=4, log_every=2).fit()

    broken = af.Trainer(recipe(), out=tmp_path / "resumed", checkpoint_every=4, log_every=2)
    for _ in range(stop):
        broken.train_step()
    if stop >= 4:  # what fit() would have saved by now
        broken = af.Trainer(recipe(), out=tmp_path / "resumed2", checkpoint_every=4, log_every=2)
        while broken.step < stop:
            broken.train_step()
            if broken.step % 4 == 0:
                broken.save()
        shutil.rmtree(tmp_path / "resumed")
        (tmp_path / "resumed2").rename(tmp_path / "resumed")
    again = af.Trainer(recipe(), out=tmp_path / "resumed", checkpoint_every=4, log_every=2, resume=True)
    assert again.step == stop // 4 * 4
    again.fit()

    last = "checkpoints/step-00000012"
    assert same(weights(tmp_path / "straight" / last), weights(tmp_path / "resumed" / last))
    state, other = (training_state(tmp_path / run / last) for run in ("straight", "resumed"))
    assert same(state, other)
    assert {"random.generator.0", "random.torch.0", "optimizer.final.out.weight.exp_avg_sq"} <= state.keys()
    plain = [(tmp_path / run / last / "state.json").read_text() for run in ("straight", "resumed")]
    assert plain[0] == plain[1]


def test_same_seed_same_bits_and_other_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        af.Trainer(recipe(4), out=tmp_path / name, seed=seed).fit()
    a, b, c = (weights(tmp_path / name / "checkpoints" / "step-00000004") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_a_step_is_the_bare_loop() -> None:
    """The Trainer's weights equal those of a loop written out by hand."""
    trained = af.Trainer(recipe(6, clip=0.5), seed=3)
    for _ in range(6):
        trained.train_step()
    by_hand = recipe(6, clip=0.5)
    optimizer = torch.optim.Adam(by_hand.model.parameters(), betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(3)
    stream = iter(by_hand.dataset)
    average = [p.detach().clone() for p in by_hand.model.parameters()]
    for step in range(6):
        batch = next(stream)
        loss = by_hand.objective(by_hand.model, batch.x, batch.cond, step, generator)
        optimizer.param_groups[0]["lr"] = 1e-2 + (1e-3 - 1e-2) * step / 6
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), 0.5)
        optimizer.step()
        decay = min(0.9, 0.5 ** (20 / step)) if step else 0.0
        average = [
            decay * a + (1 - decay) * p.detach() for a, p in zip(average, by_hand.model.parameters(), strict=True)
        ]
    for ours, theirs in zip(trained.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(trained.ema.model.parameters(), average, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_own_optimizer() -> None:
    made = recipe(2, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0, momentum=0.9))
    trainer = af.Trainer(made)
    trainer.fit()
    assert isinstance(trainer.engine.optimizer, torch.optim.SGD)
    assert trainer.engine.optimizer.param_groups[0]["lr"] == pytest.approx(5.5e-3)


def test_run_folder(tmp_path: Path) -> None:
    af.Trainer(recipe(), out=tmp_path / "run", sample_every=6, checkpoint_every=6, log_every=3).fit()
    found = {str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*") if file.is_file()}
    events = {name for name in found if name.startswith("events.")}
    parts = ("model.safetensors", "ema.safetensors", "training.safetensors", "state.json", "manifest.json")
    steps = ("step-00000006", "step-00000012")
    expected = {f"checkpoints/{step}/{part}" for step in steps for part in parts}
    expected |= {f"samples/{step}.png" for step in steps} | {"run.json", "metrics.jsonl"}
    expected |= {".trained.lock", ".trained.json"}
    assert found - events == expected
    assert len(events) == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert {"loss", "mse", "tfm", "tc", "alpha", "fm_share", "lr", "steps_per_second", "seconds"} <= rows[0].keys()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["steps"] == 12
    assert record["data"]["classes"] == 10
    assert record["versions"]["torch"] == torch.__version__


def test_log_rows_hold_means(tmp_path: Path) -> None:
    trainer = af.Trainer(recipe(4), out=tmp_path / "run", log_every=4)
    trainer.fit()
    twin = af.Trainer(recipe(4))
    losses = [twin.train_step() for _ in range(4)]
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["loss"] == pytest.approx(sum(loss.total.item() for loss in losses) / 4, rel=1e-6)
    assert row["tfm"] == pytest.approx(sum(loss.terms["tfm"].mean().item() for loss in losses) / 4, rel=1e-6)


def test_the_share_that_is_logged_is_the_true_one(tmp_path: Path) -> None:
    objective = af.TrajectoryFlowMatching(fm_share=0.3)
    af.Trainer(recipe(2, objective=objective), out=tmp_path / "run", log_every=1).fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["fm_share"] for row in rows] == [4 / 16, 4 / 16]


def test_metrics_log_drops_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 6, "lo')
    log = MetricsLog(file, keep_until=3)
    log.write({"step": 4, "loss": 0.25})
    log.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 2, "loss": 1.0},
        {"step": 4, "loss": 0.25},
    ]


def test_tensorboard_holds_the_same(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    af.Trainer(recipe(), out=tmp_path / "run", log_every=6).fit()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])


def test_ema_formula() -> None:
    model = torch.nn.Linear(2, 1)
    average = af.EMA(model, 0.5)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1.0
    average.update()  # the first one forgets the start
    assert torch.equal(average.model.weight, start + 1)
    for _ in range(20):
        average.update()
    before = average.model.weight.clone()
    with torch.no_grad():
        model.weight += 1.0
    average.update()
    assert torch.allclose(average.model.weight, 0.5 * before + 0.5 * model.weight)
    assert not average.model.weight.requires_grad
    with pytest.raises(ValueError, match="decay"):
        af.EMA(model, 1.0)


@pytest.mark.parametrize("part", ["model.safetensors", "ema.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "bit", "gone"])
def test_a_damaged_checkpoint_is_passed_over(part: str, harm: str, tmp_path: Path) -> None:
    """It is found by the manifest; the one before it is used, with a line; without one, that is said."""
    af.Trainer(recipe(4), out=tmp_path / "run", checkpoint_every=2).fit()
    file = tmp_path / "run" / "checkpoints" / "step-00000004" / part
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    harmed = {"cut": bytes(data[:-1]), "bit": bytes(data)}
    file.write_bytes(harmed[harm]) if harm in harmed else file.unlink()
    said = Listening()
    resumed = af.Trainer(recipe(4), out=tmp_path / "run", resume=True, display=said)
    assert resumed.step == 2
    word = {"cut": "cut short", "bit": "damaged", "gone": "missing"}[harm]
    assert f"step-00000004 is damaged ({part} is {word}); the one before it is used" in said.lines[0]
    assert [place.name[:21] for place in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step-00000002", "step-00000004.damaged"]  # fmt: skip
    (tmp_path / "run" / "checkpoints" / "step-00000002" / "manifest.json").unlink()
    with pytest.raises(af.UserError, match=r"no checkpoint in .* is whole"):
        af.Trainer(recipe(4), out=tmp_path / "run", resume=True)


def test_weights_of_another_network(tmp_path: Path) -> None:
    af.Trainer(recipe(2), out=tmp_path / "run").fit()
    other = recipe(2, model=af.DiT((1, 8, 8), patch=4, depth=2, width=16, heads=2, classes=10))
    with pytest.raises(af.UserError, match="another network"):
        af.Trainer(other, out=tmp_path / "run", resume=True)


def test_occupied_folders_are_left_alone(tmp_path: Path) -> None:
    af.Trainer(recipe(2), out=tmp_path / "run").fit()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(af.UserError, match="already holds a run; continue it with `resume=True`"):
        af.Trainer(recipe(2), out=tmp_path / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("precious")
    with pytest.raises(af.UserError, match="not a run's folder"):
        af.Trainer(recipe(2), out=tmp_path / "thesis")
    (tmp_path / "thesis" / "draft.txt").unlink()
    af.Trainer(recipe(2), out=tmp_path / "thesis")  # an empty folder is fine
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    trainer = af.Trainer(recipe(50, lr=1e30), out=tmp_path / "run", log_every=5)
    with pytest.raises(
        af.UserError, match=r"3 bad batches in a row: the .* is (nan|inf) at step .*the worst sample has r = "
    ):
        trainer.fit()
    assert not (tmp_path / "run" / "checkpoints").exists()


class Own(torch.nn.Module):
    """A network of a user's own."""

    def forward(self, z: torch.Tensor, r: torch.Tensor, t: torch.Tensor, cond: af.Cond) -> torch.Tensor:
        return z


def test_describe_and_rebuild() -> None:
    for thing, kinds in (
        (af.DiT((1, 8, 8), patch=(4, 2), depth=1, width=16, heads=2), NETWORKS),
        (af.ODE(times=(1.0, 0.55, 0.0), cfg=af.CFG(2.0, (0.1, 0.5))), SAMPLERS),
        (af.Normalised(af.Pixels(1), (0.5,), (2.0,)), AUTOENCODERS),
    ):
        described = json.loads(json.dumps(describe(thing)))
        assert repr(rebuild(described, kinds)) == repr(thing)
    assert describe(af.MeanFlow(guidance=af.Guidance(kappa=0.5)))["guidance"]["kappa"] == 0.5
    with pytest.raises(TypeError, match="Own is not one of alphaflow's"):
        describe(Own())
    for wrong in (
        {"type": "os.system", "command": "true"}, {"type": "UserError2"}, {"type": "ODE", "steps": 0}, [1], "x",
        {"type": "Run", "path": "/"}, {"type": "DiT", "shape": [1, 8, 8]}, {"type": "ODE", "steps": 10**9},
        {"type": "ODE", "steps": 1, "cfg": {"type": "Run", "path": "/"}},
    ):  # fmt: skip
        with pytest.raises(af.UserError, match=r"run\.json"):
            rebuild(wrong, SAMPLERS)


class Sharing(torch.nn.Module):
    """Dropout, tied weights, and a weight that isn't contiguous: what real networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.other = torch.nn.Parameter(torch.randn(64, 32).T * 0.1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, z: torch.Tensor, r: torch.Tensor, t: torch.Tensor, cond: af.Cond) -> torch.Tensor:
        hidden = self.dropout(torch.tanh(self.first(z.flatten(1))))
        return (self.second(hidden) + (hidden @ self.other.T) @ self.other).view_as(z)


def test_networks_with_dropout_and_tied_weights_resume_exactly(tmp_path: Path) -> None:
    def made() -> af.Recipe:
        digits = af.Digits(batch_size=16, seed=1)
        torch.manual_seed(4)
        return recipe(6, model=Sharing(), dataset=digits, objective=af.TrajectoryFlowMatching())

    af.Trainer(made(), out=tmp_path / "straight", checkpoint_every=2).fit()
    broken = af.Trainer(made(), out=tmp_path / "resumed", checkpoint_every=2)
    broken.model.train()
    broken.train_step()
    broken.train_step()
    broken.save()
    torch.manual_seed(99)
    af.Trainer(made(), out=tmp_path / "resumed", checkpoint_every=2, resume=True).fit()
    last = "checkpoints/step-00000006"
    assert same(weights(tmp_path / "straight" / last), weights(tmp_path / "resumed" / last))


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    af.Trainer(recipe(2), out=tmp_path / "run").fit()
    saved = tmp_path / "run" / "checkpoints"
    gone = [saved / ".step-00000003.writing.tmp", saved / f".step-00000001.{2**22 + 1}-0123abcd.tmp"]
    for leftover in gone:
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
    (saved / "step-00000009.bak").mkdir()
    kept = [tmp_path / "run" / ".mine.tmp", tmp_path / "run" / "notes" / ".a.writing.tmp"]
    kept += [tmp_path / "run" / f".other.{os.getppid()}-0123abcd.tmp"]  # of a process that is there
    kept[1].parent.mkdir()
    for file in kept:
        file.write_text("precious")
    whole = saved / "step-00000002"
    whole.rename(saved / f".step-00000002.{2**22 + 1}-0123abcd.old.tmp")  # about to be replaced
    assert af.Trainer(recipe(2), out=tmp_path / "run", resume=True).step == 2
    assert whole.is_dir()
    assert not any(leftover.exists() for leftover in gone)
    assert [file.read_text() for file in kept] == ["precious"] * 3


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    af.Trainer(recipe(2), out=tmp_path / "run", checkpoint_every=2).fit()
    saved = tmp_path / "run" / "checkpoints"
    for step in (99_999_999, 100_000_000):
        shutil.copytree(saved / "step-00000002", saved / f"step-{step}")
    folder = RunFolder(tmp_path / "run")
    assert [step_of(place) for place in folder.checkpoints()] == [2, 99_999_999, 100_000_000]
    assert folder.last_checkpoint().name == "step-100000000"
    CheckpointRetention(last=1).remove_from(folder)
    assert [step_of(place) for place in folder.checkpoints()] == [100_000_000]


def test_a_removal_that_is_killed_leaves_nothing_that_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    af.Trainer(recipe(4), out=tmp_path / "run", checkpoint_every=2).fit()
    folder = RunFolder(tmp_path / "run")

    def killed(path: Path) -> None:
        (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("alphaflow.files.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        CheckpointRetention(last=1).remove_from(folder)
    monkeypatch.undo()
    assert [step_of(place) for place in folder.checkpoints()] == [4]
    folder.sweep()
    assert [place.name for place in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_manifest_without_files_is_not_whole(tmp_path: Path) -> None:
    af.Trainer(recipe(2), out=tmp_path / "run").fit()
    place = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert not damage(place)
    (place / "manifest.json").write_text('{"step": 2, "values": {}, "files": {}}')
    assert "manifest.json is missing or damaged" in damage(place)


def test_fit_goes_on_after_a_signal(tmp_path: Path) -> None:
    """In one process: a signal ends `fit`, the next call trains to the end. A closed terminal is such a signal."""

    class Closing(Display):
        def advance(self) -> None:
            if trainer.step == 2:
                os.kill(os.getpid(), signal.SIGHUP)

    trainer = af.Trainer(recipe(5), out=tmp_path / "run", display=Closing())
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    try:
        trainer.fit()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (trainer.stopped, trainer.stop.signal, trainer.step) == (True, signal.SIGHUP, 3)
    trainer.fit()
    assert (trainer.stopped, trainer.step) == (False, 5)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_fails_in_showing_ends_no_run(tmp_path: Path) -> None:
    """Pictures, measurements, lines and bars that raise; metrics.jsonl removed. The checkpoint is there first."""

    class Broken(Display):
        def row(self, row: Any) -> None:
            raise UnicodeEncodeError("latin-1", "α", 0, 1, "no such character")

        def advance(self) -> None:
            raise BrokenPipeError

        def say(self, message: str) -> None:
            said.append(message)
            raise OSError(28, "No space left on device")

    class Measuring:
        every = 2

        def __call__(self, recipe: Any, model: Any, device: Any) -> dict[str, float]:
            if trainer.step == 2:
                (tmp_path / "run" / "metrics.jsonl").unlink()
            raise ZeroDivisionError("of an evaluation")

    said: list[str] = []
    made = recipe(4, samplers=(Failing(),))
    trainer = af.Trainer(
        made, out=tmp_path / "run", display=Broken(), evaluation=Measuring(), sample_every=2, log_every=1
    )
    trainer.fit()
    assert trainer.step == 4
    assert any("no picture at step 2: KeyError: 'of a picture'" in line for line in said)
    assert any("nothing measured at step 4: ZeroDivisionError" in line for line in said)
    assert not damage(tmp_path / "run" / "checkpoints" / "step-00000004")
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 4]  # after the file was removed


class Failing:
    """A sampler that can't draw."""

    nfe = 1

    def __call__(self, *_: Any) -> Any:
        raise KeyError("of a picture")


def test_the_checkpoint_is_written_before_its_picture(tmp_path: Path) -> None:
    class Dying(Failing):
        def __call__(self, *_: Any) -> Any:
            raise SystemExit("killed while drawing")

    with pytest.raises(SystemExit):
        af.Trainer(recipe(2, samplers=(Dying(),)), out=tmp_path / "run", sample_every=2).fit()
    assert af.Trainer(recipe(2), out=tmp_path / "run", resume=True).step == 2


def test_a_dataset_does_not_end_training() -> None:
    """One that wants to end the process, with status 0 at that; and one that comes to an end."""

    class Leaving(af.Digits):
        def fetch(self, indices: Any, generator: Any = None) -> Any:
            raise SystemExit(0)

    class Ending(af.Digits):
        def __iter__(self) -> Any:
            yield next(super().__iter__())

    for kind in (Leaving, Ending):
        with pytest.raises(RuntimeError, match=f"{kind.__name__} must go on without end"):
            af.Trainer(recipe(2, dataset=kind(batch_size=16))).fit()


def test_a_run_folder_that_vanished_is_not_done(tmp_path: Path) -> None:
    class Removing(Display):
        def advance(self) -> None:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(af.UserError, match=r"lost its run\.json"):
        af.Trainer(recipe(2), out=tmp_path / "run", display=Removing()).fit()


def test_lines_go_on_after_a_rollback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Training went back: a row's seconds begin anew, the clock does not."""
    now = iter([0.0, 11.0, 22.0])
    monkeypatch.setattr("alphaflow.progress.time.monotonic", lambda: next(now))
    lines = PlainDisplay(10.0)
    lines.start(0, 100)
    for step, seconds in ((10, 50.0), (5, 0.5), (8, 1.0)):
        lines.row({"step": step, "seconds": seconds, "steps_per_second": 1.0})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["10/100", "5/100", "8/100"]


class Inverted(af.Autoencoder):
    """An autoencoder of a user's own."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return -pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(latents)

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (1, size, size)


def test_own_autoencoder_is_never_replaced_silently(tmp_path: Path) -> None:
    af.Trainer(recipe(2, autoencoder=Inverted()), out=tmp_path / "run").fit()
    with pytest.raises(af.UserError, match=r"has no recipe\.py"):
        af.Run(tmp_path / "run", device="cpu")


def test_latents_without_an_autoencoder_train_without_pictures(tmp_path: Path) -> None:
    class Latents(af.IndexedDataset):
        shape, class_names = (4, 8, 8), ()  # type: ignore[assignment]

        def __len__(self) -> int:
            return 20

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            return af.Batch(torch.ones(len(indices), 4, 8, 8))

    model = af.DiT((4, 8, 8), patch=4, depth=1, width=16, heads=2)
    af.Trainer(recipe(2, model=model, dataset=Latents(4, seed=0)), out=tmp_path / "run").fit()
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
    assert not (tmp_path / "run" / "samples").exists()


def test_an_objective_that_is_a_plain_function(tmp_path: Path) -> None:
    def objective(model: Any, x: Any, cond: Any, step: int, generator: Any) -> af.Loss:
        t = torch.rand(len(x), generator=generator)
        errors = (model(x, t, t, cond) - x).square().flatten(1).mean(1)
        return af.Loss(errors.mean(), errors, {"own": errors.detach()})

    af.Trainer(recipe(2, objective=objective), out=tmp_path / "run").fit()
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["own"] == pytest.approx(row["loss"])


def test_labels_that_the_data_cannot_have(tmp_path: Path) -> None:
    class Shifted(af.Digits):
        """Labelled 1 to 10."""

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            batch = super().fetch(indices, generator)
            return af.Batch(batch.x, af.Cond(labels=batch.cond.labels + 1))  # type: ignore[operator]

    with pytest.raises(af.UserError, match=r"Shifted: label 10 of sample \d+ is out of range: labels are 0 to 9"):
        af.Trainer(recipe(20, dataset=Shifted(batch_size=64))).fit()
    with pytest.raises(af.UserError, match="the network has 3 classes and the data 10"):
        recipe(2, model=af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=3))


def test_wrong_recipes() -> None:
    with pytest.raises(af.UserError, match="at least 1 step"):
        dataclasses.replace(recipe(2), steps=0)
    with pytest.raises(
        af.UserError, match=r"ODE\(steps=2\) and Consistency\(steps=2\) both take 2 network evaluations"
    ):
        recipe(2, samplers=[af.ODE(2), af.Consistency(2)])
    wrong: list[tuple[str, Any, str]] = [
        ("ema", 1.0, "EMA decay"), ("ema", None, "EMA decay"), ("ema", "0.9", "EMA decay"), ("ema", (), "EMA decay"),
        ("lr", "1e-4", "learning rate is a finite number"), ("lr", float("inf"), "finite number"),
        ("lr", lambda step: float("nan"), "not be negative, nor infinite"), ("lr", -1.0, "not be negative"),
        ("clip", 0.0, "clip is a positive norm"), ("clip", -1, "clip"), ("clip", float("nan"), "clip"),
        ("clip", "1", "clip"),
        ("samplers", {1: af.ODE(1), 2: af.Consistency(2)}, r"samplers=\(af.ODE\(.*Consistency\(steps=2\),\)"),
        ("samplers", af.ODE(1), "samplers are a sequence"), ("samplers", [1], "knows its number"),
        ("steps", 1.5, "whole number"),
        ("optimizer", torch.optim.SGD([torch.zeros(1)], lr=1.0), "optimizer is a function"),
        ("precision", "fp8", "fp32 or bf16"),
    ]  # fmt: skip
    for name, value, message in wrong:
        with pytest.raises(af.UserError, match=message):
            recipe(**{"steps": 2, name: value})
    assert list(recipe(2, samplers=[af.ODE(4), af.ODE(1)]).samplers_by_nfe) == [1, 4]
    assert recipe(2, ema=(0.9, af.PowerLaw(0.1)), clip=1, lr=af.Constant(1e-3)).clip == 1
    with pytest.raises(af.UserError, match="checkpoint_every must be at least 1"):
        af.Trainer(recipe(2), checkpoint_every=0)
    with pytest.raises(af.UserError, match="no device 'warp'"):
        af.Trainer(recipe(2), device="warp")


def test_the_bar_keeps_its_steps_and_time_beside_long_figures() -> None:
    """On a terminal of 80 columns: the bar's line whole, the figures wrapped below it."""
    import io

    from rich.console import Console

    from alphaflow.training.display import BarDisplay

    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    row = {"step": 50, "steps_per_second": 12.3, "samples_per_second": 1574.4, "loss": 0.5, "mse": 0.6, "alpha": 0.25,
           "fm_share": 0.25, "lr": 1e-4, "grad_norm": 1.5, "data_wait": 0.02, "memory_gib": 1.5}  # fmt: skip
    with BarDisplay(console) as bar:
        bar.start(0, 100)
        bar.advance()
        bar.row(row)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    last = shown.split("training")[-1]
    assert "1/100" in last
    for part in ("12.3 steps/s", "1574 samples/s", "α 0.250", "|g| 1.50", "data 2%", "1.5 GiB"):
        assert part in last.replace("\n", " ")


def test_a_resume_says_what_is_no_longer_as_it_was(tmp_path: Path) -> None:
    """Parts of a batch, precision, threads, versions: whatever the last bits of weights depend on."""
    af.Trainer(recipe(4), out=tmp_path / "run", checkpoint_every=2).fit()
    for step in (2, 4):
        state = tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "state.json"
        found = json.loads(state.read_text())
        found["made_with"]["numpy"] = "1.0"
        if step == 2:
            state.write_text(json.dumps(found))
            (state.parent / "manifest.json").unlink()
            seal(state.parent, step, {})
    shutil.rmtree(state.parent)
    said = Listening()
    again = af.Trainer(recipe(4), out=tmp_path / "run", resume=True, setup=af.MachineSetup(accumulate=2), display=said)
    (line,) = [line for line in said.lines if "may differ" in line]
    assert "accumulate 2 (was 1)" in line
    assert "numpy " in line
    assert "(was 1.0)" in line
    assert "torch" not in line
    again.fit()
    said.lines.clear()
    af.Trainer(recipe(4), out=tmp_path / "run", resume=True, setup=af.MachineSetup(accumulate=2), display=said)
    assert not [line for line in said.lines if "may differ" in line]


def test_a_picture_that_a_kill_prevented_is_drawn(tmp_path: Path) -> None:
    """Between a checkpoint and its picture: at the end, and on the way."""
    straight = af.Trainer(recipe(8), out=tmp_path / "run", checkpoint_every=2, sample_every=4)
    straight.fit()
    pictures = [tmp_path / "run" / "samples" / f"step-{step:08d}.png" for step in (4, 8)]
    pixels = [picture.read_bytes() for picture in pictures]
    pictures[1].unlink()
    af.Trainer(recipe(8), out=tmp_path / "run", checkpoint_every=2, sample_every=4, resume=True).fit()
    for step in (6, 8):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    for picture in pictures:
        picture.unlink(missing_ok=True)
    af.Trainer(recipe(8), out=tmp_path / "run", checkpoint_every=2, sample_every=4, resume=True).fit()
    assert [picture.read_bytes() for picture in pictures] == pixels


def test_fit_says_what_it_came_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last row, what was measured, and where things are; plain lines are shown unless nothing is wanted."""

    def measured(recipe: af.Recipe, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {"norm": 2.5}

    measured.every = 4  # type: ignore[attr-defined]
    run = tmp_path / "run"
    trainer = af.Trainer(recipe(), out=run, log_every=5, checkpoint_every=6, sample_every=6, evaluation=measured)
    summary = trainer.fit()
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "eval/norm" not in line][
        -1
    ]
    assert (summary.step, summary.steps, summary.stopped) == (12, 12, False)
    assert summary.figures == last
    assert summary.measured == {"norm": 2.5}
    assert (summary.folder, summary.checkpoint) == (run, run / "checkpoints" / "step-00000012")
    assert summary.samples == run / "samples" / "step-00000012.png"
    assert 0 < summary.seconds < 60
    lines = repr(summary).splitlines()
    assert lines[0].startswith("done: 12 of 12 steps in 0:0")
    assert f"loss {last['loss']:.4f}" in lines[1]
    assert lines[2:] == [
        "measured: norm 2.5", f"folder: {run}", f"checkpoint: {summary.checkpoint}", f"samples: {summary.samples}"
    ]  # fmt: skip
    assert "step 12/12  " in capsys.readouterr().out

    quiet = af.Trainer(recipe(), display=None)
    nothing = quiet.fit()
    assert capsys.readouterr().out == ""
    assert (nothing.folder, nothing.checkpoint, nothing.samples) == (None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal is made by pty")
def test_python_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """As the command line does: of a script, in a terminal of its own."""
    import pty

    script = tmp_path / "script.py"
    script.write_text(
        "import alphaflow as af\n"
        "digits = af.Digits(16)\n"
        "model = af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2, classes=10)\n"
        "recipe = af.Recipe(model=model, objective=af.FlowMatching(), dataset=digits, samplers=(), steps=40)\n"
        "af.Trainer(recipe, log_every=20, device='cpu').fit()\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    root = str(Path(af.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=slave, stderr=slave, env={**environment, "PYTHONPATH": root}
    ) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the other end was closed
            while part := os.read(master, 4096):
                shown += part
    os.close(master)
    assert process.returncode == 0, shown
    assert "━" in shown.decode()
    assert "40/40" in shown.decode()
    assert "steps/s" in shown.decode()
