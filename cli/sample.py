"""`alphaflow sample RUN`: samples as pictures or as one array."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How samples are written."""

    PNG = "png"
    NPZ = "npz"


def sample(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    *,
    nfe: Annotated[int, typer.Option(help="Network evaluations a sample.")] = 1,
    count: Annotated[int, typer.Option(help="How many samples.", min=1)] = 100,
    classes: Annotated[str | None, typer.Option(help="Class indices, for example 3,7; in turn.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced/--random", help="Every class equally often, or classes drawn at random.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the noise.", min=0, max=2**63 - 1)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="RUN/samples/nfe-N-seed-S")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="PNG files in class folders, or one .npz (arr_0, arr_1).")
    ] = Format.PNG,
    checkpoint: Annotated[int | None, typer.Option(help="Of which step.", show_default="the last")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The raw weights, not their average.")] = False,
    batch_size: Annotated[int, typer.Option(help="Samples at a time.", min=1)] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, …; auto takes a GPU if there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Sample from a run. Writes the samples and, beside the folder, a picture of the first hundred."""
    import torch

    from alphaflow.data.labels import balanced_labels, chosen_labels, random_labels
    from alphaflow.data.written import write_samples
    from alphaflow.run import Run

    from .options import integers

    opened = Run(run, step=checkpoint, ema=not raw, device=device)
    sampler = opened.sampler(nfe)
    labels = None
    if classes is not None:
        labels = chosen_labels(count, integers(classes, "--classes"), opened.classes)
    elif opened.classes and not balanced:
        labels = random_labels(count, opened.classes, torch.Generator().manual_seed(seed))
    elif opened.classes:
        labels = balanced_labels(count, opened.classes)
    place = out or opened.folder.path / "samples" / f"nfe-{nfe}-seed-{seed}"
    write_samples(
        place,
        lambda: opened.sample(count, nfe, labels=labels, seed=seed, batch_size=batch_size),
        labels,
        opened.class_names,
        format.value,
        overwrite,
    )
    print(f"{count} samples at {nfe} NFE ({sampler}) in {place}; a picture of them in {place}.png")
