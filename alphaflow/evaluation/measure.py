"""The passes of an evaluation: which sample sets are measured, against which reference, and the rows that come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data.decoding.images import image_mode
from ..errors import UserError
from ..features.builtin import UNPUBLISHED
from ..features.networks import FRAMES
from ..guidance import CFG
from ..metrics.kid import SIZE
from ..runs.pipeline import Pipeline
from .catalogue import METRICS, check_metrics, default_metrics
from .evaluator import BATCH, Evaluator
from .figures import Pictures
from .reference import EvaluationReference
from .result import Measured, over_seeds
from .sample_set import SampleBatch, SampleSet
from .sample_sets import GeneratedSamples
from .saved_samples import saving

COUNTS = {"pixels": 2000, "pictures": 50_000, "clips": 2048}
"""Samples that are measured unless one says: by unpublished features, by published networks, and of clips."""

Sets = Sequence[tuple[int | None, int | None, SampleSet]]
"""(NFE, seed, samples) of each set that is measured."""

Given = EvaluationReference | SampleSet | Path | str | None
"""What the user gives as a reference."""


@dataclass(frozen=True)
class Settings:
    """How an evaluation is done: the arguments of `evaluate`, checked, in its order."""

    metrics: Sequence[str] | None = None
    nfes: Sequence[int] = (1,)
    count: int | None = None
    seeds: Sequence[int] = (0,)
    guidance: CFG | None = None
    size: int | None = None
    frames: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    kid_subset_size: int = SIZE
    batch_size: int = BATCH
    save: Path | None = None
    pictures: Path | None = None

    def __post_init__(self) -> None:
        if self.metrics is not None:
            check_metrics(self.metrics)
        if not self.nfes or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"give at least one NFE, and seeds that differ; got {self.nfes} and {self.seeds}")


def samples_of(run: Pipeline, settings: Settings) -> Sets:
    """A run's samples at each NFE, with each seed."""
    metrics = settings.metrics or default_metrics(run.pixel_shape)
    own = all(METRICS[name].extractor in UNPUBLISHED for name in metrics)
    kind = "pixels" if own else "pictures" if len(run.pixel_shape) == 3 else "clips"
    count = settings.count or COUNTS[kind]
    return [
        (nfe, seed, GeneratedSamples(run, nfe, count, seed, settings.guidance))
        for nfe in settings.nfes
        for seed in settings.seeds
    ]


def measure_sets(evaluator: Evaluator, sets: Sets, settings: Settings) -> tuple[list[Measured], list[str]]:
    """Measures every set; the rows and the warnings, both empty in processes but the first."""
    for _, _, samples in sets:
        evaluator.check(len(samples), samples.shape)
    pictures = None if settings.pictures is None else Pictures(settings.pictures, evaluator)
    rows: list[Measured] = []
    warnings: list[str] = []
    scale = "" if settings.guidance is None else f", guidance {settings.guidance.scale:g}"
    for nfe, seed, samples in sets:
        guided = scale if isinstance(samples, GeneratedSamples) and samples.run.takes_guidance else ""
        with _saving(evaluator, samples, settings, nfe, seed) as seen:
            compared = evaluator.measure(samples, seen)
        with evaluator.world.together():  # what goes wrong in the first process is raised in all
            if compared is None:
                continue
            rows.append(Measured(samples.name + guided, nfe, len(samples), compared.values, seed))
            warnings += [line for line in compared.warnings if line not in warnings]
            if pictures is not None and seed in (None, settings.seeds[0]):
                warnings += pictures.of(samples, compared.statistics, nfe)
            if len(settings.seeds) > 1 and seed == settings.seeds[-1]:
                rows.append(over_seeds(rows[-len(settings.seeds) :]))
    with evaluator.world.together():
        halves = evaluator.real_halves()
    if halves is not None:
        rows.append(Measured("real halves", None, halves.statistics.count, halves.values))
    return rows, warnings


def _saving(
    evaluator: Evaluator, samples: SampleSet, settings: Settings, nfe: int | None, seed: int | None
) -> AbstractContextManager[Callable[[SampleBatch], None] | None]:
    if settings.save is None or nfe is None:
        return nullcontext()
    place = settings.save / f"nfe-{nfe}-seed-{seed}"
    return saving(place, samples.class_names, evaluator.world, samples.fps)


def find_reference(
    given: EvaluationReference | SampleSet | Path | str,
    settings: Settings,
    shape: tuple[int, ...] | None,
    device: torch.device,
    fps: float | None,
) -> EvaluationReference:
    """What the user gives, opened to fit samples of this shape, (c, h, w) or (c, f, h, w), and rate, if known."""
    if isinstance(given, EvaluationReference):
        return given
    if isinstance(given, SampleSet):
        return EvaluationReference(given.name, given, class_names=given.class_names)
    return EvaluationReference.of_path(given, **form_of(shape, settings), device=device, fps=fps)


def form_of(shape: tuple[int, ...] | None, settings: Settings) -> dict[str, Any]:
    """How files are read, to compare with samples of this shape."""
    if shape is None:
        return {"size": settings.size, "frames": settings.frames or FRAMES, "kind": settings.frames and "clips"}
    clips = len(shape) == 4
    if not clips:
        return {"size": settings.size, "mode": image_mode(shape[0]), "kind": "images"}
    frames = settings.frames or shape[1]
    return {"size": settings.size or shape[-1], "mode": image_mode(shape[0]), "frames": frames, "kind": "clips"}
