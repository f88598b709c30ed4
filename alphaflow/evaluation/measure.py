"""The passes of an evaluation: which sample sets are measured, against which reference, and the rows that come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data.dataset import IndexedDataset
from ..data.decoding.images import image_mode
from ..errors import UserError
from ..features.builtin import UNPUBLISHED
from ..features.networks import FRAMES
from ..guidance import CFG
from ..metrics.kid import SIZE
from ..pixel_values import is_picture_shape
from ..runs.condition_rows import ConditionRows, DatasetRows
from ..runs.pipeline import Pipeline
from .catalogue import METRICS, check_metrics, default_metrics
from .evaluator import BATCH, Evaluator
from .figures import Pictures
from .reference import EvaluationReference
from .result import Measured, over_seeds
from .sample_set import SampleBatch, SampleSet
from .sample_sets import DecodedDataset, GeneratedSamples
from .saved_samples import saving

COUNTS = {"pixels": 2000, "pictures": 50_000, "clips": 2048}
"""Samples that are measured unless one says: by unpublished features, by published networks, and of clips."""

Sets = Sequence[tuple[int | None, int | None, SampleSet]]
"""(NFE, seed, samples) of each set that is measured."""

Given = EvaluationReference | SampleSet | IndexedDataset | Path | str | None
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


def samples_of(run: Pipeline, settings: Settings, reference: EvaluationReference) -> Sets:
    """A run's samples at each NFE, with each seed; made from the reference's conditions, where it takes any.

    Raises:
        UserError: neither the reference nor the training data have them in order.
    """
    rows, paired = _rows(run, reference)
    needed = run.conditioning.needed
    restored = paired and ("image" in needed or bool(run.source.conditions))
    metrics = settings.metrics or default_metrics(run.pixel_shape, run.makes_pictures, restored)
    truths = paired and any(METRICS[name].family == "pairs" for name in metrics)
    own = all(METRICS[name].extractor in UNPUBLISHED for name in metrics)
    kind = "pixels" if own else "pictures" if len(run.pixel_shape) == 3 else "clips"
    count = settings.count or (COUNTS[kind] if rows is None else min(COUNTS[kind], len(rows)))
    more: dict[str, Any] = {"rows": rows, "paired": paired, "truths": truths}
    return [
        (nfe, seed, GeneratedSamples(run, nfe, count, seed, settings.guidance, **more))
        for nfe in settings.nfes
        for seed in settings.seeds
    ]


def _rows(run: Pipeline, reference: EvaluationReference) -> tuple[ConditionRows | None, bool]:
    """The conditions to sample with, None for none but labels; and whether they are those of the reference."""
    if not run.conditioning.needed:
        return None, False
    data, known = reference.samples, set(run.conditioning.needed)
    if isinstance(data, DecodedDataset) and known <= (data.dataset.condition_forms or {}).keys():
        return DatasetRows(data.dataset, run.conditioning), True
    own = run.dataset().indexed
    if own is None:
        raise UserError(
            f"{run.name} makes its samples from {run.conditioning.listed(run.conditioning.needed)}, which can't be "
            "read from its data in order; give data that have it as `reference=`"
        )
    return DatasetRows(own, run.conditioning), False


def measure_sets(evaluator: Evaluator, sets: Sets, settings: Settings) -> tuple[list[Measured], list[str]]:
    """Measures every set; the rows and the warnings, both empty in processes but the first."""
    for _, _, samples in sets:
        evaluator.check(samples)
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
    if not samples.pictures:
        raise UserError("these samples are no pictures, which `save=` writes; leave it out, and sample the run instead")
    place = settings.save / f"nfe-{nfe}-seed-{seed}"
    return saving(place, samples.class_names, evaluator.world, samples.fps)


def find_reference(
    given: EvaluationReference | SampleSet | IndexedDataset | Path | str,
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
    if isinstance(given, IndexedDataset):
        decoder = given.autoencoder
        place = None if decoder is None else decoder.on(device)
        samples = DecodedDataset(given, given.kind_name, place, device, ahead=False)
        return EvaluationReference(samples.name, samples, class_names=samples.class_names)
    return EvaluationReference.of_path(given, **form_of(shape, settings), device=device, fps=fps)


def form_of(shape: tuple[int, ...] | None, settings: Settings) -> dict[str, Any]:
    """How files are read, to compare with samples of this shape."""
    if shape is None or not is_picture_shape(shape):
        return {"size": settings.size, "frames": settings.frames or FRAMES, "kind": settings.frames and "clips"}
    clips = len(shape) == 4
    if not clips:
        return {"size": settings.size, "mode": image_mode(shape[0]), "kind": "images"}
    frames = settings.frames or shape[1]
    return {
        "size": settings.size or (shape[-2], shape[-1]),
        "mode": image_mode(shape[0]),
        "frames": frames,
        "kind": "clips",
    }
