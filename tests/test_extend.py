"""More of a run: --resume --extend with more steps, another rate, batch size or code; what is refused, what is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

import alphaflow as af
from alphaflow.runs.changes import same_code
from alphaflow.runs.folder import RunFolder
from alphaflow.training.display import Display

Here = Callable[..., Any]

RECIPE = '''"""A recipe without a schedule."""
import alphaflow as af

def recipe(
    *, steps: int = 12, lr: float = 0.01, batch_size: int = 16, width: int = 16, decay: float = 0.1, flip: bool = False
) -> af.Recipe:
    digits = af.Digits(batch_size=batch_size)
    model = af.DiT(digits.shape, patch=4, depth=1, width=width, heads=2, classes=10)
    return af.Recipe(
        model=model, objective=af.MeanFlow(fm_share=0.5), dataset=digits, samplers=(af.ODE(1),), steps=steps, lr=lr,
        weight_decay=decay, ema=(0.9, 0.99),
    )
'''
WITH = ("--checkpoint-every", "6", "--sample-every", "0", "--log-every", "6", "--device", "cpu")
LAST, FILES = "checkpoints/step-00000024", ("model", "ema", "ema-0.99", "training")


class Listening(Display):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def called(file: Path, out: Path, *more: str) -> list[Any]:
    return ["train", file, "--out", out, *WITH, *more]


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def rates(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["lr"] for row in rows}


def kept(run: Path) -> dict[str, bytes]:
    """What a run's folder holds, but for the lock."""
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in run.rglob("*")
        if file.is_file() and not file.name.startswith(".trained")
    }


