"""Measuring a run at several numbers of network evaluations, or images and clips on disk or in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..data.listing.listing import tars_of
from ..errors import UserError
from ..guidance import CFG
from ..metrics.kid import SIZE
from ..parallel.device import find_device
from ..parallel.world import join
from ..progress import ProgressCallback
from ..runs.checkpoint import AVERAGE, MODEL, manifest
from ..runs.run import Run
from ..version import versions
from .catalogue import METRICS, default_metrics
from .evaluator import BATCH, Evaluator
from .measure import Given, Sets, Settings, find_reference, form_of, measure_sets, samples_of
from .reference import EvaluationReference, fingerprint
from .result import EvaluationResult
from .sample_set import SampleSet
from .sample_sets import BUILT_IN, open_sample_set


def evaluate(
    target: Run | SampleSet | Path | str,
    reference: Given = None,
    *,
    metrics: Sequence[str] | None = None,
    nfes: Sequence[int] = (1,),
    count: int | None = None,
    seeds: Sequence[int] = (0,),
    guidance: CFG | None = None,
    size: int | None = None,
    frames: int | None = None,
    weights: Mapping[str, str] | None = None,
    kid_subset_size: int = SIZE,
    batch_size: int = BATCH,
    device: str | torch.device = "auto",
    trust: bool = False,
    save: Path | None = None,
    pictures: Path | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Measures a run, or images or clips on disk: ``af.evaluate("runs/digits", nfes=(1, 2, 4)).rows``.

    Processes that torchrun started share the work: all of them call this, and all get the result.

    Args:
        target: a run or its folder; images or clips in a folder, a zip, an .npz, shards; floats; or `InMemorySamples`.
        reference: real ones likewise, a data set, its name, or a file of statistics; None for a run's training data.
        metrics: names of METRICS; None for those of `default_metrics`.
        nfes: numbers of network evaluations, each from the same noise.
        count: samples at each, every class equally often; None for COUNTS.
        seeds: seeds of the noise; with several, means and deviations over them.
        guidance: scale and interval.
        size: image files are cropped and scaled to it.
        frames: number of frames to read from the middle of clip files; None for as many as a run makes, or 16.
        weights: files of extractors' weights, by extractor: ``FILE``, or ``FILE#SHA256`` for your own.
        kid_subset_size: samples of each side in one of KID's 100 subsets.
        batch_size: samples made or read at once.
        device: where extractors run, and the samplers of a run that is opened here.
        trust: the recipe.py of a run that is opened here may be run, as `Run` has it.
        save: a folder for all samples, as PNG files, clips as MP4.
        pictures: a folder for grids, nearest real images, and the worst classes.
        progress: told what is looked at, how many are done, and of how many.

    Raises:
        UserError: nothing there, sets that can't be compared, missing weights, …
    """
    settings = Settings(
        metrics, nfes, count, seeds, guidance, size, frames, weights or {}, kid_subset_size, batch_size, save, pictures
    )
    return _evaluated(target, reference, settings, find_device(device), trust, progress)


def _evaluated(
    target: Run | SampleSet | Path | str,
    given: Given,
    settings: Settings,
    device: torch.device,
    trust: bool,
    progress: ProgressCallback | None,
) -> EvaluationResult:
    world = join(device)
    if isinstance(target, Path | str) and (Path(target) / "run.json").is_file():
        target = Run(target, device=device, trust=trust)
    if isinstance(target, Run):
        found, sets, about = _of_run(target, given, settings, device)
    else:
        found, sets, about = _of_images(target, given, settings, device)
    samples = sets[0][2]
    shape = samples.shape
    evaluator = Evaluator(
        settings.metrics or default_metrics(shape, samples.pictures, samples.truths),
        found,
        device=device,
        weights=settings.weights,
        batch_size=settings.batch_size,
        world=world,
        keep=settings.pictures is not None,
        progress=progress,
        kid_subset_size=settings.kid_subset_size,
    )
    rows, warnings = measure_sets(evaluator, sets, settings)
    return world.first(
        lambda: EvaluationResult(rows, {**about, **_protocol(evaluator, settings, samples, device)}, warnings)
    )


