"""`alphaflow sample RUN`: samples as pictures, as clips, or as one array, written while they are made."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import (
    Checkpoint,
    Device,
    Guidance,
    GuidanceInterval,
    Precision,
    Raw,
    RunPath,
    Seed,
    Trust,
    guide,
    integers,
    open_run,
)

if TYPE_CHECKING:
    from torch import Tensor

    from alphaflow.runs.condition_rows import ConditionRows
    from alphaflow.runs.run import Run


Nfe = Annotated[int, typer.Option(help="Number of network evaluations per sample.")]
Count = Annotated[int | None, typer.Option(help="Number of samples.", min=1, show_default="100; 16 clips")]
Classes = Annotated[str | None, typer.Option(help="Indices of the classes to sample, in turn, for example 3,7.")]
Balanced = Annotated[
    bool, typer.Option("--balanced/--random", help="Take every class equally often, or draw classes at random.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder to write the samples to.", show_default="RUN/samples/nfe-N[-guidance-G]-seed-S"),
]
Written = Annotated[
    Literal["png", "npz", "npy", "mp4", "gif"] | None,
    typer.Option(
        help="png, mp4 and gif write one file per sample, in class folders; npz writes one archive with arr_0 "
        "(samples) and arr_1 (labels). Samples that are no pictures are written as floats, in an npz or an npy.",
        show_default="png; mp4 for clips; npz for what is no picture",
    ),
]
Conditions = Annotated[
    Path | None,
    typer.Option(
        help="Data to take conditions from, in order and again from the start: an .npz of arrays named as the "
        "conditions are, an .npy of the only one, a folder of shards, or a folder, zip or tars of images."
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        help="A sentence to make every sample from, encoded as those in the training data; other conditions come from "
        "--conditions."
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(help="Frames per second of the written clips.", show_default="as in the training data, or 8"),
]
Frames = Annotated[int | None, typer.Option(help="Number of frames in each clip.", min=1, show_default="as trained")]
Size = Annotated[
    int | None, typer.Option(help="Height and width of the samples in pixels.", min=1, show_default="as trained")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace samples that an earlier call wrote to the folder.")
]
AtOnce = Annotated[
    int | None, typer.Option(help="Number of samples to generate at once.", min=1, show_default="256; 16 clips")
]


def sample(
    run: RunPath,
    *,
    nfe: Nfe = 1,
    count: Count = None,
    classes: Classes = None,
    balanced: Balanced = True,
    conditions: Conditions = None,
    text: Text = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    seed: Seed = 0,
    out: Out = None,
    format: Written = None,
    fps: Fps = None,
    frames: Frames = None,
    size: Size = None,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    batch_size: AtOnce = None,
    device: Device = "auto",
    precision: Precision = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate samples from a run, and an overview: an image or a chart and, for clips, a video of all."""
    from alphaflow.media.clips import DEFAULT_FPS
    from alphaflow.media.sample_files import check_form, write_samples
    from alphaflow.progress import shown
    from alphaflow.runs.generation import Generation

    guided = guide(guidance, guidance_interval)
    opened = open_run(run, checkpoint, raw, device, precision, trust)
    opened.resize(frames, size)
    clips = opened.makes_pictures and len(opened.shape) == 4
    rate = opened.fps or DEFAULT_FPS if clips and fps is None else fps
    form = check_form(format, opened.pixel_shape, rate, opened.makes_pictures)
    rows = _rows(opened, conditions, text)
    number = count or min(16 if clips else 100, 100 if rows is None or text is not None else len(rows))
    labels = _labels(opened, number, classes, balanced, seed, rows is not None)
    varied = _named({"guidance": guidance, "in": guidance_interval, "frames": frames, "size": size, "as": precision})
    place = out or opened.folder.path / "samples" / f"nfe-{nfe}{varied}-seed-{seed}"
    with shown(sys.stderr) as progress:
        at_once = batch_size or (16 if clips else 256)
        made = Generation(opened, number, nfe, labels, rows, seed, at_once, guided, progress)
        names, speed = opened.class_names, rate or DEFAULT_FPS
        written = write_samples(place, lambda: made, made.labels, names, form, overwrite, speed, made.beside)
    seen = f"; overview: {', '.join(map(str, written))}" if written else ""
    print(f"{number} samples at {nfe} NFE ({opened.sampler(nfe, guided)}) in {place}{seen}")
    _say_rate(speed if clips else None, opened.fps or fps)


def _say_rate(rate: float | None, known: float | None) -> None:
    if rate is None:
        return
    guessed = "" if known else " (assumed, because the data do not say; choose another with --fps)"
    print(f"{rate:g} frames a second{guessed}")


def _named(settings: Mapping[str, object]) -> str:
    """What a folder's name says of settings that aren't the usual ones."""
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    shown = {name: text.replace(",", "-") for name, text in texts.items() if text not in ("None", "0,1", "fp32")}
    return "".join(f"-{name}-{text}" for name, text in shown.items())


def _rows(run: Run, conditions: Path | None, text: str | None) -> ConditionRows | None:
    """What the samples are made from beside labels; None for nothing."""
    from alphaflow.runs.condition_rows import open_conditions
    from alphaflow.runs.generation import text_rows

    said = None if text is None else text_rows(run, text)
    return said if conditions is None else open_conditions(conditions, run, said)


def _labels(run: Run, count: int, chosen: str | None, balanced: bool, seed: int, given: bool) -> Tensor | None:
    """The labels to sample (count,); None for a run without classes, or where the data of conditions may have them."""
    import torch

    from alphaflow.errors import UserError
    from alphaflow.runs.labels import balanced_labels, chosen_labels, random_labels

    if chosen is not None:
        if not balanced:
            raise UserError("--classes chooses the classes; leave --random out")
        return chosen_labels(count, integers(chosen, "--classes"), run.classes)
    if not run.sampled_classes or (balanced and given):
        return None
    if balanced:
        return balanced_labels(count, run.sampled_classes)
    return random_labels(count, run.sampled_classes, torch.Generator().manual_seed(seed))
