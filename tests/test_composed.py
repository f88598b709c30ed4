"""A run that was composed in Python, without a recipe file: sampled, evaluated, diagnosed, continued from run.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alphaflow as af
from alphaflow.describe import describe, rebuild
from alphaflow.diagnosis.diagnose import diagnose
from alphaflow.media.clips import write_mp4
from alphaflow.runs.composed import DATASETS, OBJECTIVES


def recipe(**options: Any) -> af.Recipe:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=16)
    settings: dict[str, Any] = {
        "model": af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10),
        "objective": af.MeanFlow(times=af.TimePairs(af.UniformTimes()), guidance=af.Guidance(kappa=0.3)),
        "dataset": digits,
        "samplers": (af.ODE(1), af.Consistency(2)),
        "steps": 4,
        "ema": 0.9,
    }
    return af.Recipe(**{**settings, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("composed") / "run"
    af.Trainer(recipe(), out=place, device="cpu", display=None).fit()
    return place


def test_it_is_opened_evaluated_and_diagnosed(run: Path) -> None:
    """Against the training data, as against the same data by their name; nothing is trusted."""
    opened = af.Run(run, device="cpu")
    assert opened.sample(20).shape == (20, 1, 8, 8)
    how: dict[str, Any] = {"count": 100, "metrics": ("pixel-fd",), "device": "cpu"}
    assert af.evaluate(run, **how).rows[0].values == af.evaluate(run, "digits", **how).rows[0].values
    rebuilt = opened.recipe()
    assert repr(rebuilt.objective) == repr(recipe().objective)
    assert rebuilt.samplers == recipe().samplers
    found = diagnose(run, batches=2, device="cpu")
    assert found.batch_size == 16
    assert np.isfinite(found.conflicts[4].cosine["tfm_tc"])
    assert found.conflicts == diagnose(run, batches=2, device="cpu").conflicts


def test_it_goes_on_and_starts_another(run: Path, tmp_path: Path) -> None:
    af.Trainer(recipe(), out=tmp_path / "other", start=run, device="cpu", display=None).fit()
    summary = af.Trainer(recipe(steps=6), out=run, resume=True, device="cpu", display=None).fit()
    assert (summary.step, summary.checkpoint) == (6, run / "checkpoints" / "step-00000006")


def test_the_command_line_says_where_it_goes_on(run: Path, here: Callable[..., Any]) -> None:
    done = here("train", "digits", "--out", run, "--resume")
    assert done.status == 2
    assert "was composed in Python: continue it there" in done.err


class Own(af.IndexedDataset):
    shape, class_names = (1, 8, 8), tuple("0123456789")

    def __len__(self) -> int:
        return 40

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        return af.Batch(torch.zeros(len(indices), 1, 8, 8), af.Cond(labels=torch.zeros(len(indices), dtype=torch.long)))


@dataclasses.dataclass(frozen=True)
class OwnSampler:
    nfe: int = 1

    def __call__(self, model: Any, noise: torch.Tensor, cond: af.Cond, generator: Any) -> torch.Tensor:
        return noise


def plain_loss(model: Any, x: torch.Tensor, cond: af.Cond, step: int, generator: Any) -> af.Loss:
    return af.FlowMatching()(model, x, cond, step, generator)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """An own dataset and objective don't keep a run from being sampled, or evaluated against a reference."""
    how: dict[str, Any] = {"count": 20, "metrics": ("pixel-fd",), "device": "cpu"}
    parts: dict[str, Any] = {
        "dataset": Own(16, 0), "objective": plain_loss, "teacher": af.MeanFlow(teacher=recipe().model),
    }  # fmt: skip
    for name, part in parts.items():
        changed = {"objective" if name == "teacher" else name: part}
        af.Trainer(recipe(**changed), out=tmp_path / name, device="cpu", display=None).fit()
        assert len(af.Run(tmp_path / name, device="cpu").sample(3)) == 3
        assert af.evaluate(tmp_path / name, "digits", **how).rows
        with pytest.raises(af.UserError, match=f"composed in Python .*{name}"):
            diagnose(tmp_path / name, device="cpu")
    with pytest.raises(af.UserError, match=r"dataset is none of alphaflow's .*`reference=`"):
        af.evaluate(tmp_path / "dataset", **how)
    assert af.evaluate(tmp_path / "objective", **how).rows
    af.Trainer(recipe(samplers=[OwnSampler()]), out=tmp_path / "sampler", device="cpu", display=None).fit()
    with pytest.raises(af.UserError, match="its sampler is none of alphaflow's"):
        af.Run(tmp_path / "sampler", device="cpu")


