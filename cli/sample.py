"""`alphaflow sample RUN`: samples as pictures or as one array."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Checkpoint, Debug, Device, Guidance, GuidanceInterval, Raw, RunPath, Seed, guide, integers

if TYPE_CHECKING:
    from torch import Tensor


class Format(StrEnum):
    """How samples are written."""

    PNG = "png"
    NPZ = "npz"


def sample(
    run: RunPath,
    *,
    nfe: Annotated[int, typer.Option(help="Network evaluations a sample.")] = 1,
    count: Annotated[int, typer.Option(help="How many samples.", min=1)] = 100,
    classes: Annotated[str | None, typer.Option(help="Class indices, for example 3,7; in turn.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced/--random", help="Every class equally often, or classes drawn at random.")
    ] = True,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="RUN/samples/nfe-N[-guidance-G]-seed-S")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="PNG files in class folders, or one .npz (arr_0, arr_1).")
    ] = Format.PNG,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    batch_size: Annotated[int, typer.Option(help="Samples at a time.", min=1)] = 256,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    debug: Debug = False,
) -> None:
    """Sample from a run. Writes the samples and, beside the folder, a picture of the first hundred."""
    from alphaflow.data.written import write_samples
    from alphaflow.run import Run

    guided = guide(guidance, guidance_interval)
    opened = Run(run, step=checkpoint, ema=not raw, device=device)
    sampler = opened.sampler(nfe, guided)
    labels = _labels(opened.classes, count, classes, balanced, seed)
    named = "" if guidance is None else f"-guidance-{guidance:g}"
    named += "" if guidance_interval == "0,1" else "-in-" + guidance_interval.replace(",", "-")
    place = out or opened.folder.path / "samples" / f"nfe-{nfe}{named}-seed-{seed}"
    write_samples(
        place,
        lambda: opened.sample(count, nfe, labels=labels, seed=seed, batch_size=batch_size, guidance=guided),
        labels,
        opened.class_names,
        format.value,
        overwrite,
    )
    print(f"{count} samples at {nfe} NFE ({sampler}) in {place}; a picture of them in {place}.png")


def _labels(known: int | None, count: int, chosen: str | None, balanced: bool, seed: int) -> Tensor | None:
    """The labels to sample (count,); None for a run without classes."""
    import torch

    from alphaflow.data.labels import balanced_labels, chosen_labels, random_labels

    if chosen is not None:
        return chosen_labels(count, integers(chosen, "--classes"), known)
    if not known:
        return None
    return (
        balanced_labels(count, known) if balanced else random_labels(count, known, torch.Generator().manual_seed(seed))
    )
