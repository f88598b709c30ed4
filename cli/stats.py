"""`alphaflow stats`: statistics of real pictures or clips, once for all evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AT_ONCE, AtOnce, Device, FileFrames, FileSize, WeightsOption, metric_names
from .options import weights as weights_of
from .progress import shown


def stats(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Pictures or clips: a folder, a zip, tars, an .npz, shards; or digits.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .npz to write.")],
    *,
    metrics: Annotated[
        str | None,
        typer.Option(help="What will be measured, as in evaluate; kid and pr keep every feature.", show_default="fid"),
    ] = None,
    size: FileSize = None,
    frames: FileFrames = None,
    weights: WeightsOption = None,
    batch_size: AtOnce = AT_ONCE,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace statistics that are there.")] = False,
) -> None:
    """Write statistics of real pictures or clips, for `evaluate --reference OUT`. Under torchrun, work is shared."""
    from alphaflow.data_tools.statistics import make_statistics

    from alphaflow.training.device import find_device
    from alphaflow.training.distributed import join, leave

    found = find_device(device)
    world = join(found)
    with shown(world.main) as progress:
        written = make_statistics(
            source,
            out,
            metrics=metric_names(metrics),
            size=size,
            frames=frames,
            weights=weights_of(weights),
            device=found,
            batch_size=batch_size,
            overwrite=overwrite,
            world=world,
            progress=progress,
        )
    leave()
    if written is not None:
        kept = ", ".join(f"{name} ({space.count:,})" for name, space in written.spaces.items())
        print(f"statistics of {written.count:,} samples in {out}: {kept}")
