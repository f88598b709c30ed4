"""`alphaflow sample RUN`: samples as pictures, as clips, or as one array."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Checkpoint, Device, Guidance, GuidanceInterval, Raw, RunPath, Seed, Trust, guide, integers

if TYPE_CHECKING:
    from torch import Tensor

    from alphaflow.run import Run


class Format(StrEnum):
    """How samples are written."""

    PNG = "png"
    NPZ = "npz"
    MP4 = "mp4"
    GIF = "gif"


Balanced = Annotated[
    bool, typer.Option("--balanced/--random", help="Every class equally often, or classes drawn at random.")
]
Out = Annotated[
    Path | None, typer.Option(help="The folder to write.", show_default="RUN/samples/nfe-N[-guidance-G]-seed-S")
]
Written = Annotated[
    Format | None,
    typer.Option(help="Files in class folders, or one .npz (arr_0, arr_1).", show_default="png; of clips mp4"),
]
Fps = Annotated[float | None, typer.Option(help="Frames a second of clips.", show_default="the training data's, or 8")]
AtOnce = Annotated[int | None, typer.Option(help="Samples at a time.", min=1, show_default="256; of clips 16")]


def sample(
    run: RunPath,
    *,
    nfe: Annotated[int, typer.Option(help="Network evaluations a sample.")] = 1,
    count: Annotated[int | None, typer.Option(help="How many.", min=1, show_default="100; of clips 16")] = None,
    classes: Annotated[str | None, typer.Option(help="Class indices, for example 3,7; in turn.")] = None,
    balanced: Balanced = True,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    seed: Seed = 0,
    out: Out = None,
    format: Written = None,
    fps: Fps = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip.", min=1, show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels along each side.", min=1, show_default="as trained")] = None,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    batch_size: AtOnce = None,
    device: Device = "auto",
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples that are in the folder.")] = False,
) -> None:
    """Sample from a run. Writes the samples and, beside the folder, a picture of the first; clips playing together."""
    from alphaflow.data.clips import FPS
    from alphaflow.data.written import check_form, write_samples
    from alphaflow.run import Run

    guided = guide(guidance, guidance_interval)
    opened = Run(run, step=checkpoint, ema=not raw, device=device, trust=trust)
    sampler = opened.sampler(nfe, guided)
    opened.resize(frames, size)
    clips = len(opened.shape) == 4
    rate = opened.fps or FPS if clips and fps is None else fps
    form = check_form(None if format is None else format.value, opened.shape, rate)
    number, at_once = count or (16 if clips else 100), batch_size or (16 if clips else 256)
    labels = _labels(opened, number, classes, balanced, seed)
    scale, times = None if guidance is None else f"{guidance:g}", guidance_interval.replace(",", "-")
    settings = {"guidance": scale, "in": times, "frames": frames, "size": size}
    named = "".join(f"-{name}-{value}" for name, value in settings.items() if value not in (None, "0-1"))
    place = out or opened.folder.path / "samples" / f"nfe-{nfe}{named}-seed-{seed}"

    def make() -> Tensor:
        return opened.sample(number, nfe, labels=labels, seed=seed, batch_size=at_once, guidance=guided)

    written = write_samples(place, make, labels, opened.class_names, form, overwrite, rate or FPS)
    print(f"{number} samples at {nfe} NFE ({sampler}) in {place}; pictures: {', '.join(map(str, written))}")
    if clips:
        guessed = "" if opened.fps or fps else ", which the data don't say: --fps chooses another"
        print(f"{rate:g} frames a second{guessed}")


def _labels(run: Run, count: int, chosen: str | None, balanced: bool, seed: int) -> Tensor | None:
    """The labels to sample (count,); None for a run without classes."""
    import torch

    from alphaflow.data.labels import balanced_labels, chosen_labels, random_labels
    from alphaflow.errors import UserError

    if chosen is not None:
        if not balanced:
            raise UserError("--classes chooses the classes, one after another; leave --random out")
        return chosen_labels(count, integers(chosen, "--classes"), run.classes)
    if not run.sampled_classes:
        return None
    if balanced:
        return balanced_labels(count, run.sampled_classes)
    return random_labels(count, run.sampled_classes, torch.Generator().manual_seed(seed))
