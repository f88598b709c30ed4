"""After bad batches and damaged checkpoints: skipping, going back, giving up."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from . import checkpoint
from .guard import Incident, rollbacks_in
from .run_folder import RunFolder

if TYPE_CHECKING:
    from .trainer import Trainer


def skip(trainer: Trainer, incident: Incident, *, at_once: bool = False) -> None:
    """Leaves a bad batch out; after too many in a row, or ``at_once``, goes back to the last whole checkpoint.

    Raises:
        UserError: there is nothing to go back to, or it was gone back to often enough; with what was wrong.
    """
    _note(trainer, incident)
    watch, folder = trainer.watch, trainer.folder
    if not watch.exhausted and not at_once:
        return
    trainer.settle()
    place = None if folder is None else trainer.world.first(lambda: last_whole(folder, trainer.display.say))
    if place is None or watch.rollbacks >= watch.guard.rollbacks:
        tried = f" after going back {watch.rollbacks} times" if watch.rollbacks else ""
        kept = f" the last good checkpoint is {place};" if place is not None else ""
        what = "broken weights" if at_once else f"{watch.bad} bad batches in a row"
        raise UserError(f"{what}{tried}: {incident};{kept} {incident.advice}")
    rollbacks = watch.rollbacks + 1
    trainer.load(place)
    watch.rollbacks, watch.bad = rollbacks, 0
    _other_order(trainer)
    _note(trainer, Incident(trainer.step, "rollback", incident.reason))
    trainer.report.again(trainer.step)


def keep_order(trainer: Trainer, folder: RunFolder) -> None:
    """After a resume: the other order of the data that training had taken when it went back to this step."""
    trainer.watch.rollbacks = rollbacks_in(folder.incidents)
    if rollbacks_in(folder.incidents, trainer.step):
        _other_order(trainer)


def place_to_resume(folder: RunFolder, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to go on from; None where there is none yet. What a killed process left is removed.

    Raises:
        UserError: the folder is no run, or none of its checkpoints is whole.
    """
    folder.read()
    folder.sweep()
    place = last_whole(folder, say)
    if place is None and folder.checkpoints():
        raise UserError(f"no checkpoint in {folder.path} is whole; train anew with another --out, or --from it")
    return place


def last_whole(folder: RunFolder, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, by its manifest; those after it are set aside, and it says which."""
    damaged: list[Path] = []
    for place in reversed(folder.checkpoints()):
        problem = checkpoint.damage(place)
        if not problem:
            for other in damaged:
                other.rename(other.with_name(f"{other.name}.damaged-{secrets.token_hex(2)}"))
            return place
        say(f"{place} is damaged ({problem}); the one before it is used")
        damaged.append(place)
    return None


def _other_order(trainer: Trainer) -> None:
    """Another order of the data and other noise, the same for the same run, step and number of rollbacks."""
    numbers = (trainer.seed, trainer.step, trainer.watch.rollbacks)
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 2)
    trainer.generator.manual_seed(trainer.world.seed(seed))
    trainer.feed.reorder(seed)


def _note(trainer: Trainer, incident: Incident) -> None:
    trainer.display.say(f"{incident.kind}: {incident}")
    if trainer.folder is not None and trainer.world.main:
        try:
            incident.append_to(trainer.folder.incidents)
        except OSError as error:
            trainer.display.say(f"{trainer.folder.incidents} can't be written ({error.strerror})")
