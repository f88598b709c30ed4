"""A run's folder on disk: where things lie, and which checkpoints there are."""

from __future__ import annotations

import re
import traceback
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError, reason
from ..files import hold, parsed, remove, replacing, sweep, write_json
from ..recipe_modules import own_modules
from ..version import versions
from . import checkpoint
from .record import KEYS, SECOND_TIME, Origin, wrong_types


class RunFolder:
    """``runs/NAME/``: recipe.py, run.json, metrics.jsonl, checkpoints/, samples/."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def record(self) -> Path:
        """run.json."""
        return self.path / "run.json"

    @property
    def recipe(self) -> Path:
        """recipe.py."""
        return self.path / "recipe.py"

    @property
    def modules(self) -> Path:
        """modules/: what lay beside the recipe and it imports, as it was when the run began."""
        return self.path / "modules"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def incidents(self) -> Path:
        """incidents.jsonl: bad batches and what was done."""
        return self.path / "incidents.jsonl"

    def error(self, rank: int = 0) -> Path:
        """error.txt, of further processes error-RANK.txt: the traceback of the fault that ended the training."""
        return self.path / f"error{f'-{rank}' if rank else ''}.txt"

    @contextmanager
    def keeping_faults(self, rank: int) -> Iterator[None]:
        """Keeps the traceback of what goes wrong inside, unless the user caused it, in `error`."""
        file = self.error(rank)
        file.unlink(missing_ok=True)  # of an earlier try
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError):
                with suppress(OSError), replacing(file) as beside:
                    beside.write_text(traceback.format_exc(), encoding="utf-8")
            raise

    def samples(self, step: int) -> Path:
        """samples/step-NNNNNNNN.png."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def checkpoint(self, step: int) -> Path:
        """checkpoints/step-NNNNNNNN, a folder."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        place = self.path / "checkpoints"
        found = place.iterdir() if place.is_dir() else ()
        return sorted((p for p in found if re.fullmatch(r"step-\d{8,}", p.name) and p.is_dir()), key=step_of)

    def last_checkpoint(self) -> Path:
        """The newest checkpoint.

        Raises:
            UserError: there is none.
        """
        saved = self.checkpoints()
        if not saved:
            raise UserError(f"{self.path} has no checkpoint yet; continue its training first")
        return saved[-1]

    def checkpoint_of(self, step: int | None) -> Path:
        """The checkpoint of a step; None for the newest.

        Raises:
            UserError: there is none.
        """
        last = self.last_checkpoint()
        if step is None:
            return last
        steps = [step_of(path) for path in self.checkpoints()]
        if step not in steps:
            known = ", ".join(map(str, steps)) if len(steps) <= 10 else f"{len(steps)}, from {steps[0]} to {steps[-1]}"
            nearest = min(steps, key=lambda there: abs(there - step))
            raise UserError(f"{self.path} has no checkpoint of step {step}; it has {known}; the nearest is {nearest}")
        return self.checkpoint(step)

    def sweep(self) -> None:
        """Removes what a killed process left half-written, and puts back what it was about to replace."""
        for folder in (self.path, self.path / "checkpoints", self.path / "samples"):
            sweep(folder)

    def check_trained(self) -> None:
        """Raises a UserError for a run that was converted from weights: there is no training to go on with."""
        if "converted" in self.read():
            raise UserError(
                f"{self.path} was converted from weights, without an optimiser to go on with; start from it, "
                f"`start={self.path}`, with another `out=`"
            )

    def hold(self, owner: object) -> None:
        """One process trains a run at a time: this one, as long as ``owner`` is there.

        Raises:
            UserError: another process does; or nobody can (`check_trained`).
        """
        self.check_trained()
        weakref.finalize(owner, hold(self.path, "trained").release)

    def exists(self) -> bool:
        """Whether a run is there."""
        return self.record.is_file()

    def create(self, origin: Origin, record: dict[str, Any]) -> None:
        """Makes the folder and writes recipe.py, the modules beside it that it imports, and run.json.

        Raises:
            UserError: the folder holds a run, or anything else.
        """
        if self.exists():
            way = "continue it with `resume=True`" if self.checkpoints() else "it has no checkpoint yet: remove it"
            raise UserError(f"{self.path} already holds a run; {way}, or choose another `out=`")
        kept = own_modules(origin.text, Path(origin.folder)) if origin.text and origin.folder else {}
        begun = {self.recipe.name, *([self.modules.name] if self._began(kept) else [])}  # a process killed at once
        other = self.path.is_dir() and any(
            place.name not in begun and not place.name.endswith(".tmp") for place in self.path.iterdir()
        )
        if other or ((self.path.exists() or self.path.is_symlink()) and not self.path.is_dir()):
            raise UserError(f"{self.path} exists and is not a run's folder; choose another `out=`")
        self._keep(origin.text, kept)
        stamp = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
        if record.get("model") is not None:
            stamp["second_time"] = SECOND_TIME
        write_json(self.record, {"recipe": _without_text(origin), **record, **stamp})

    def extend(self, origin: Origin, record: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        """Writes with what the run goes on: run.json with what changed, then the modules, then recipe.py.

        Its seed, its start, and when and with which versions it began stay. Where a process is killed in between, the
        recipe differs from recipe.py still, and the run can be extended again.

        Args:
            origin: where the recipe comes from now; of one without a text what is there stays.
            record: what `describe_run` says of it now.
            entry: what changed, and at which step.
        """
        before = self.read()
        now = {**before, **record, "seed": before["seed"], "start": before.get("start")}
        now["extended"] = [*before.get("extended", []), entry]
        if record["model"] is not None:
            now["second_time"] = SECOND_TIME
        if origin.text:
            now["recipe"] = _without_text(origin)
        write_json(self.record, now)
        if origin.text:
            kept = own_modules(origin.text, Path(origin.folder)) if origin.folder else {}
            if not kept and self.modules.exists():
                remove(self.modules)
            self._keep(origin.text, kept)

    def extended_at(self) -> int:
        """The last step at which the run was extended; -1 if it wasn't."""
        return max((entry["step"] for entry in self.read().get("extended", [])), default=-1)

    def _keep(self, text: str, kept: Mapping[Path, str]) -> None:
        """Writes the modules beside the recipe, if there are any, and recipe.py, if there is a text."""
        if kept:
            with replacing(self.modules) as beside:
                for file, source in kept.items():
                    (beside / file).parent.mkdir(parents=True, exist_ok=True)
                    (beside / file).write_text(source, encoding="utf-8")
        if text:
            with replacing(self.recipe) as beside:
                beside.write_text(text, encoding="utf-8")

    def _began(self, kept: Mapping[Path, str]) -> bool:
        """Whether modules/ holds nothing but these modules."""
        there = [file for file in self.modules.rglob("*") if not file.is_dir()] if self.modules.is_dir() else []
        return all(
            kept.get(file.relative_to(self.modules)) == file.read_text(encoding="utf-8", errors="replace")
            for file in there
        )

    def read(self) -> dict[str, Any]:
        """run.json.

        Raises:
            UserError: there is none, it can't be read, or its network is of the convention before `SECOND_TIME`.
        """
        if not self.exists():
            place = self.path
            what = (
                "it holds no run.json"
                if place.is_dir()
                else "it is a file"
                if place.exists()
                else "there is no such folder"
            )
            inside = next((above for above in place.parents if (above / "run.json").is_file()), None)
            hint = f"it lies in one, {inside}" if inside is not None else "give the folder that training made"
            raise UserError(f"{place} is not a run: {what}; {hint}")
        try:
            record: dict[str, Any] = parsed(self.record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.record} is damaged ({reason(error)}); restore it, or train again") from error
        missing = KEYS - (record.keys() if isinstance(record, dict) else set())
        if missing:
            raise UserError(f"{self.record} is incomplete: no {sorted(missing)[0]!r}; restore it, or train again")
        wrong = wrong_types(record)
        if wrong:
            raise UserError(f"{self.record} is damaged: {wrong} is not what a run records; restore it, or train again")
        if record["model"] is not None and record.get("second_time") != SECOND_TIME:
            raise UserError(f"{self.path} {checkpoint.EMBEDS_R}")
        return record

    def origin(self) -> Origin:
        """Where the run's recipe came from."""
        record = self.read()["recipe"]
        text = self.recipe.read_text(encoding="utf-8") if self.recipe.is_file() else ""
        return Origin(text=text, **record)


def _without_text(origin: Origin) -> dict[str, Any]:
    return {name: value for name, value in asdict(origin).items() if name != "text"}


def step_of(place: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(place.name.removeprefix("step-"))
