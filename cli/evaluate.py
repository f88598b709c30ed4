"""`alphaflow evaluate`: metrics of a run or of images on disk, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from alphaflow.evaluate import Measured, Reference

_COLUMNS = {
    "pixel-fd": ("pixel FD ↓", "{:.3f}"),
    "precision": ("precision ↑", "{:.3f}"),
    "recall": ("recall ↑", "{:.3f}"),
    "agreement": ("agreement ↑", "{:.4f}"),
}


def evaluate(
    target: Annotated[Path, typer.Argument(help="A run's folder; or images: a folder, a zip, an .npz.")],
    *,
    reference: Annotated[
        Path | None,
        typer.Option(help="Real images: a folder, a zip, an .npz.", show_default="the run's training data"),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="pixel-fd, pr (precision and recall), agreement (labels against neighbours).")
    ] = "pixel-fd,pr,agreement",
    nfe: Annotated[str, typer.Option(help="Numbers of network evaluations, for example 1,2,4.")] = "1",
    count: Annotated[int, typer.Option(help="Samples at each, every class equally often.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the noise; the same at each NFE.", min=0, max=2**63 - 1)] = 0,
    size: Annotated[
        int | None, typer.Option(help="Crop and scale image files to this size.", show_default="as they are")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    checkpoint: Annotated[int | None, typer.Option(help="Of which step.", show_default="the last")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The raw weights, not their average.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, …; auto takes a GPU if there is one.")] = "auto",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure a run, or images on disk, against real images. These metrics look at raw pixels and need no download."""
    from alphaflow.data.images import image_mode
    from alphaflow.errors import UserError
    from alphaflow.evaluate import Reference, evaluate_images, evaluate_run, real_halves
    from alphaflow.files import write_json
    from alphaflow.metrics.pixels import check_metrics
    from alphaflow.run import Run
    from alphaflow.training.run_folder import versions

    from .options import integers

    names = metrics.split(",")
    check_metrics(names)
    record: dict[str, object] = {"target": str(target), "metrics": names, "versions": versions()}
    if target.is_dir() and (target / "run.json").is_file():
        run = Run(target, step=checkpoint, ema=not raw, device=device)
        nfes = integers(nfe, "--nfe")
        for wanted in nfes:  # a wrong number is reported before the reference is read
            run.sampler(wanted)
        real = (
            Reference.of_run(run) if reference is None else Reference.of_path(reference, size, image_mode(run.shape[0]))
        )
        rows = evaluate_run(run, real, nfes, count, seed, names)
        record |= {"checkpoint": run.step, "weights": "raw" if raw else "ema", "seed": seed}
    else:
        if not target.exists():
            raise UserError(f"{target} doesn't exist; give a run's folder, a folder or zip of images, or an .npz")
        if reference is None:
            raise UserError(f"{target} is no run, so there is no training data to measure against; give --reference")
        real = Reference.of_path(reference, size)
        rows = [evaluate_images(target, real, names, size)]
    halves = real_halves(real, names)
    rows += [] if halves is None else [halves]
    record |= {"reference": {"name": real.name, "count": len(real.images)}, "rows": [asdict(row) for row in rows]}
    _print(rows, real)
    if json is not None:
        write_json(json, record)
        print(f"written to {json}")


def _print(rows: list[Measured], reference: Reference) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"against {len(reference.images)} images: {reference.name}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in ("NFE", "what", "images"):
        left = heading == "what"
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    shown = [name for name in _COLUMNS if any(name in row.values for row in rows)]
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    for row in rows:
        values = [_COLUMNS[name][1].format(row.values[name]) if name in row.values else "–" for name in shown]
        table.add_row(str(row.nfe or "–"), row.name, str(row.count), *values)
    Console().print(table)
