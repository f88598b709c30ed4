"""`alphaflow stats`: statistics of real pictures or clips, once for all evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AT_ONCE, AtOnce, Device, FileFrames, FileSize, WeightsOption, metric_names
from .options import weights as weights_of
from .progress import shown

Source = Annotated[
    str,
    typer.Argument(metavar="SRC", help="Images or clips in a folder, zip, tars, .npz or shards; or the name digits."),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Metrics that the statistics are for, named as in `alphaflow evaluate`; kid and pr store every feature.",
        show_default="as in evaluate",
    ),
]


def stats(
    source: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .npz file to write.")],
    *,
    metrics: Metrics = None,
    size: FileSize = None,
    frames: FileFrames = None,
    weights: WeightsOption = None,
    batch_size: AtOnce = AT_ONCE,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing statistics file.")] = False,
) -> None:
    """Compute statistics of real images or clips once, for `alphaflow evaluate --reference OUT`.

    Under torchrun the processes share the work.
    """
    from alphaflow.data_tools.make_statistics import make_statistics

    from alphaflow.parallel.device import find_device
    from alphaflow.parallel.world import join, leave

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