def refused(done: Any, *words: str) -> None:
    assert done.status == 2, done.out
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.py, and a run of it of 12 steps, as the command line leaves it. Not to be changed: copy it."""
    from alphaflow.cli.main import main

    place = tmp_path_factory.mktemp("trained")
    (place / "mine.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["alphaflow", *map(str, called(place / "mine.py", place / "run"))])
        patch.chdir(place)
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return place


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the recipe's file, and of the run."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy" / "mine.py", tmp_path / "copy" / "run"


def test_more_steps_are_those_of_a_run_in_one_go(mine: tuple[Path, Path], here: Here, tmp_path: Path) -> None:
    """Bit for bit: weights, averages, optimiser, randomness, place in the data. Then it is a run of 24 steps."""
    file, run = mine
    before = record(run)
    refused(here(*called(file, run, "--resume", "--steps", "24")), "was started with --steps 12, not 24; add --extend")
    done = here(*called(file, run, "--resume", "--extend", "--steps", "24"))
    assert done.status == 0, done.err
    assert "extended at step 12: --steps 12 → 24\n" in done.out
    assert here(*called(file, tmp_path / "straight", "--steps", "24")).status == 0
    for name in FILES:
        ours, theirs = (load_file(place / LAST / f"{name}.safetensors") for place in (run, tmp_path / "straight"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    plain = [json.loads((place / LAST / "state.json").read_text()) for place in (run, tmp_path / "straight")]
    assert plain[0] == plain[1]

    after = record(run)
    (entry,) = after.pop("extended")
    assert entry.pop("at") >= before["started"]
    assert entry == {"step": 12, "changes": {"steps": [12, 24]}, "recipe": None}
    assert (after["steps"], after["recipe"]["arguments"]["steps"]) == (24, 24)
    straight = record(tmp_path / "straight")
    assert {**after, "started": None} == {**straight, "started": None}
    assert after["started"] == before["started"]

    for more in (("--extend",), ()):  # nothing differs any more
        done = here(*called(file, run, "--resume", "--steps", "24", *more))
        assert (done.status, "extended at" in done.out) == (0, False)
        assert len(record(run)["extended"]) == 1
    refused(here(*called(file, run, "--resume")), "was extended with --steps 24, not 12; add --extend")
    refused(here(*called(file, run, "--resume", "--extend")), "has 24 steps already, more than --steps 12")
    assert here(*called(file, run, "--resume", "--extend", "--steps", "30", "--flip")).status == 0
    assert [entry["step"] for entry in record(run)["extended"]] == [12, 24]
    assert record(run)["extended"][1]["changes"] == {"flip": [False, True], "steps": [24, 30]}


def test_comments_spacing_and_docstrings_are_no_change(mine: tuple[Path, Path], here: Here) -> None:
    file, run = mine
    text = RECIPE.replace("without a schedule", "with words").replace("    digits", "\n    # Digits.\n    digits")
    file.write_text(text.replace("-> af.Recipe:", "-> af.Recipe:\n    'Another word.'\n"))
    before = kept(run)
    for more in ((), ("--extend",)):
        done = here(*called(file, run, "--resume", *more))
        assert done.status == 0, done.err
        assert "@@" not in done.out
    assert {name: before[name] for name in ("run.json", "recipe.py")}.items() <= kept(run).items()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x  =  1  # one\n\n", True),
        ('class A:\n    "doc"\n    x = 1', "class A:\n    x = 1", True),
        ("x = 'a'", 'x = "a"', True),
        ("x = 1", "x = 2", False),
        ("f('a')", "f('b')", False),
        ("x = (", "x = (", True),
        ("x = (", "x = ( ", False),
        ("x = 1", "(" * 100_000, False),
    ],
)
def test_what_counts_as_a_change(one: str, other: str, same: bool) -> None:
    assert same_code(one, other) is same


def test_changed_code_is_shown_and_asked_for(mine: tuple[Path, Path], here: Here) -> None:
    file, run = mine
    file.write_text(RECIPE.replace("fm_share=0.5", "fm_share=0.25"))
    before = kept(run)
    done = here(*called(file, run, "--resume"))
    refused(done, "the recipe mine is not the one", "--extend", f"restore it from {run / 'recipe.py'}", "--out")
    lines = done.out.splitlines()
    assert lines[:2] == ["--- before/recipe.py", "+++ now/recipe.py"]
    changed = [line.partition("objective=")[2] for line in lines[2:] if line.startswith(("-", "+"))]
    assert [words.partition(",")[0] for words in changed] == ["af.MeanFlow(fm_share=0.5)", "af.MeanFlow(fm_share=0.25)"]
    assert kept(run) == before
    done = here(*called(file, run, "--resume", "--extend", "--steps", "14"))
    assert done.status == 0, done.err
    assert "extended at step 12: --steps 12 → 14, the recipe's code (+1 -1 lines)" in done.out
    assert (run / "recipe.py").read_text() == file.read_text()
    (entry,) = record(run)["extended"]
    assert entry["recipe"].splitlines() == lines
    assert record(run)["objective"]["fm_share"] == 0.25
    assert af.Run(run, trust=True, device="cpu").recipe().objective.fm_share == 0.25  # type: ignore[attr-defined]
    assert here(*called(file, run, "--resume", "--steps", "14")).status == 0


def test_modules_beside_the_recipe_are_its_code(here: Here, tmp_path: Path) -> None:
    file, helper, run = tmp_path / "own.py", tmp_path / "helper_of_own.py", tmp_path / "run"
    helper.write_text("SHARE = 0.5\n")
    file.write_text(RECIPE.replace("import alphaflow", "import helper_of_own\nimport alphaflow"))
    call = called(file, run, "--resume", "--steps", "2")
    assert here(*call, "--extend").status == 0  # there is none yet: it begins
    assert "extended" not in record(run)
    helper.write_text("SHARE = 0.5  # a half\n")
    assert here(*call).status == 0
    helper.write_text("SHARE = 0.25\n")
    done = here(*call)
    refused(done, "is not the one", "and modules/")
    assert "--- before/modules/helper_of_own.py" in done.out
    assert "recipe.py" not in done.out
    assert here(*call, "--extend").status == 0
    assert (run / "modules" / "helper_of_own.py").read_text() == helper.read_text()
    file.write_text(RECIPE)
    assert here(*call, "--extend").status == 0
    assert not (run / "modules").exists()
    assert [entry["recipe"].count("--- before/") for entry in record(run)["extended"]] == [1, 2]


def test_another_rate_is_used_and_logged(mine: tuple[Path, Path], here: Here) -> None:
    file, run = mine
    done = here(*called(file, run, "--resume", "--extend", "--steps", "18", "--lr", "0.005"))
    assert done.status == 0, done.err
    assert "extended at step 12: --lr 0.01 → 0.005, --steps 12 → 18" in done.out
    assert rates(run) == {6: 0.01, 12: 0.01, 18: 0.005}
    groups = json.loads((run / "checkpoints" / "step-00000018" / "state.json").read_text())["groups"]
    assert [group["lr"] for group in groups] == [0.005]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", "1"), "was started with --seed 0, not 1; resume with the same options"),
        (("--from", "RUN"), "was started with --from nothing, not"),
        (("--steps", "11"), "has 12 steps already, more than --steps 11"),
        (("--width", "32"), "holds the weights of another network"),
    ],
)
def test_what_extending_cannot_change(
    options: tuple[str, ...], words: str, mine: tuple[Path, Path], trained: Path, here: Here
) -> None:
    """Refused in a line, and nothing in the folder is touched."""
    file, run = mine
    before = kept(run)
    given = [str(trained / "run") if word == "RUN" else word for word in options]
    refused(here(*called(file, run, "--resume", "--extend", *given)), words)
    assert kept(run) == before


def test_another_recipe_is_refused(mine: tuple[Path, Path], here: Here, tmp_path: Path) -> None:
    file, run = mine
    before = kept(run)
    file.write_text(RECIPE + "\ndef other(*, steps: int = 12) -> af.Recipe:\n    return recipe(steps=steps)\n")
    refused(here(*called(Path(f"{file}:other"), run, "--resume", "--extend")), "not other")
    shutil.copy(file, tmp_path / "yours.py")
    refused(here(*called(tmp_path / "yours.py", run, "--resume", "--extend")), "is a run of mine, not of yours")
    refused(here(*called(file, tmp_path / "new", "--extend")), "give --resume")
    refused(here(*called(file, tmp_path / "new", "--extend", "--dry-run")), "give --resume")
    assert not (tmp_path / "new").exists()
    with pytest.raises(af.UserError, match=r"was started from the recipe mine: .*`origin=`"):
        af.Trainer(recipe(), out=run, resume=True, extend=True, display=None)
    with pytest.raises(af.UserError, match=r"`extend=True` .* give `resume=True`"):
        af.Trainer(recipe(), out=tmp_path / "new", extend=True, display=None)
    assert kept(run) == before


@pytest.mark.parametrize("command", ["old", "new"])
def test_a_kill_in_the_midst_of_it(command: str, mine: tuple[Path, Path], here: Here) -> None:
    """run.json is written and recipe.py isn't: either recipe goes on with --extend, and neither without it."""
    file, run = mine
    file.write_text(RECIPE.replace("fm_share=0.5", "fm_share=0.25"))
    call = called(file, run, "--resume", "--steps", "14")
    before = kept(run)
    for place in ("alphaflow.runs.folder.write_json", "alphaflow.runs.folder.RunFolder._keep"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert here(*call, "--extend").status == 130
        changed = {name for name, content in kept(run).items() if content != before.get(name)}
        assert changed == (set() if "write_json" in place else {"run.json"})
    refused(here(*call), "is not the one")
    if command == "old":
        file.write_text(RECIPE)
        refused(here(*call[:-2]), "--steps 14, not 12")
        call = call[:-2]
    done = here(*call, "--extend")
    assert done.status == 0, done.err
    assert (run / "recipe.py").read_text() == file.read_text()
    entries = record(run)["extended"]
    assert [entry["changes"] for entry in entries] == [
        {"steps": [12, 14]}, {"steps": [14, 12]} if command == "old" else {},
    ]  # fmt: skip
    assert ["fm_share=0.25" in (entry["recipe"] or "") for entry in entries] == [True, command == "new"]
    assert here(*call).status == 0


def test_a_run_without_a_checkpoint_begins_again(mine: tuple[Path, Path], here: Here, tmp_path: Path) -> None:
    file, run = mine
    shutil.rmtree(run / "checkpoints")
    call = called(file, run, "--resume", "--extend", "--width", "32", "--steps", "6")
    assert here(*call).status == 0
    assert [(entry["step"], entry["changes"]["width"]) for entry in record(run)["extended"]] == [(0, [16, 32])]
    assert len(af.Run(run, device="cpu").sample(2)) == 2
    damaged = {**record(run), "extended": [{"step": "6"}]}
    (run / "run.json").write_text(json.dumps(damaged))
    refused(here(*call), "extended.step is not what a run records")


def recipe(**options: Any) -> af.Recipe:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=16, seed=1)
    settings: dict[str, Any] = {
        "model": af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2, classes=10),
        "objective": af.AlphaFlow(alpha=af.Constant(0.5), fm_share=0.5),
        "dataset": digits,
        "samplers": (af.ODE(1),),
        "steps": 4,
        "lr": 1e-2,
        "ema": 0.9,
        "weight_decay": 0.1,
    }
    return af.Recipe(**{**settings, **options})


