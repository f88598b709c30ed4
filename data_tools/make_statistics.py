"""Statistics of real pictures or clips, written once and measured against ever after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from alphaflow.data.listing.endings import Modality
from alphaflow.errors import UserError
from alphaflow.evaluation.catalogue import default_metrics
from alphaflow.evaluation.evaluator import BATCH, Evaluator
from alphaflow.evaluation.reference import EvaluationReference
from alphaflow.evaluation.statistics import Statistics
from alphaflow.evaluation.statistics_file import is_ours, write_statistics
from alphaflow.features.networks import FRAMES
from alphaflow.parallel.world import World
from alphaflow.progress import ProgressCallback


def make_statistics(
    source: Path | str,
    out: Path,
    *,
    metrics: Sequence[str] | None = None,
    size: int | None = None,
    frames: int | None = None,
    weights: Mapping[str, str] | None = None,
    device: torch.device | None = None,
    batch_size: int = BATCH,
    overwrite: bool = False,
    world: World | None = None,
    progress: ProgressCallback | None = None,
) -> Statistics | None:
    """Looks at every picture or clip once and writes what metrics need of them; the file is whole or not there.

    Args:
        source: as `evaluation.sample_sets.open_sample_set` takes it.
        out: the .npz.
        metrics: metrics to prepare for; None takes those of `evaluate`. Moments are written, and all features for kid
            and pr.
        size: image files are cropped and scaled to it.
        frames: number of frames to read from the middle of clip files; None for 16, where a place holds clips only.
        weights: files of extractors' weights by extractor.
        device: where extractors run.
        batch_size: samples read at once.
        overwrite: replace statistics that are there.
        world: the processes that share the work.
        progress: is told how far it is.

    Returns:
        The statistics; None in processes but the first.

    Raises:
        UserError: nothing to read, the file is there, or missing weights.
    """
    _check_free(out, overwrite)
    kind: Modality | None = "clips" if frames else None
    pictures = EvaluationReference.of_path(source, size=size, frames=frames or FRAMES, kind=kind, device=device).samples
    if pictures is None or not pictures.pictures:
        what = "statistics already" if pictures is None else "no pictures, which statistics are of"
        raise UserError(f"{source} holds {what}; give the pictures themselves")
    options = {"device": device, "weights": weights, "batch_size": batch_size, "world": world, "progress": progress}
    wanted = metrics or default_metrics(pictures.shape)
    evaluator = Evaluator(wanted, EvaluationReference(pictures.name, pictures), **options)  # type: ignore[arg-type]
    evaluator.check(pictures)
    found = evaluator.real()
    if found is not None:
        write_statistics(out, found, pictures.name, pictures.class_names)
    return found


def _check_free(out: Path, overwrite: bool) -> None:
    if out.suffix != ".npz":
        raise UserError(f"statistics are written to an .npz, not to {out.name}")
    if out.exists() and not is_ours(out):
        raise UserError(f"{out} exists, and is not a file of statistics; choose another `out=`")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another `out=`, or replace it with `overwrite=True`")
