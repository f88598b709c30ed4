"""Samples written while they are made: images as PNG files, clips as MP4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import put, remove
from ..media.clips import DEFAULT_FPS
from ..media.sample_files import Form, write_each
from ..parallel.world import World
from .sample_set import SampleBatch


@contextmanager
def saving(
    place: Path, class_names: Sequence[str], world: World, fps: float | None = None
) -> Iterator[Callable[[SampleBatch], None]]:
    """Gives what writes a batch's samples, CLASS/NNNNNN.png or .mp4; the folder is in its place once all are written.

    Every process writes its own into the same folder.

    Raises:
        UserError: something is in the place.
    """
    beside = place.with_name(f".{place.name}.writing.tmp")

    def begin() -> None:
        if place.exists():
            raise UserError(f"{place} exists; choose another `save=`, or remove it")
        remove(beside)
        beside.mkdir(parents=True)

    world.first(begin)
    try:
        yield lambda batch: _write(beside, batch, class_names, fps or DEFAULT_FPS)
        world.first(lambda: put(beside, place))
    except BaseException:
        if world.main:
            remove(beside)
        raise


def _write(folder: Path, batch: SampleBatch, class_names: Sequence[str], fps: float) -> None:
    form: Form = "png" if batch.pixels.ndim == 4 else "mp4"
    write_each(folder, batch.pixels, batch.labels, class_names, form, batch.start, fps)