def extended(run: Path, made: af.Recipe, **more: Any) -> tuple[af.Trainer, list[str]]:
    display = Listening()
    options: dict[str, Any] = {"resume": True, "extend": True, "device": "cpu", "sample_every": 0, **more}
    return af.Trainer(made, out=run, display=display, **options), display.lines


@pytest.fixture
def composed(tmp_path: Path) -> Path:
    af.Trainer(recipe(), out=tmp_path / "run", device="cpu", display=None, sample_every=0).fit()
    return tmp_path / "run"


def test_settings_of_a_run_composed_in_python(composed: Path) -> None:
    """Kept by their names in run.json, and used: AdamW's step as its paper has it, with the new numbers."""
    new = recipe(
        steps=8,
        lr=1e-3,
        betas=(0.5, 0.6),
        weight_decay=0.3,
        objective=af.AlphaFlow(alpha=af.Constant(0.25), fm_share=0.5),
    )
    trainer, lines = extended(composed, new)
    (entry,) = record(composed)["extended"]
    assert entry["changes"] == {
        "betas": [[0.9, 0.95], [0.5, 0.6]], "lr": [0.01, 0.001], "weight_decay": [0.1, 0.3], "steps": [4, 8],
        "objective.alpha.value": [0.5, 0.25],
    }  # fmt: skip
    assert next(line for line in lines if "extended" in line).startswith("extended at step 4: `betas=")
    assert record(composed)["steps"] == 8
    assert record(composed)["objective"]["alpha"]["value"] == 0.25

    state, weights = trainer.engine.optimizer.state, list(trainer.model.parameters())
    before = [(w.detach().clone(), state[w]["exp_avg"].clone(), state[w]["exp_avg_sq"].clone()) for w in weights]
    trainer.train_step()
    for weight, (w, m, v) in zip(weights, before, strict=True):
        assert weight.grad is not None
        m = 0.5 * m + 0.5 * weight.grad
        v = 0.6 * v + 0.4 * weight.grad**2
        step = m / (1 - 0.5**5) / ((v / (1 - 0.6**5)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach(), w * (1 - 1e-3 * 0.3) - 1e-3 * step, rtol=1e-5, atol=1e-7)
    assert trainer.step == 5


def test_new_settings_stay_though_the_checkpoint_is_older(composed: Path) -> None:
    """After a kill before the next checkpoint, and after going back to it; then the checkpoint's are taken again."""
    new = recipe(steps=8, weight_decay=0.3)
    decays = lambda trainer: [group["weight_decay"] for group in trainer.engine.optimizer.param_groups]  # noqa: E731
    trainer, _ = extended(composed, new)
    trainer.train_step()
    trainer.load(composed / "checkpoints" / "step-00000004")
    assert decays(trainer) == [0.3]
    del trainer
    again, lines = extended(composed, recipe(steps=8, weight_decay=0.3), extend=False)
    assert (decays(again), again.step, len(record(composed)["extended"])) == ([0.3], 4, 1)
    assert not [line for line in lines if "extended" in line]
    again.fit()
    unasked, _ = extended(composed, recipe(steps=8, weight_decay=0.7), extend=False)
    assert decays(unasked) == [0.3]


def test_an_optimiser_of_ones_own(tmp_path: Path) -> None:
    """Its settings are noticed, though nothing describes the function; another optimiser is refused."""

    def sgd(momentum: float) -> Callable[..., torch.optim.Optimizer]:
        return lambda parameters: torch.optim.SGD(parameters, momentum=momentum)

    run = tmp_path / "run"
    af.Trainer(recipe(optimizer=sgd(0.5)), out=run, device="cpu", display=None, sample_every=0).fit()
    trainer, _ = extended(run, recipe(optimizer=sgd(0.5)))
    assert "extended" not in record(run)
    del trainer
    trainer, _ = extended(run, recipe(optimizer=sgd(0.8), steps=6))
    assert trainer.engine.optimizer.param_groups[0]["momentum"] == 0.8
    changes = record(run)["extended"][0]["changes"]
    assert [group["momentum"] for groups in changes["optimizer.groups"] for group in groups] == [0.5, 0.8]
    trainer.fit()
    del trainer
    before = kept(run)
    with pytest.raises(af.UserError, match="its optimiser is SGD, not AdamW"):
        extended(run, recipe(steps=8))
    with pytest.raises(af.UserError, match=r"keeps no average 'ema-0\.99', only ema"):
        extended(run, recipe(optimizer=sgd(0.8), steps=8, ema=(0.9, 0.99)))
    with pytest.raises(af.UserError, match="`seed=0`, not 3"):
        extended(run, recipe(optimizer=sgd(0.8), steps=8), seed=3)
    assert kept(run) == before


def test_betas_of_an_optimiser_of_ones_own(tmp_path: Path) -> None:
    def adam(*betas: float) -> Callable[..., torch.optim.Optimizer]:
        return lambda parameters: torch.optim.Adam(parameters, betas=betas)

    run = tmp_path / "run"
    af.Trainer(recipe(optimizer=adam(0.9, 0.99)), out=run, device="cpu", display=None, sample_every=0).fit()
    trainer, _ = extended(run, recipe(optimizer=adam(0.5, 0.99)))
    assert trainer.engine.optimizer.param_groups[0]["betas"] == (0.5, 0.99)
    before, now = record(run)["extended"][0]["changes"]["optimizer.groups"]
    assert (before[0]["betas"], now[0]["betas"]) == ([0.9, 0.99], [0.5, 0.99])


def test_a_run_that_says_nothing_of_its_settings(composed: Path) -> None:
    """One of an earlier version."""
    older = {name: value for name, value in record(composed).items() if name != "training"}
    (composed / "run.json").write_text(json.dumps(older))
    trainer, _ = extended(composed, recipe(weight_decay=0.2))
    assert trainer.engine.optimizer.param_groups[0]["weight_decay"] == 0.2
    assert record(composed)["extended"][0]["changes"]["weight_decay"] == [None, 0.2]
    assert record(composed)["training"]["ema"] == 0.9


class Seen(af.IndexedDataset):
    """Remembers which samples were asked for."""

    shape, class_names = (1, 8, 8), tuple("0123456789")

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size, seed=5)
        self.indices: list[int] = []

    def __len__(self) -> int:
        return 40

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        self.indices += indices.tolist()
        x = torch.full((len(indices), 1, 8, 8), 0.1) * torch.from_numpy(indices)[:, None, None, None]
        return af.Batch(x, af.Cond(labels=torch.from_numpy(indices % 10)))


