"""Diagnosis of a run: gradient conflict over its checkpoints, and what a probe wrote while it trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, is_whole
from ..files import foreign, parsed
from ..media.panels import BarPlot, Heatmap, LinePlot, panels
from ..objectives.objective import Objective
from ..parallel.device import find_device
from ..runs import checkpoint
from ..runs.folder import RunFolder, step_of
from ..runs.rebuilding import recipe_of
from ..version import versions
from .gradients import GradientConflict, measure_conflict
from .probe import PREFIX

THRESHOLD = -0.4
"""cos(∇L_TFM, ∇L_TC) is below this in over 95 % of MeanFlow training, α-Flow reports (arXiv 2510.20771; DiT-B/2)."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        run: the run's folder.
        objective: what it was trained for, printed.
        conflicts: checkpoint's step ↦ `GradientConflict`, with the raw weights, on the same batches, times and noise.
        probe: step ↦ what a `GradientProbe` measured, without its prefix; empty where none ran.
        batches, batch_size, seed: what was measured on.
    """

    run: str
    objective: str
    conflicts: dict[int, GradientConflict]
    probe: dict[int, dict[str, float]]
    batches: int
    batch_size: int
    seed: int

    def curve(self, kind: str, name: str) -> dict[int, float]:
        """Step ↦ a value of the checkpoints: ``curve("cosine", "tfm_tc")``. Undefined ones are left out."""
        values = {step: getattr(conflict, kind).get(name, math.nan) for step, conflict in self.conflicts.items()}
        return {step: value for step, value in values.items() if math.isfinite(value)}

    def probed(self, name: str) -> dict[int, float]:
        """Step ↦ a value of the probe: ``probed("cos_tfm_tc")``."""
        return {step: values[name] for step, values in self.probe.items() if name in values}

    def share_below(self, threshold: float = THRESHOLD) -> tuple[float, int]:
        """The share of measured steps at which cos(∇L_TFM, ∇L_TC) < threshold, and how many those are.

        Of the probe's, where there was one; else of the checkpoints, single batches' gradients. NaN of none.
        """
        found = self.probed("cos_tfm_tc") or self.curve("batch_cosine", "tfm_tc")
        share = sum(value < threshold for value in found.values()) / len(found) if found else math.nan
        return share, len(found)

    def record(self) -> dict[str, Any]:
        """All of it as JSON values; undefined numbers are None."""
        share, count = self.share_below()
        below = {"threshold": THRESHOLD, "share": share, "steps": count}
        rows = {"checkpoints": [{"step": step, **asdict(found)} for step, found in self.conflicts.items()]}
        probe = [{"step": step, **values} for step, values in self.probe.items()]
        plain = {name: getattr(self, name) for name in ("run", "objective", "batches", "batch_size", "seed")}
        record = {**plain, "versions": versions(), "cos_tfm_tc_below": below, **rows, "probe": probe}
        cleaned: dict[str, Any] = _without_nan(record)
        return cleaned


def diagnose(
    path: Path | str,
    *,
    steps: Sequence[int] | None = None,
    batches: int = 8,
    seed: int = 0,
    device: str | torch.device = "auto",
    say: Callable[[str], None] = lambda message: None,
    trust: bool = False,
) -> Diagnosis:
    """Measures a run's checkpoints and reads its probe.

    Args:
        path: the run's folder.
        steps: steps of the checkpoints; None for all.
        batches: how many of the run's training batches; the same at every checkpoint.
        seed: seed of data order, times and noise.
        device: ``"auto"`` takes a GPU if there is one.
        say: takes a line for each checkpoint.
        trust: the run's recipe.py may be run, be it no built-in recipe.

    Raises:
        UserError: there is no such run or checkpoint, its recipe isn't trusted, or its objective can't be taken apart.
    """
    if batches < 1:
        raise UserError(f"a diagnosis needs at least 1 batch, got {batches}")
    folder = RunFolder(path)
    folder.read()
    places = folder.checkpoints() if steps is None else [folder.checkpoint_of(step) for step in steps]
    if not places:
        folder.last_checkpoint()  # says that there is none
    where = find_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the data's order
        recipe = recipe_of(folder, trust=trust)
        if not isinstance(recipe.objective, Objective):
            raise UserError(f"only an af.Objective can be taken apart, not {type(recipe.objective).__name__}")
        draw = torch.Generator(where).manual_seed(seed)
        data = [batch.to(where).drawn(draw) for batch in itertools.islice(iter(recipe.dataset), batches)]
    model = recipe.model.to(where)
    recipe.objective.prepare(where)
    conflicts = {}
    for place in places:
        step = step_of(place)
        checkpoint.load_weights(place / checkpoint.MODEL, model)
        generator = torch.Generator(where).manual_seed(seed)
        conflicts[step] = measure_conflict(model, recipe.objective, data, step, generator)
        say(f"step {step}: cos(∇TFM, ∇TC) {conflicts[step].cosine['tfm_tc']:+.3f}")
    size = len(data[0].x)
    return Diagnosis(str(path), repr(recipe.objective), conflicts, _read_probe(folder.metrics), batches, size, seed)


def _read_probe(metrics: Path) -> dict[int, dict[str, float]]:
    found = {}
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines() if metrics.is_file() else []:
        try:
            row = parsed(line)
        except ValueError:  # cut short by a kill
            continue
        if not isinstance(row, dict) or not is_whole(row.get("step")):
            continue
        measured = {name: value for name, value in row.items() if name.startswith(PREFIX) and isinstance(value, float)}
        if measured:
            found[row["step"]] = {name.removeprefix(PREFIX): value for name, value in measured.items()}
    return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_free(place: Path) -> None:
    """Raises UserError where a place holds a diagnosis.json, or a plot beside none, that no diagnosis wrote."""
    there = sorted(place.glob("diagnosis.*"))
    try:
        known = parsed((place / "diagnosis.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if there and not (isinstance(known, dict) and {"checkpoints", "batch_size"} <= known.keys()):
        raise foreign(there[0], "`place=`")


def picture(found: Diagnosis, file: Path) -> None:
    """Draws a diagnosis: angles, norms and variances over training; loss and angles at the last checkpoint."""
    names = {"tfm": "∇TFM", "tc": "∇TC", "fm": "∇FM′"}
    angles = {"tfm_tc": "TFM, TC", "tc_fm": "FM′, TC", "tfm_fm": "TFM, FM′"}
    cosines = {
        label: found.probed(f"cos_{pair}") or found.curve("batch_cosine", pair) for pair, label in angles.items()
    }
    norms = {label: found.probed(f"norm_{name}") or found.curve("norm", name) for name, label in names.items()}
    variances = {label: found.curve("variance", name) for name, label in names.items()}
    parts: list[LinePlot | Heatmap | BarPlot] = [
        LinePlot("cosine of gradients (a batch)", cosines, limits=(-1.05, 1.05), mark=THRESHOLD),
        LinePlot("gradient norm", norms, logarithmic=True),
        LinePlot("gradient variance (a sample)", variances, logarithmic=True),
    ]
    if found.conflicts:
        step = max(found.conflicts)
        last = found.conflicts[step]
        by_group = {group: own["tfm_tc"] for group, own in last.groups.items() if math.isfinite(own["tfm_tc"])}
        parts += [
            Heatmap(f"‖u − ṽ‖² by (r, t), step {step}", last.bins["tfm"]),
            Heatmap(f"2(t−r)·uᵀdu/dt by (r, t), step {step}", last.bins["tc"]),
            BarPlot(f"cosine of ∇TFM, ∇TC by layer, step {step}", by_group, limits=(-1, 1)),
        ]
    panels(parts, file)
