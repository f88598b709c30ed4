"""Measuring a run at several numbers of network evaluations, or images on disk; in a script, or while training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..data.decoding.images import image_mode
from ..data.listing.listing import tars_of
from ..errors import UserError
from ..features.builtin import UNPUBLISHED
from ..features.networks import FRAMES
from ..guidance import CFG
from ..metrics.kid import SIZE
from ..parallel.device import find_device
from ..parallel.world import World
from ..runs.checkpoint import AVERAGE, MODEL, manifest
from ..runs.pipeline import Pipeline
from ..runs.run import Run
from ..version import versions
from .catalogue import METRICS, check_metrics, default_metrics
from .evaluator import BATCH, Evaluator, Progress
from .figures import Pictures
from .reference import Reference, fingerprint
from .result import Measured, Result, over_seeds
from .sample_set import Block, Source
from .sample_sets import BUILT_IN, Samples, open_source
from .saved_samples import saving

COUNTS = {"pixels": 2000, "pictures": 50_000, "clips": 2048}
"""Samples that are measured unless one says: by unpublished features, by published networks, and of clips."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an evaluation is done.

    Args:
        metrics: names of METRICS; None for FID and IS, of clips FVD, of pictures under 32 pixels the pixel metrics.
        nfes: numbers of network evaluations, each from the same noise.
        count: samples at each, every class equally often; None for COUNTS.
        seeds: of the noise; with several, means and deviations over them.
        guidance: scale and interval.
        size: image files are cropped and scaled to it.
        frames: of clip files, from their middle; None for as many as a run makes, or 16.
        weights: files of extractors' weights, by extractor: ``FILE``, or ``FILE#SHA256`` for one's own.
        device: where extractors and samplers run.
        batch_size: samples made or read at once.
        save: a folder for all samples, as PNG files, clips as MP4.
        pictures: a folder for grids, nearest real pictures, and the worst classes.
        kid_subset_size: samples of each side in one of KID's 100 subsets.
    """

    metrics: Sequence[str] | None = None
    nfes: Sequence[int] = (1,)
    count: int | None = None
    seeds: Sequence[int] = (0,)
    guidance: CFG | None = None
    size: int | None = None
    frames: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str | torch.device = "auto"
    batch_size: int = BATCH
    save: Path | None = None
    pictures: Path | None = None
    kid_subset_size: int = SIZE

    def __post_init__(self) -> None:
        if self.metrics is not None:
            check_metrics(self.metrics)
        if not self.nfes or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"give at least one NFE, and seeds that differ; got {self.nfes} and {self.seeds}")


def evaluate(
    target: Run | Source | Path | str,
    reference: Reference | Source | Path | str | None = None,
    *,
    world: World | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result | None:
    """Measures a run, or pictures or clips on disk: ``af.evaluate("runs/digits", nfes=(1, 2, 4)).rows``.

    Args:
        target: a run, or its folder; or a folder, a zip, an .npz, shards; or `Images` in memory.
        reference: real ones in the same forms, a file of statistics, or a data set's name; None for a run's
            training data.
        world: the processes that share the work.
        progress: told what is looked at, how many are done, and of how many.
        **options: as `Options` has them.

    Returns:
        The figures and the protocol; None in processes but the first.

    Raises:
        UserError: nothing there, sets that can't be compared, missing weights, …
    """
    chosen = Options(**options)
    world, device = world or World(), find_device(chosen.device)
    if isinstance(target, Path | str) and (Path(target) / "run.json").is_file():
        target = Run(target, device=device)
    open_sets = _of_run if isinstance(target, Run) else _of_pictures
    found, sets, about = open_sets(target, reference, chosen, device)  # type: ignore[arg-type]
    shape = sets[0][2].shape
    evaluator = Evaluator(
        chosen.metrics or default_metrics(shape),
        found,
        device=device,
        weights=chosen.weights,
        batch_size=chosen.batch_size,
        world=world,
        keep=chosen.pictures is not None,
        progress=progress,
        kid_subset_size=chosen.kid_subset_size,
    )
    rows, warnings = measure_sets(evaluator, sets, chosen)
    return Result(rows, {**about, **_protocol(evaluator, chosen, shape)}, warnings) if world.main else None


Sets = Sequence[tuple[int | None, int | None, Source]]
"""(NFE, seed, samples) of each set that is measured."""

Given = Reference | Source | Path | str | None
"""What the user gives as a reference."""


def _of_run(run: Run, given: Given, options: Options, device: torch.device) -> tuple[Reference, Sets, dict[str, Any]]:
    """The reference of a run, its samples, and what is recorded of both."""
    for nfe in options.nfes:  # a wrong number is reported before the reference is read
        run.sampler(nfe, options.guidance)
    shape, fps = run.pixel_shape, run.fps
    found = Reference.of_run(run) if given is None else find_reference(given, options, shape, device, fps)
    return found, samples_of(run, options), _about_run(run, options)


def _of_pictures(
    target: Source | Path | str, given: Given, options: Options, device: torch.device
) -> tuple[Reference, Sets, dict[str, Any]]:
    """The reference of pictures on disk or in memory, they themselves, and what is recorded of both."""
    _check_there(target, given)
    found = find_reference("" if given is None else given, options, None, device, None)
    if isinstance(target, Source):
        return found, [(None, None, target)], {"target": target.name}
    source = open_source(target, **_form(found.shape or None, options), device=device)
    return found, [(None, None, source)], {"target": source.name, "target_sha256": fingerprint(target)}


def samples_of(run: Pipeline, options: Options) -> Sets:
    """A run's samples at each NFE, with each seed."""
    metrics = options.metrics or default_metrics(run.pixel_shape)
    own = all(METRICS[name].extractor in UNPUBLISHED for name in metrics)
    kind = "pixels" if own else "pictures" if len(run.pixel_shape) == 3 else "clips"
    count = options.count or COUNTS[kind]
    return [
        (nfe, seed, Samples(run, nfe, count, seed, options.guidance)) for nfe in options.nfes for seed in options.seeds
    ]


