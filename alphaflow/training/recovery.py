"""After bad batches and damaged checkpoints: skipping, going back, giving up."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, reason, said
from ..parallel.world import World
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..seeds import derived
from .feed import Feed
from .guard import GuardMemory, Incident, rollbacks_in


class Recovery:
    """What is done after bad batches: leaving them out, going back, giving up.

    Args:
        watch: counts them.
        folder: folder of the run, or None.
        world: the processes.
        say: shows a line.
        seed: seed of the run.
    """

    def __init__(
        self, watch: GuardMemory, folder: RunFolder | None, world: World, say: Callable[[str], None], seed: int
    ) -> None:
        self.watch = watch
        self.folder = folder
        self.world = world
        self.say = say
        self.seed = seed

    def place_to_go_back(self, incident: Incident, settle: Callable[[], None], *, at_once: bool = False) -> Path | None:
        """Leaves a bad batch out: None; after too many in a row, or ``at_once``, the checkpoint to go back to.

        Args:
            incident: what was wrong.
            settle: waits until the last checkpoint is written.
            at_once: don't wait for more.

        Raises:
            UserError: there is nothing to go back to, or it was gone back to often enough; with what was wrong.
        """
        self._note(incident)
        watch, folder = self.watch, self.folder
        if not watch.exhausted and not at_once:
            return None
        settle()
        place = None if folder is None else self.world.first(lambda: last_whole(folder, self.say))
        if place is None or watch.rollbacks >= watch.guard.rollbacks:
            tried = f" after going back {watch.rollbacks} times" if watch.rollbacks else ""
            kept = f" the last good checkpoint is {place};" if place is not None else ""
            what = "broken weights" if at_once else f"{watch.bad} bad batches in a row"
            raise UserError(f"{what}{tried}: {incident};{kept} {incident.advice}")
        return place

    def went_back(self, step: int, reason: str, generator: torch.Generator, feed: Feed) -> None:
        """Training went back to a step, for a reason: it goes on in another order of the data, with other noise."""
        self.watch.rollbacks, self.watch.bad = self.watch.rollbacks + 1, 0
        self._other_order(step, generator, feed)
        self._note(Incident(step, "rollback", reason))

    def load(self, place: Path, saved: dict[str, Any], feed: Feed) -> None:
        """Takes over what a checkpoint remembers of batches, and its place in the data.

        Raises:
            UserError: the data are others.
        """
        try:
            self.watch.load_state_dict(saved["watch"])
            feed.load_state_dict(saved["dataset"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"the run in {place.parent.parent} can't go on with this data: {said(error)}") from error

    def keep_order(self, step: int, generator: torch.Generator, feed: Feed) -> None:
        """After a resume: the other order of the data that training had taken when it went back to this step."""
        assert self.folder is not None
        self.watch.rollbacks = rollbacks_in(self.folder.incidents)
        if rollbacks_in(self.folder.incidents, step):
            self._other_order(step, generator, feed)

    def _other_order(self, step: int, generator: torch.Generator, feed: Feed) -> None:
        """Another order of the data and other noise, the same for the same run, step and number of rollbacks."""
        seed = derived(self.seed, step, self.watch.rollbacks)
        generator.manual_seed(self.world.seed(seed))
        feed.reorder(seed)

    def _note(self, incident: Incident) -> None:
        self.say(f"{incident.kind}: {incident}")
        if self.folder is not None and self.world.main:
            try:
                incident.append_to(self.folder.incidents)
            except OSError as error:
                self.say(f"{self.folder.incidents} can't be written ({reason(error)})")


def place_to_resume(folder: RunFolder, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to go on from; None where there is none yet. What a killed process left is removed.

    Raises:
        UserError: the folder is not a run, or none of its checkpoints is whole.
    """
    folder.read()
    folder.sweep()
    place = last_whole(folder, say)
    if place is None and folder.checkpoints():
        raise UserError(
            f"no checkpoint in {folder.path} is whole; "
            "train again with another `out=`, or use its weights with `start=`"
        )
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
