"""`alphaflow diagnose`: gradient conflict and loss by time, as a table, a plot, and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .flags import as_flags
from .options import Device, RunPath, Trust, integers

if TYPE_CHECKING:
    from alphaflow.diagnosis.diagnose import Diagnosis


def diagnose(
    run: RunPath,
    *,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Steps of the checkpoints to measure, separated by commas, for example 260,2600.", show_default="all"
        ),
    ] = None,
    batches: Annotated[
        int, typer.Option(help="Number of training batches to measure on; every checkpoint gets the same ones.", min=1)
    ] = 8,
    seed: Annotated[
        int, typer.Option(help="Seed for the data order, the times and the noise.", min=0, max=2**63 - 1)
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for diagnosis.json and the plot.", show_default="RUN")
    ] = None,
    format: Annotated[Literal["png", "svg", "pdf"], typer.Option(help="File format of the plot.")] = "png",
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Measure at every checkpoint of a run how far the gradients of MeanFlow's loss terms conflict.

    Writes diagnosis.json and a plot; values from `train --probe-every` are shown beside them.
    """
    from alphaflow.diagnosis.diagnose import check_free, picture
    from alphaflow.diagnosis.diagnose import diagnose as measure
    from alphaflow.files import check_writable, write_json

    place = run if out is None else out
    check_writable(place, folder=True)
    check_free(place)
    steps = None if checkpoints is None else integers(checkpoints, "--checkpoints")
    found = measure(
        run, steps=steps, batches=batches, seed=seed, device=device, say=lambda text: print(as_flags(text)), trust=trust
    )
    plot = place / f"diagnosis.{format}"
    write_json(place / "diagnosis.json", found.record())
    picture(found, plot)
    _print(found)
    print(f"written to {place / 'diagnosis.json'} and {plot}")


def _print(found: Diagnosis) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from alphaflow.diagnosis.diagnose import THRESHOLD

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
        print(f"the batch's cos(∇L_TFM, ∇L_TC) is below {THRESHOLD} at {share:.0%} of {count} {source}")