def measure_sets(evaluator: Evaluator, sets: Sets, options: Options) -> tuple[list[Measured], list[str]]:
    """Measures every set; the rows and the warnings, both empty in processes but the first."""
    for _, _, source in sets:
        evaluator.check(len(source), source.shape)
    pictures = None if options.pictures is None else Pictures(options.pictures, evaluator)
    rows: list[Measured] = []
    warnings: list[str] = []
    scale = "" if options.guidance is None else f", guidance {options.guidance.scale:g}"
    for nfe, seed, source in sets:
        guided = scale if isinstance(source, Samples) and source.run.takes_guidance else ""
        with _saving(evaluator, source, options, nfe, seed) as seen:
            compared = evaluator.measure(source, seen)
        if compared is None:
            continue
        rows.append(Measured(source.name + guided, nfe, len(source), compared.values, seed))
        warnings += [line for line in compared.warnings if line not in warnings]
        if pictures is not None and seed in (None, options.seeds[0]):
            warnings += pictures.of(source, compared.statistics, nfe)
        if len(options.seeds) > 1 and seed == options.seeds[-1]:
            rows.append(over_seeds(rows[-len(options.seeds) :]))
    halves = evaluator.real_halves()
    if halves is not None:
        rows.append(Measured("real halves", None, halves.statistics.count, halves.values))
    return rows, warnings


def _saving(
    evaluator: Evaluator, source: Source, options: Options, nfe: int | None, seed: int | None
) -> AbstractContextManager[Callable[[Block], None] | None]:
    if options.save is None or nfe is None:
        return nullcontext()
    place = options.save / f"nfe-{nfe}-seed-{seed}"
    return saving(place, source.class_names, evaluator.world, source.fps)


def find_reference(
    given: Reference | Source | Path | str,
    options: Options,
    shape: tuple[int, ...] | None,
    device: torch.device,
    fps: float | None,
) -> Reference:
    """What the user gives, opened to fit samples of this shape, (c, h, w) or (c, f, h, w), and rate, if known."""
    if isinstance(given, Reference):
        return given
    if isinstance(given, Source):
        return Reference(given.name, given, class_names=given.class_names)
    return Reference.of_path(given, **_form(shape, options), device=device, fps=fps)


def _form(shape: tuple[int, ...] | None, options: Options) -> dict[str, Any]:
    """How files are read, to compare with samples of this shape."""
    if shape is None:
        return {"size": options.size, "frames": options.frames or FRAMES, "kind": options.frames and "clips"}
    clips = len(shape) == 4
    if not clips:
        return {"size": options.size, "mode": image_mode(shape[0]), "kind": "images"}
    frames = options.frames or shape[1]
    return {"size": options.size or shape[-1], "mode": image_mode(shape[0]), "frames": frames, "kind": "clips"}


def _check_there(target: Source | Path | str, reference: Any) -> None:
    there = isinstance(target, Source) or str(target) in BUILT_IN or Path(target).exists() or tars_of(Path(target))
    if not there:
        raise UserError(f"{target} doesn't exist; give a run's folder, a folder, zip or tars of images, or an .npz")
    if reference is None:
        raise UserError(f"{target} is no run, so there is no training data to measure against; give --reference")


def _about_run(run: Run, options: Options) -> dict[str, Any]:
    """What of a run the figures depend on."""
    weights = AVERAGE if run.ema else MODEL
    place = run.folder.checkpoint(run.step) if run.record else None
    files = {} if place is None else (manifest(place) or {}).get("files", {})
    return {
        "target": str(run.folder.path) if run.record else "a run in training",
        "run": {
            "checkpoint": run.step,
            "weights": "ema" if run.ema else "raw",
            "weights_sha256": (files.get(weights) or {}).get("sha256"),
            "recipe": run.record.get("recipe", {}).get("name"),
            "guidance": None if options.guidance is None else asdict(options.guidance),
            "labels": "every class equally often" if run.sampled_classes else None,
            "samplers": {str(nfe): str(run.sampler(nfe, options.guidance)) for nfe in options.nfes},
            "seeds": list(options.seeds),
            "nfes": list(options.nfes),
        },
    }


def _protocol(evaluator: Evaluator, options: Options, shape: tuple[int, ...]) -> dict[str, Any]:
    """What is recorded of every evaluation."""
    reference, real = evaluator.reference, evaluator.real()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": list(evaluator.metrics),
        "about": {name: METRICS[name].about for name in evaluator.metrics},
        "extractors": evaluator.used(),
        "shape": list(shape),
        "size": options.size,
        "batch_size": options.batch_size,
        **({"kid_subset_size": evaluator.kid_subset_size} if "kid" in evaluator.metrics else {}),
        "rounding": "8 bits",
        "reference": {
            "name": reference.name,
            "count": 0 if real is None else real.count,
            "shape": list(reference.shape),
            "sha256": reference.sha256 or None,
        },
        "processes": evaluator.world.size,
        "device": str(find_device(options.device).type),
        "versions": versions(),
    }
