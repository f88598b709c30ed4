"""`alphaflow evaluate`: metrics of a run or of images on disk, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Checkpoint, Debug, Device, Guidance, GuidanceInterval, Raw, Seed, guide, integers

if TYPE_CHECKING:
    from alphaflow.evaluate import Measured, Reference
    from alphaflow.run import Guide, Run

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
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    count: Annotated[int, typer.Option(help="Samples at each, every class equally often.", min=1)] = 2000,
    seed: Seed = 0,
    size: Annotated[
        int | None, typer.Option(help="Crop and scale image files to this size.", show_default="as they are")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Measure a run, or images on disk, against real images. These metrics look at raw pixels and need no download."""
    from alphaflow.evaluate import evaluate_images, real_halves
    from alphaflow.files import write_json
    from alphaflow.metrics.pixels import check_metrics
    from alphaflow.training.run_folder import versions

    names = metrics.split(",")
    check_metrics(names)
    record: dict[str, object] = {"target": str(target), "metrics": names, "versions": versions()}
    if target.is_dir() and (target / "run.json").is_file():
        run = _open(target, checkpoint, raw, device)
        nfes, guided = integers(nfe, "--nfe"), guide(guidance, guidance_interval)
        real, rows = _run(run, reference, size, nfes, count, seed, names, guided)
        record |= {"checkpoint": run.step, "weights": "raw" if raw else "ema", "seed": seed}
        record |= {"guidance": None if guided is None else asdict(guided)}
    else:
        real = _reference(target, reference, size)
        rows = [evaluate_images(target, real, names, size)]
    halves = real_halves(real, names)
    rows += [] if halves is None else [halves]
    record |= {"reference": {"name": real.name, "count": len(real.images)}, "rows": [asdict(row) for row in rows]}
    _print(rows, real)
    if json is not None:
        write_json(json, record)
        print(f"written to {json}")


def _open(target: Path, checkpoint: int | None, raw: bool, device: str) -> Run:
    from alphaflow.run import Run

    return Run(target, step=checkpoint, ema=not raw, device=device)


def _run(
    run: Run,
    reference: Path | None,
    size: int | None,
    nfes: list[int],
    count: int,
    seed: int,
    metrics: list[str],
    guided: Guide | None,
) -> tuple[Reference, list[Measured]]:
    """A run, sampled and measured."""
    from alphaflow.data.images import image_mode
    from alphaflow.evaluate import Reference, evaluate_run

    for wanted in nfes:  # a wrong number is reported before the reference is read
        run.sampler(wanted, guided)
    real = Reference.of_run(run) if reference is None else Reference.of_path(reference, size, image_mode(run.shape[0]))
    return real, evaluate_run(run, real, nfes, count, seed, metrics, guided)


def _reference(target: Path, reference: Path | None, size: int | None) -> Reference:
    """What images on disk are measured against."""
    from alphaflow.errors import UserError
    from alphaflow.evaluate import Reference

    if not target.exists():
        raise UserError(f"{target} doesn't exist; give a run's folder, a folder or zip of images, or an .npz")
    if reference is None:
        raise UserError(f"{target} is no run, so there is no training data to measure against; give --reference")
    return Reference.of_path(reference, size)


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
