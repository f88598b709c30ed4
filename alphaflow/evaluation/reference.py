"""What samples are measured against: real pictures or clips, or statistics of them in a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.decoding.images import Mode
from ..data.listing.endings import Modality
from ..data.listing.listing import tars_of
from ..data.listing.walk import scan
from ..data.shard_description import DATASET
from ..errors import UserError
from ..features.networks import FRAMES
from ..files import sha256
from ..runs.pipeline import Pipeline
from .npz_samples import NpzSamples
from .sample_set import SampleSet
from .sample_sets import BUILT_IN, open_sample_set, training_data
from .statistics import Statistics
from .statistics_file import holds_statistics, read_statistics

MAX_REFERENCE = 100_000
"""Training samples up to which a run's own data are the reference unless one is given: more would take hours."""


@dataclass(frozen=True)
class EvaluationReference:
    """Real pictures or clips.

    Attributes:
        name: where they come from.
        samples: they themselves; None where a file holds only statistics.
        fixed: statistics from a file, or None.
        class_names: class names by label.
        sha256: of the file, or of a folder's names and sizes; empty where there is no such thing.
    """

    name: str
    samples: SampleSet | None = None
    fixed: Statistics | None = None
    class_names: Sequence[str] = ()
    sha256: str = ""

    def __post_init__(self) -> None:
        assert self.samples is not None or self.fixed is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample; () where a file doesn't say."""
        if self.samples is not None:
            return self.samples.shape
        return () if self.fixed is None else self.fixed.shape

    @property
    def pictures(self) -> bool:
        """Whether these are pictures or clips, rather than floats."""
        return self.samples is None or self.samples.pictures

    @staticmethod
    def of_run(run: Pipeline) -> EvaluationReference:
        """The data that a run was trained on.

        Raises:
            UserError: it is not of known length, or too many.
        """
        samples = training_data(run)
        if len(samples) > MAX_REFERENCE:
            raise UserError(
                f"the run's {len(samples):,} training samples would take long to read in every evaluation; make their "
                "statistics once, and give that file as `reference=`"
            )
        return EvaluationReference(samples.name, samples, class_names=samples.class_names)

    @staticmethod
    def of_path(
        path: Path | str,
        *,
        size: int | None = None,
        mode: Mode | None = None,
        frames: int = FRAMES,
        fps: float | None = None,
        kind: Modality | None = None,
        device: torch.device | None = None,
    ) -> EvaluationReference:
        """Pictures or clips as `open_sample_set` finds them, or a file of statistics: ours, ADM's, pytorch-fid's.

        Raises:
            UserError: nothing is there, or it can't be read.
        """
        place = Path(path)
        if place.suffix == ".npz" and holds_statistics(place):
            found = read_statistics(place)
            pictures = None if found.own else _pictures(place)
            names = found.class_names if pictures is None else pictures.class_names
            return EvaluationReference(str(path), pictures, found.statistics, names, fingerprint(path))
        samples = open_sample_set(path, size=size, mode=mode, frames=frames, fps=fps, kind=kind, device=device)
        return EvaluationReference(str(path), samples, class_names=samples.class_names, sha256=fingerprint(path))


def fingerprint(path: Path | str) -> str:
    """SHA-256 of a file, of shards' dataset.json, or of the names and sizes of a folder's files; else empty."""
    place = Path(path)
    if str(path) in BUILT_IN and not place.exists():
        return ""
    tars = {} if place.exists() else tars_of(place)
    if (place / DATASET).is_file():
        place = place / DATASET
    if place.is_file():
        return sha256(place)
    found = hashlib.sha256()
    files = {name: tar.stat().st_size for name, tar in tars.items()}
    if not tars:
        listed = scan(place, Counter())
        files = {name: item.stat().st_size for name, item in listed if item is not None and item.is_file()}
    for name, size in sorted(files.items()):
        found.update(f"{name}\t{size}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _pictures(path: Path) -> SampleSet | None:
    """The pictures that ADM's files hold beside the statistics."""
    try:
        return NpzSamples(path)
    except UserError:
        return None
