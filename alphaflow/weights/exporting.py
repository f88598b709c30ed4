"""A run as a folder that stands alone: weights, what builds them again, a card, and samples to look at."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ..autoencoders.diffusers_vae import DiffusersVAE
from ..errors import UserError
from ..files import adding, write_json
from ..media.previews import Chart, Picture
from ..parallel.pieces import weights
from ..runs import checkpoint
from ..runs.labels import balanced_labels
from ..runs.run import Run
from ..types import Cond
from .generator import CONFIG, DECODER
from .model_card import SAMPLES, model_card

LOG = logging.getLogger(__name__)

SIDE, EVALUATIONS, POINTS = 8, 128, 512
"""The picture's rows and columns at most, network evaluations that it may cost, and points of what is a chart."""

LEFT_OUT = ("setup", "processes", "extended")
"""What run.json keeps of how it was trained here."""

KEPT = ("config.json", ".safetensors", ".safetensors.index.json")
"""What of an autoencoder's folder is copied: nothing that is unpickled."""


def export(run: Run, out: Path | str, *, name: str | None = None, license: str | None = None) -> Path:
    """Writes a run as a folder that `load` opens, on this machine or any other.

    ``model.safetensors`` holds the weights that the run was opened with; ``config.json`` the network, the samplers, and
    what else run.json says that isn't of this machine; ``README.md`` is a model card with the recipe's settings and the
    results of evaluations that lie in the run's folder as JSON; ``samples.png`` shows samples. An autoencoder that lies
    in a folder is copied.

    Args:
        run: the run, opened: ``af.Run("runs/digits")``.
        out: the folder, which isn't there yet, or is empty.
        name: what its card calls it, OWNER/NAME of the Hub for example; None for the folder's name.
        license: licence of the weights, as the Hub names it, for example ``"mit"``; None where nobody says.

    Returns:
        The folder.

    Raises:
        UserError: ``out`` holds anything, the run isn't finished and no checkpoint was chosen, or one of its parts is
            the user's own.
    """
    check_finished(run)
    if license is not None and not re.fullmatch(r"[\w.+-]+", license):
        raise UserError(f"a licence is named by one word, for example mit or cc-by-4.0, not {license!r}")
    record, out = run.record, Path(out)
    parts = {name: record.get(name, {}) for name in ("model", "autoencoder", "source")}
    own = next((name for name, part in {**parts, **record["samplers"]}.items() if part is None), None)
    if own is not None:
        what = own if own in parts else f"sampler of {own} evaluations"
        raise UserError(f"{run.name} can't be exported as a folder: its {what} is the user's own")
    with adding(out) as beside:
        beside.mkdir()
        kept = _portable(record, beside)
        place = {"step": run.step, "average": run.ema}
        write_json(beside / CONFIG, {**kept, "exported": place})
        checkpoint.write_weights(beside / checkpoint.MODEL, weights(run.model))
        blank = _picture(run, beside / SAMPLES)
        if blank:
            LOG.warning("no picture of samples: %s", blank)
        changed = {"extended": record.get("extended", [])}
        card = model_card(run, kept | changed, name or out.name, license, picture=not blank)
        (beside / "README.md").write_text(card, encoding="utf-8")
    return out


def check_finished(run: Run) -> None:
    """Refuses a run that isn't trained to its end, unless its checkpoint was chosen.

    Raises:
        UserError: so it is.
    """
    steps = run.record["steps"]
    if not run.chosen and run.step < steps:
        raise UserError(
            f"{run.name} is at step {run.step} of {steps}: train it to its end, or say which checkpoint to take, "
            f"`step={run.step}`"
        )


def _portable(record: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """A run's record without what is of this machine: paths, devices, and where it was started."""
    recipe, data = record["recipe"], record["data"]
    arguments = {name: _without_folders(value) for name, value in recipe["arguments"].items()}
    data = {**data, "text": _without_folders(data.get("text"))}
    found = {
        **record,
        "recipe": {**recipe, "arguments": arguments, "folder": None, "directory": None},
        "data": data,
        "dataset": _without_folders(record.get("dataset")),
        "start": _without_folders(record.get("start")),
        "autoencoder": _copied(record["autoencoder"], out / DECODER),
    }
    return {name: value for name, value in found.items() if name not in LEFT_OUT}


def _copied(autoencoder: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The description of an autoencoder as others can use it; one that lies in a folder is copied.

    Raises:
        UserError: the folder is gone, or holds no safetensors.
    """
    anywhere = {**autoencoder, "device": "auto"} if "device" in autoencoder else dict(autoencoder)
    if "inner" in autoencoder:
        return {**anywhere, "inner": _copied(autoencoder["inner"], out)}
    if autoencoder["type"] != DiffusersVAE.__name__:
        return anywhere
    folder = Path(autoencoder["name"], autoencoder.get("subfolder") or "")
    if not folder.is_dir():
        if folder.is_absolute():
            raise UserError(f"the run's autoencoder, {folder}, isn't there; put it back")
        return anywhere
    files = [file for file in folder.iterdir() if file.name.endswith(KEPT)]
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError(f"the run's autoencoder, {folder}, has no weights as safetensors; save it as such")
    out.mkdir()
    for file in files:
        shutil.copyfile(file, out / file.name)
    return {**anywhere, "name": DECODER, "subfolder": None}


def _without_folders(value: Any) -> Any:
    """A value whose paths, absolute ones and those that are here, are their last parts only."""
    if isinstance(value, str):
        path = PureWindowsPath(value)  # knows both separators
        is_path = path.is_absolute() or value.startswith(("/", "./", "../", "~")) or os.path.exists(value)  # noqa: PTH110
        return path.name if is_path else value
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    return [_without_folders(part) for part in value] if isinstance(value, list) else value


def _picture(run: Run, file: Path) -> str:
    """Draws a few samples; returns why that can't be done, empty if it was."""
    if run.conditioning.needed:
        return "its samples are made from conditions"
    nfe = min(run.samplers, default=1)
    columns = max(1, min(run.sampled_classes or SIDE, SIDE, EVALUATIONS // nfe))
    rows = 1 if len(run.shape) == 4 else max(1, min(SIDE, EVALUATIONS // (nfe * columns)))
    count = POINTS if len(run.shape) < 3 else columns * rows
    labels = balanced_labels(count, columns) if run.sampled_classes else None
    try:
        samples = run.maker(nfe)(0, count, Cond(labels=labels))
    except UserError as error:
        return str(error)
    picture = Picture(samples, columns, run.fps) if run.makes_pictures else Chart.of({"samples": samples})
    if picture is None:
        return f"samples of shape {tuple(run.shape)} are not drawn"
    picture.save(file)
    return ""