def test_nothing_that_fetches_or_runs_is_rebuilt(run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    mark = tmp_path / "mark"
    for wrong in (
        {"type": "RemoteShards", "urls": f"pipe:touch {mark}", "description": "x"},
        {"type": "Digits", "batch_size": {"type": "RemoteShards", "urls": f"pipe:touch {mark}", "description": "x"}},
        {"type": "ImageFolder", "path": 5}, {"type": "ImageFolder", "path": str(mark)}, "Digits",
    ):  # fmt: skip
        place = tmp_path / "run"
        place.mkdir(exist_ok=True)
        (place / "run.json").write_text(json.dumps({**record, "dataset": wrong}))
        (place / "checkpoints").symlink_to(run / "checkpoints") if not (place / "checkpoints").exists() else None
        with pytest.raises(af.UserError, match=r"run\.json (names|describes)"):
            diagnose(place, device="cpu")
        assert not mark.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, and clips."""
    place, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for k in range(6):
        folder = place / "images" / f"c{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    (place / "clips").mkdir()
    for k in range(2):
        frames = torch.from_numpy(generator.integers(0, 256, (3, 4, 16, 16), dtype=np.uint8))
        write_mp4(frames, place / "clips" / f"{k}.mp4", 8)
    np.save(place / "x.npy", generator.normal(size=(4, 5)).astype(np.float32))
    np.save(place / "labels.npy", np.array([0, 1, 1, 0]))
    return place


DATA: dict[str, Callable[[], af.Dataset]] = {
    "Arrays": lambda: af.Arrays("x.npy", "labels.npy", class_names=("a", "b"), batch_size=3, vector="x.npy"),
    "Digits": lambda: af.Digits(7, seed=2),
    "PenDigits": lambda: af.PenDigits(7),
    "ImageFolder": lambda: af.ImageFolder("images", size=8, mode="L", batch_size=3, flip=True),
    "VideoFolder": lambda: af.VideoFolder("clips", frames=2, size=8, fps=4.0, batch_size=2),
    "Mixture": lambda: af.Mixture(
        af.VideoFolder("clips", frames=2, size=8), af.ImageFolder("images", size=8), image_share=0.25
    ),
}
"""With paths as they are seen from the folder of files."""


@pytest.mark.parametrize("name", DATA)
def test_datasets_are_rebuilt_from_anywhere(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same samples and the same batches' size, from another directory, in the order of the new seed."""
    monkeypatch.chdir(files)
    torch.manual_seed(5)
    dataset = DATA[name]()
    described, x = json.loads(json.dumps(describe(dataset))), dataset.indexed.all().x  # type: ignore[union-attr]
    monkeypatch.chdir(tmp_path)
    again: Any = rebuild(described, DATASETS)
    assert (again.shape, again.class_names, again.batch_size) == (
        dataset.shape,
        dataset.class_names,
        dataset.batch_size,
    )
    assert torch.equal(again.indexed.all().x, x)
    assert json.loads(json.dumps(describe(again))) == described


def test_shards_are_described(tmp_path: Path) -> None:
    """As the built-in recipe has them, with its clips in a few seconds."""
    made = af.LatentShards(af.moving_digits(tmp_path, digits=4), batch_size=2, kind="clips", draw=True)
    again = rebuild(json.loads(json.dumps(describe(made))), DATASETS)
    assert (again.batch_size, again.draw, len(again)) == (2, True, len(made))
    assert torch.equal(again.all().x, made.all().x)


def families(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("alphaflow."):
            yield each
            yield from families(each)


def test_all_objectives_and_their_parts_are_rebuilt() -> None:
    """Every public class that an objective is, or is made of."""
    public = {name: getattr(af, name) for name in af.__all__}  # loads all of them
    known = {each.__name__ for each in families(af.Objective)} & public.keys()
    for name in ("schedules", "times", "pairs", "weighting", "guidance", "sources"):
        inside = [kind for kind in public.values() if isinstance(kind, type) and kind.__module__ == f"alphaflow.{name}"]
        known |= {kind.__name__ for kind in inside if dataclasses.is_dataclass(kind)}
    assert known - {"CFG"} == OBJECTIVES.keys()
    objectives: list[af.Objective] = [
        af.AlphaFlow(alpha=af.Sigmoid(end=5), fm_share=af.Linear(0, 5), times=af.DyadicPairs(8), clamp=1.0),
        af.ImprovedMeanFlow(guidance=af.GuidanceInputs(), derivative="difference"),
        af.Shortcut(times=af.DyadicPairs(16), ema_target=True, weighting=af.UniformWeighting()),
        af.ConsistencyTraining(intervals=af.DoublingIntervals(end=5)),
        af.FlowMatching(coupling=af.OptimalTransport()),
        *(
            af.SoFlow(),
            af.TerminalVelocity(guidance=af.GuidanceInputs(own=False)),
            af.TransitionModel(),
            af.Lagrangian(),
        ),
        *(af.DecoupledMeanFlow(), af.AlignYourFlow(warmup=3), af.MeanFlow(direction=0.5, balance=True, zero_share=0.1)),
        af.MeanFlow(source=af.FromCondition("image", noise=0.5), times=af.TruncatedLogitNormal(-0.4, 1.0)),
    ]
    for objective in objectives:
        assert rebuild(json.loads(json.dumps(describe(objective))), OBJECTIVES) == objective