def _of_run(
    run: Run, given: Given, settings: Settings, device: torch.device
) -> tuple[EvaluationReference, Sets, dict[str, Any]]:
    """The reference of a run, its samples, and what is recorded of both."""
    for nfe in settings.nfes:  # a wrong number is reported before the reference is read
        run.sampler(nfe, settings.guidance)
    shape, fps = run.pixel_shape, run.fps
    found = EvaluationReference.of_run(run) if given is None else find_reference(given, settings, shape, device, fps)
    sets = samples_of(run, settings, found)
    return found, sets, {**_about_run(run, settings), "conditions": _about_conditions(run, sets[0][2])}


def _of_images(
    target: SampleSet | Path | str, given: Given, settings: Settings, device: torch.device
) -> tuple[EvaluationReference, Sets, dict[str, Any]]:
    """The reference of pictures on disk or in memory, they themselves, and what is recorded of both."""
    _check_there(target, given)
    found = find_reference("" if given is None else given, settings, None, device, None)
    if isinstance(target, SampleSet):
        return found, [(None, None, target)], {"target": target.name}
    samples = open_sample_set(target, **form_of(found.shape or None, settings), device=device)
    return found, [(None, None, samples)], {"target": samples.name, "target_sha256": fingerprint(target)}


def _check_there(target: SampleSet | Path | str, reference: Any) -> None:
    there = isinstance(target, SampleSet) or str(target) in BUILT_IN or Path(target).exists() or tars_of(Path(target))
    if not there:
        raise UserError(f"{target} doesn't exist; give a run's folder, a folder, zip or tars of images, or an .npz")
    if reference is None:
        raise UserError(f"{target} is not a run, so there are no training data to compare with; give `reference=`")


def _about_run(run: Run, settings: Settings) -> dict[str, Any]:
    """What of a run the figures depend on."""
    weights = AVERAGE if run.ema else MODEL
    files = (manifest(run.folder.checkpoint(run.step)) or {}).get("files", {})
    return {
        "target": str(run.folder.path),
        "run": {
            "checkpoint": run.step,
            "weights": "ema" if run.ema else "raw",
            "weights_sha256": (files.get(weights) or {}).get("sha256"),
            "recipe": run.record["recipe"]["name"],
            "guidance": None if settings.guidance is None else asdict(settings.guidance),
            "labels": "every class equally often" if run.sampled_classes else None,
            "samplers": {str(nfe): str(run.sampler(nfe, settings.guidance)) for nfe in settings.nfes},
            "seeds": list(settings.seeds),
            "nfes": list(settings.nfes),
        },
    }


def _about_conditions(run: Run, samples: SampleSet) -> str | None:
    """Where the samples' conditions came from; None where they have none but labels."""
    if not run.conditioning.needed:
        return None
    where = "the reference" if samples.paired else "the training data"
    return f"{', '.join(run.conditioning.needed)} of {where}, in order"


def _protocol(evaluator: Evaluator, settings: Settings, samples: SampleSet, device: torch.device) -> dict[str, Any]:
    """What is recorded of every evaluation."""
    reference, real = evaluator.reference, evaluator.real()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": list(evaluator.metrics),
        "about": {name: METRICS[name].about for name in evaluator.metrics},
        "extractors": evaluator.used(),
        "shape": list(samples.shape),
        "size": settings.size,
        "batch_size": settings.batch_size,
        **({"kid_subset_size": evaluator.kid_subset_size} if "kid" in evaluator.metrics else {}),
        "rounding": "8 bits" if samples.pictures else None,
        "reference": {
            "name": reference.name,
            "count": 0 if real is None else real.count,
            "shape": list(reference.shape),
            "sha256": reference.sha256 or None,
        },
        "processes": evaluator.world.size,
        "device": str(device.type),
        "versions": versions(),
    }