def test_another_batch_size_goes_on_in_the_same_order(tmp_path: Path) -> None:
    """At the very next sample: together the samples are those of one stream, in its order."""
    run, first, second = tmp_path / "run", Seen(6), Seen(16)
    for data in (first, second):
        _ = data.condition_forms
        data.indices.clear()
    af.Trainer(recipe(dataset=first), out=run, device="cpu", display=None, sample_every=0).fit()
    trainer, _ = extended(run, recipe(dataset=second, steps=8))
    trainer.fit()
    stream = iter(straight := Seen(8))
    for _ in range((4 * 6 + 4 * 16) // 8):
        next(stream)
    assert first.indices + second.indices == straight.indices
    state = json.loads((run / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert (state["dataset"]["epoch"], state["dataset"]["position"]) == (2, 8)
    with pytest.raises(af.UserError, match="can't go on with this data: the data has 1797 samples, but had 40"):
        extended(run, recipe(steps=10))
    assert len(record(run)["extended"]) == 1


def test_another_batch_size_by_the_command_line(mine: tuple[Path, Path], here: Here) -> None:
    file, run = mine
    done = here(*called(file, run, "--resume", "--extend", "--batch-size", "24", "--steps", "14"))
    assert done.status == 0, done.err
    state = json.loads((run / "checkpoints" / "step-00000014" / "state.json").read_text())["dataset"]
    assert (state["epoch"], state["position"]) == (0, 12 * 16 + 2 * 24)
    assert record(run)["dataset"]["batch_size"] == 24


def loaded(batch_size: int, n: int = 20) -> Any:
    x = torch.arange(float(n))[:, None, None, None].expand(n, 1, 8, 8)
    data = DataLoader(TensorDataset(x, torch.arange(n) % 10), batch_size=batch_size, shuffle=True)
    return af.FromTorch(data, classes=10, seed=3)


def read(data: Any, count: int) -> list[float]:
    stream: Iterator[af.Batch] = iter(data)
    return [value for _ in range(count) for value in next(stream).x[:, 0, 0, 0].tolist()]


def test_another_batch_size_of_a_loader_begins_a_new_epoch(tmp_path: Path) -> None:
    """Its second one, of all samples in another order, whatever was left of the first."""
    run = tmp_path / "run"
    af.Trainer(recipe(dataset=loaded(4), steps=3), out=run, device="cpu", display=None, sample_every=0).fit()
    trainer, _ = extended(run, recipe(dataset=loaded(5), steps=6))
    assert trainer.feed.state_dict()["epoch"] == 1
    trainer.fit()
    straight = loaded(5)
    epochs = [read(straight, 4) for _ in range(2)]
    assert epochs[0] != epochs[1]
    again = loaded(5)
    saved = json.loads((run / "checkpoints" / "step-00000003" / "state.json").read_text())["dataset"]
    again.load_state_dict(saved)
    assert read(again, 4) == epochs[1]
    with pytest.raises(ValueError, match="the data has 6 batches, but had 5"):
        loaded(4, n=24).load_state_dict(saved)
    older = {name: value for name, value in saved.items() if name not in ("samples", "batch_size")}
    again.load_state_dict({**older, "length": 4})
    assert again.state_dict()["epoch"] == 0


def test_another_batch_size_of_a_stream_begins_a_new_epoch(small_shards: Path) -> None:
    remote = [af.RemoteShards([], small_shards / "dataset.json", batch_size=size, seed=1) for size in (4, 4, 6)]
    remote[0].epoch = 2
    for data, epoch in zip(remote[1:], (2, 3), strict=True):
        data.load_state_dict(remote[0].state_dict())
        assert data.epoch == epoch
    remote[1].share(0, 2)  # as large together
    remote[1].load_state_dict(remote[0].state_dict())
    assert remote[1].epoch == 2


@pytest.fixture
def small_shards(tmp_path: Path) -> Path:
    from alphaflow.data_tools.decode import ImageTransform
    from alphaflow.data_tools.encode import encode
    from alphaflow.data_tools.plan import EncodeOptions

    from alphaflow.autoencoders.pixels import Pixels
    from alphaflow.data.listing.entry import Entry
    from alphaflow.data.listing.listing import Listing

    class Grey(ImageTransform):
        def __call__(self, entry: Entry, variant: int) -> Any:
            return np.full((4, 4, 3), 100, np.uint8), {"source": entry.name}

    listing = Listing(Path("grey"), "images", [Entry(str(i), "", 0) for i in range(4)], ["a"])
    encode(listing, tmp_path / "shards", Pixels(), Grey(4), EncodeOptions(batch_size=4, workers=0))
    return tmp_path / "shards"


def test_the_folder_of_a_run_in_python_keeps_its_origin(composed: Path) -> None:
    """What it was started with, and where: only what was changed is other."""
    before = record(composed)
    extended(composed, recipe(steps=6))
    after = record(composed)
    assert after["recipe"] == before["recipe"]
    assert {name for name in after if after[name] != before.get(name)} == {"steps", "extended"}
    assert not (composed / "recipe.py").exists()
    assert RunFolder(composed).extended_at() == 4
    assert dataclasses.asdict(RunFolder(composed).origin())["name"] == "python"
