"""`alphaflow sample RUN`: samples as pictures, as clips, or as one array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import Checkpoint, Device, Guidance, GuidanceInterval, Raw, RunPath, Seed, Trust, guide, integers

if TYPE_CHECKING:
    from torch import Tensor

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
    Literal["png", "npz", "mp4", "gif"] | None,
    typer.Option(
        help="png, mp4 and gif write one file per sample, in class folders; npz writes one archive with arr_0 "
        "(samples) and arr_1 (labels).",
        show_default="png; mp4 for clips",
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
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate samples from a run, an overview image and, for clips, a video in which they play together."""
    from alphaflow.media.clips import DEFAULT_FPS
    from alphaflow.media.sample_files import check_form, write_samples
    from alphaflow.runs.run import Run

    guided = guide(guidance, guidance_interval)
    opened = Run(run, step=checkpoint, ema=not raw, device=device, trust=trust)
    sampler = opened.sampler(nfe, guided)
    opened.resize(frames, size)
    clips = len(opened.shape) == 4
    rate = opened.fps or DEFAULT_FPS if clips and fps is None else fps
    form = check_form(format, opened.shape, rate)
    number, at_once = count or (16 if clips else 100), batch_size or (16 if clips else 256)
    labels = _labels(opened, number, classes, balanced, seed)
    scale, times = None if guidance is None else f"{guidance:g}", guidance_interval.replace(",", "-")
    settings = {"guidance": scale, "in": times, "frames": frames, "size": size}
    named = "".join(f"-{name}-{value}" for name, value in settings.items() if value not in (None, "0-1"))
    place = out or opened.folder.path / "samples" / f"nfe-{nfe}{named}-seed-{seed}"

    def make() -> Tensor:
        return opened.sample(number, nfe, labels=labels, seed=seed, batch_size=at_once, guidance=guided)

    written = write_samples(place, make, labels, opened.class_names, form, overwrite, rate or DEFAULT_FPS)
    print(f"{number} samples at {nfe} NFE ({sampler}) in {place}; overview: {', '.join(map(str, written))}")
    if clips:
        guessed = "" if opened.fps or fps else " (assumed, because the data do not say; choose another with --fps)"
        print(f"{rate:g} frames a second{guessed}")


def _labels(run: Run, count: int, chosen: str | None, balanced: bool, seed: int) -> Tensor | None:
    """The labels to sample (count,); None for a run without classes."""
    import torch

    from alphaflow.errors import UserError
    from alphaflow.runs.labels import balanced_labels, chosen_labels, random_labels

    if chosen is not None:
        if not balanced:
            raise UserError("--classes chooses the classes; leave --random out")
        return chosen_labels(count, integers(chosen, "--classes"), run.classes)
    if not run.sampled_classes:
        return None
    if balanced:
        return balanced_labels(count, run.sampled_classes)
    return random_labels(count, run.sampled_classes, torch.Generator().manual_seed(seed))
