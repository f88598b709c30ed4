"""`alphaflow diagnose`: gradient conflict and loss by time, as a table, a plot, and JSON."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device, RunPath, Trust, integers

if TYPE_CHECKING:
    from alphaflow.diagnose import Diagnosis


class Plot(StrEnum):
    """How the plot is written."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


def diagnose(
    run: RunPath,
    *,
    checkpoints: Annotated[
        str | None, typer.Option(help="Their steps, for example 260,2600.", show_default="all")
    ] = None,
    batches: Annotated[int, typer.Option(help="Training batches to measure on, the same at each.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of data order, times and noise.", min=0, max=2**63 - 1)] = 0,
    out: Annotated[Path | None, typer.Option(help="The folder to write to.", show_default="RUN")] = None,
    format: Annotated[Plot, typer.Option(help="Of the plot.")] = Plot.PNG,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Take MeanFlow's loss apart over a run's checkpoints: how far do its gradients pull against each other.

    Writes diagnosis.json and a plot. What `train --probe-every` measured is shown beside it.
    """
    from alphaflow.diagnose import check_free, picture
    from alphaflow.diagnose import diagnose as measure
    from alphaflow.files import check_writable, write_json

    place = run if out is None else out
    check_writable(place, folder=True)
    check_free(place)
    steps = None if checkpoints is None else integers(checkpoints, "--checkpoints")
    found = measure(run, steps=steps, batches=batches, seed=seed, device=device, say=print, trust=trust)
    plot = place / f"diagnosis.{format.value}"
    write_json(place / "diagnosis.json", found.record())
    picture(found, plot)
    _print(found)
    print(f"written to {place / 'diagnosis.json'} and {plot}")


def _print(found: Diagnosis) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from alphaflow.diagnose import THRESHOLD

    what = f"gradients of L_TFM, L_TC and L_FM′, {found.batches} batches of {found.batch_size}"
    table = Table(title=what, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("step", "cos TFM,TC", "of a batch", "cos FM′,TC", "‖∇TFM‖", "‖∇TC‖", "‖∇FM′‖"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step, conflict in found.conflicts.items():
        cosines = [conflict.cosine["tfm_tc"], conflict.batch_cosine["tfm_tc"], conflict.cosine["tc_fm"]]
        norms = [conflict.norm[name] for name in ("tfm", "tc", "fm")]
        numbers = [f"{value:+.3f}" for value in cosines] + [f"{value:.3g}" for value in norms]
        table.add_row(str(step), *numbers)
    Console().print(table)
    share, count = found.share_below()
    source = "probed steps" if found.probe else "checkpoints"
    if count:
        print(f"cos(∇L_TFM, ∇L_TC) of a batch is below {THRESHOLD} at {share:.0%} of {count} {source}")
