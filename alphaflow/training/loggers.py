"""Where figures and pictures go, beside the run's folder: TensorBoard, W&B, MLflow, trackio, or your own logger."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run.

    Attributes:
        name: what it is called: its folder's name.
        id: the same each time that the run goes on, and no other run's: letters, digits, ``-`` and ``_``.
        folder: its folder, or None.
        step: steps that are done. Rows follow of later ones: after a resume, and where training went back, again.
        description: what run.json holds: recipe, model, objective, data, setup, versions; JSON values.
    """

    name: str
    id: str
    folder: Path | None
    step: int
    description: Mapping[str, Any]


class Logger:
    """Takes a run's figures and pictures. Your own derives from it and overrides what it needs.

    Only the first of several processes calls it, from the thread that trains. What it raises is told once, and doesn't
    end training; after a failed `start` it is left alone.
    """

    def start(self, run: LoggedRun) -> None:
        """Training starts, goes on, or has gone back to an earlier step (then after `close`)."""

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """A log step's figures, or what was measured at a step (``eval/…``): what metrics.jsonl gets."""

    def picture(self, step: int, images: Tensor, file: Path) -> None:
        """A picture of samples: the images (n, c, h, w), 8-bit, and the file that shows them all."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard(Logger):
    """Event files in the run's folder; the logger that a Trainer has where none is given."""

    def __init__(self) -> None:
        self._run: LoggedRun | None = None
        self._writer: SummaryWriter | None = None

    def start(self, run: LoggedRun) -> None:
        """Remembers the folder."""
        self._run = run

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Writes each figure as a scalar."""
        events = self._events
        for name, value in values.items():
            events.add_scalar(name, value, step)

    def picture(self, step: int, images: Tensor, file: Path) -> None:
        """Writes the images as a grid."""
        self._events.add_images("samples", images, step)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    @property
    def _events(self) -> SummaryWriter:
        """The file, made when something is written; it takes back what came after the step before."""
        assert self._run is not None
        if self._run.folder is None:
            raise UserError("TensorBoard writes to the run's folder: give the Trainer `out=`")
        if not self._run.folder.is_dir():  # its writer, in a thread, would fail later and louder
            raise FileNotFoundError(f"{self._run.folder} is gone")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            step = self._run.step
            self._writer = SummaryWriter(str(self._run.folder), purge_step=step + 1 if step else None)
        return self._writer


class WandB(Logger):
    """Weights & Biases, by the package wandb (``pip install 'alphaflow[wandb]'``).

    A run that goes on continues its own there. Rows that come again stand twice.

    Args:
        project: the project; None for wandb's own setting (``WANDB_PROJECT``).
        **options: what else ``wandb.init`` takes: ``entity="…"``, ``mode="offline"``, ``tags=[…]``.

    Raises:
        UserError: the package is missing.
    """

    def __init__(self, project: str | None = None, **options: Any) -> None:
        self._wandb = _package("wandb")
        self._options = {"project": project, **options}
        self._run: Any = None

    def start(self, run: LoggedRun) -> None:
        """Begins or continues the run there."""
        given = {"name": run.name, "id": run.id, "dir": run.folder, "config": dict(run.description)}
        given |= {"resume": "allow", "reinit": "create_new", **self._options}
        self._run = self._wandb.init(**given)
        self._run.define_metric("*", step_metric="step")

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the figures."""
        self._run.log({"step": step, **values})

    def picture(self, step: int, images: Tensor, file: Path) -> None:
        """Logs the file."""
        self._run.log({"step": step, "samples": self._wandb.Image(str(file))})

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


class Trackio(Logger):
    """Trackio, Hugging Face's local tracker, by the package trackio (``pip install 'alphaflow[trackio]'``).

    A run that goes on continues its own there. Rows that come again stand twice.

    Args:
        project: the project.
        **options: what else ``trackio.init`` takes: ``space_id="…"``.

    Raises:
        UserError: the package is missing.
    """

    def __init__(self, project: str = "alphaflow", **options: Any) -> None:
        self._trackio = _package("trackio")
        self._options = {"project": project, **options}
        self._run: Any = None

    def start(self, run: LoggedRun) -> None:
        """Begins or continues the run there, by its id: runs have no other name."""
        given = {"name": run.id, "config": dict(run.description), "resume": "allow", "embed": False, **self._options}
        self._run = self._trackio.init(**given)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the figures."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, images: Tensor, file: Path) -> None:
        """Logs the file."""
        self._run.log({"samples": self._trackio.Image(str(file))}, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


class MLflow(Logger):
    """MLflow, by the package mlflow or mlflow-skinny (``pip install 'alphaflow[mlflow]'``).

    A run that goes on continues its own there, found by the tag ``alphaflow.id``. Rows that come again stand twice.

    Args:
        experiment: the experiment, made where there is none of that name.
        tracking_uri: the server, or the place of the files; None for MLflow's own setting (``MLFLOW_TRACKING_URI``).

    Raises:
        UserError: the package is missing.
    """

    def __init__(self, experiment: str = "alphaflow", tracking_uri: str | None = None) -> None:
        self._mlflow = _package("mlflow")
        self._experiment, self._uri = experiment, tracking_uri
        self._client: Any = None
        self._id = ""

    def start(self, run: LoggedRun) -> None:
        """Begins or continues the run there."""
        self._client = client = self._mlflow.MlflowClient(self._uri)
        known = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if known is None else known.experiment_id
        found = client.search_runs([experiment], f"tags.`alphaflow.id` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        self._id = client.create_run(experiment, tags={"alphaflow.id": run.id}, run_name=run.name).info.run_id
        client.log_dict(self._id, dict(run.description), "run.json")
        for name, value in flat(run.description):
            client.log_param(self._id, name, value)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the figures."""
        now, kind = round(time.time() * 1000), self._mlflow.entities.Metric
        self._client.log_batch(self._id, [kind(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, images: Tensor, file: Path) -> None:
        """Keeps the file among the run's artifacts."""
        self._client.log_artifact(self._id, str(file), "samples")

    def close(self) -> None:
        """Ends the run there."""
        self._client.set_terminated(self._id)


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio}
"""The loggers by the names that the command line has for them."""


def loggers_of(names: str) -> list[Logger]:
    """Loggers by their names, separated by commas.

    Raises:
        UserError: there is none of a name, or its package is missing.
    """
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in LOGGERS:
            raise UserError(f"there is no logger {name!r}: choose among {', '.join(LOGGERS)}")
    return [LOGGERS[name]() for name in dict.fromkeys(chosen)]


def flat(described: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """What a description holds, by names with dots; lists as JSON; what is long is cut."""
    for name, value in described.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", (value if isinstance(value, str) else json.dumps(value))[:500]


def _package(name: str) -> Any:
    """A tracker's package, imported where it is used.

    Raises:
        UserError: it isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {name}: pip install 'alphaflow[{name}]'") from error
