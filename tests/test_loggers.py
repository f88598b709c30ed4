"""Loggers: what they are told and when, what is forgiven, TensorBoard, and the others where they are installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import alphaflow as af
from alphaflow.training.loggers import LOGGERS, flat, loggers_of


def recipe(steps: int = 4) -> af.Recipe:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=16, seed=1)
    model = af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2, classes=10)
    return af.Recipe(model=model, objective=af.MeanFlow(), dataset=digits, samplers=(af.ODE(1),), steps=steps, ema=0.9)


class Notebook(af.Logger):
    """A logger of one's own: keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[af.LoggedRun] = []
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.pictures: list[tuple[int, tuple[int, ...], Path]] = []
        self.closed = 0

    def start(self, run: af.LoggedRun) -> None:
        self.runs.append(run)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, values))

    def picture(self, step: int, images: torch.Tensor, file: Path) -> None:
        assert file.is_file()
        assert images.dtype == torch.uint8
        self.pictures.append((step, tuple(images.shape), file))

    def close(self) -> None:
        self.closed += 1


class Listening(af.Display):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_logger_of_ones_own_gets_what_the_folder_gets(tmp_path: Path) -> None:
    """Rows, what is measured, pictures; the run's name, an id that stays, and run.json; once more on a resume."""

    def measured(recipe: af.Recipe, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {"weight": 1.5}

    measured.every = 2  # type: ignore[attr-defined]
    run, logger = tmp_path / "my run", Notebook()
    more: dict[str, Any] = {"log_every": 2, "sample_every": 4, "display": None, "evaluation": measured}
    af.Trainer(recipe(), out=run, loggers=[logger], **more).fit()
    (first,) = logger.runs
    assert (first.name, first.folder, first.step) == ("my run", run, 0)
    assert re.fullmatch(r"my-run-\d{14}", first.id)
    assert first.description == json.loads((run / "run.json").read_text())
    given = [{"step": step, **values} for step, values in logger.rows]
    assert given == rows_of(run)
    assert [step for step, values in logger.rows if values.get("eval/weight") == 1.5] == [2, 4]
    assert logger.pictures == [(4, (80, 1, 8, 8), run / "samples" / "step-00000004.png")]
    assert logger.closed == 1
    assert not list(run.glob("events*"))  # TensorBoard is there where no loggers are given

    again = Notebook()
    af.Trainer(recipe(6), out=run, loggers=[again], resume=True, **more).fit()
    assert [(each.id, each.step) for each in again.runs] == [(first.id, 4)]
    assert {step for step, _ in again.rows} == {6}
    assert [row["step"] for row in rows_of(run)] == [2, 2, 4, 4, 6, 6]


def test_a_missing_picture_costs_no_row(tmp_path: Path) -> None:
    """A kill came between a checkpoint and its picture: it is drawn when the run goes on, and no row is lost."""
    run, more = tmp_path / "run", {"log_every": 2, "sample_every": 4, "display": None}
    picture = af.Trainer(recipe(), out=run, **more).fit().samples  # type: ignore[arg-type]
    assert picture is not None
    rows = rows_of(run)
    picture.unlink()
    logger = Notebook()
    again = af.Trainer(recipe(), out=run, loggers=[logger], resume=True, **more).fit()  # type: ignore[arg-type]
    assert again.samples == picture
    assert [step for step, *_ in logger.pictures] == [4]
    assert rows_of(run) == rows


def test_a_logger_needs_no_folder() -> None:
    logger = Notebook()
    summary = af.Trainer(recipe(), loggers=[logger], log_every=2, display=None).fit()
    assert [step for step, _ in logger.rows] == [2, 4]
    assert logger.runs[0].folder is None
    assert logger.runs[0].description["model"]["type"] == "DiT"
    assert summary.figures == {"step": 4, **logger.rows[-1][1]}


def test_going_back_starts_loggers_again(tmp_path: Path) -> None:
    """After a rollback rows of the steps that are repeated come again, after a new start that says from where."""

    class Breaking(af.IndexedDataset):
        """Digits, and once three batches that are not finite."""

        shape, class_names = (1, 8, 8), tuple("0123456789")
        bad = 3

        def __init__(self) -> None:
            super().__init__(16, 0)
            self.digits, self.fetched = af.Digits(16), 0

        def __len__(self) -> int:
            return len(self.digits)

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            batch = self.digits.fetch(indices)
            self.fetched += generator is not None  # not what is looked at before training
            return af.Batch(batch.x * float("nan"), batch.cond) if 7 <= self.fetched < 7 + self.bad else batch

    logger, given = Notebook(), recipe(8)
    broken = af.Recipe(model=given.model, objective=given.objective, dataset=Breaking(), samplers=(), steps=8, ema=0.9)
    guard = af.BatchGuard(patience=3)
    more: dict[str, Any] = {"checkpoint_every": 4, "log_every": 1, "display": None, "guard": guard}
    af.Trainer(broken, out=tmp_path / "run", loggers=[logger], **more).fit()
    assert [run.step for run in logger.runs] == [0, 4]
    assert logger.closed == 2
    assert [step for step, _ in logger.rows] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("fails", ["start", "row", "picture", "close"])
def test_a_logger_that_fails_is_told_of_once(fails: str, tmp_path: Path) -> None:
    """And training goes on, as do metrics.jsonl and the other loggers; no start, nothing more."""
    calls: list[str] = []

    class Failing(Notebook):
        pass

    def fail(self: Any, *_: Any) -> None:
        calls.append(fails)
        raise ConnectionError("no route\nto host")

    setattr(Failing, fails, fail)
    failing, fine, heard = Failing(), Notebook(), Listening()
    trainer = af.Trainer(
        recipe(), out=tmp_path / "run", loggers=[failing, fine], log_every=1, sample_every=2, display=heard
    )
    trainer.fit()
    assert heard.lines == ["Failing doesn't take everything (ConnectionError: no route to host); training continues"]
    assert len(calls) == {"start": 1, "row": 4, "picture": 2, "close": 1}[fails]
    assert len(fine.rows) == len(rows_of(tmp_path / "run")) == 4
    assert len(fine.pictures) == 2
    assert bool(failing.rows) == (fails not in ("start", "row"))


def test_tensorboard_is_the_default_and_needs_a_folder(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    af.Trainer(recipe(), out=run, log_every=2, sample_every=4, display=None).fit()
    af.Trainer(recipe(6), out=run, log_every=2, sample_every=4, display=None, resume=True).fit()
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert [event.step for event in events.Images("samples")] == [4, 6]
    heard = Listening()
    af.Trainer(recipe(), loggers=[af.TensorBoard()], log_every=2, display=heard).fit()
    assert len(heard.lines) == 1
    assert "give the Trainer `out=`" in heard.lines[0]


def test_loggers_by_name(here: Callable[..., Any], tmp_path: Path) -> None:
    assert [type(logger) for logger in loggers_of("tensorboard, tensorboard")] == [af.TensorBoard]
    done = here("train", "digits", "--loggers", "tensorbord", "--out", tmp_path / "run")
    assert done.status == 2
    assert done.err.strip().endswith(
        "there is no logger 'tensorbord': choose among tensorboard, wandb, mlflow, trackio"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_its_extra(name: str) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(af.UserError, match=rf"^this needs {name}: pip install 'alphaflow\[{name}\]'$"):
        LOGGERS[name]()


def test_a_description_in_flat_names() -> None:
    described = {"model": {"type": "DiT", "shape": [1, 8, 8]}, "seed": 3, "start": None, "long": "x" * 900}
    assert dict(flat(described)) == {
        "model.type": "DiT", "model.shape": "[1, 8, 8]", "seed": "3", "start": "null", "long": "x" * 500,
    }  # fmt: skip


def twice(logger: Callable[[], af.Logger], run: Path) -> list[dict[str, float]]:
    """A run of four steps that goes on to six, by a second instance; the rows."""
    heard = Listening()
    more: dict[str, Any] = {"log_every": 2, "sample_every": 4, "display": heard}
    af.Trainer(recipe(), out=run, loggers=[logger()], **more).fit()
    af.Trainer(recipe(6), out=run, loggers=[logger()], resume=True, **more).fit()
    assert [line for line in heard.lines if "continuing" not in line] == []
    return rows_of(run)


def test_mlflow(tmp_path: Path) -> None:
    """A store of files' database: one run with all rows, its description and its pictures."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    rows = twice(lambda: af.MLflow("digits", uri), tmp_path / "run")
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(row["step"], pytest.approx(row["loss"])) for row in rows]
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["objective.type"] == "MeanFlow"
    assert {item.path for item in client.list_artifacts(found.info.run_id, "samples")} == {
        "samples/step-00000004.png", "samples/step-00000006.png",
    }  # fmt: skip


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts of the run, under one id, in the run's folder."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    twice(lambda: af.WandB("digits", mode="offline"), tmp_path / "run")
    found = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(found) == 2
    assert len({file.stem for file in found}) == 1
    wanted = (b"MeanFlow", b"samples_per_second", b"media/images/samples")
    for file in found:
        end = time.monotonic() + 20  # wandb's own process writes a moment later
        while not all(words in file.read_bytes() for words in wanted):
            assert time.monotonic() < end, file
            time.sleep(0.1)


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own database: one run with all rows."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    sqlite = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    rows = twice(lambda: af.Trackio("digits"), tmp_path / "run")
    (name,) = sqlite.get_runs("digits")
    logged = [entry for entry in sqlite.get_logs("digits", name) if "loss" in entry]
    assert [(entry["step"], entry["loss"]) for entry in logged] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows
    ]
    shutil.rmtree(tmp_path / "trackio")
