"""`alphaflow evaluate`: metrics of a run, or of pictures or clips on disk, as a table, JSON and CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .flags import as_flags
from .options import (
    AT_ONCE,
    AtOnce,
    Checkpoint,
    Device,
    FileFrames,
    FileSize,
    Guidance,
    GuidanceInterval,
    Raw,
    Trust,
    WeightsOption,
    guide,
    integers,
    metric_names,
)
from .options import weights as weights_of

if TYPE_CHECKING:
    import torch

    from alphaflow.evaluation.result import EvaluationResult
    from alphaflow.runs.run import Run


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to measure: a run's folder; images or clips in a folder, zip, tars, .npz or shards; or floats in an "
        ".npz or .npy.",
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="Real data to compare with, and to take conditions from, in the same forms as TARGET; or a file that "
        "`alphaflow stats` wrote, ADM's .npz with mu and sigma, or the name digits.",
        show_default="the run's training data",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Metrics to compute, separated by commas. Images: fid, is, kid, pr, fdd (DINOv2), clip-fd, vgg-pr. Clips: "
        "fvd, cd-fvd. Without a weights file: pixel-fd, pixel-pr, agreement, random-fd (neither FID nor FVD); for "
        "clips also shrunk-fd (not FVD) and motion. Of anything: sliced-wasserstein and energy. "
        "Against each sample's truth: mse, psnr and ssim.",
        show_default="fid,is for images; fvd for clips; pixel metrics below 32 pixels; sliced-wasserstein,energy for "
        "what is no picture",
    ),
]
Nfes = Annotated[str, typer.Option(help="Numbers of network evaluations per sample to measure at, for example 1,2,4.")]
Seeds = Annotated[
    str, typer.Option(help="Seeds for the noise. Several, for example 0,1,2, give means and standard deviations.")
]
Count = Annotated[
    int | None,
    typer.Option(
        help="Number of samples for each NFE and seed, equally many from every class.",
        min=1,
        show_default="50000; 2048 clips; 2000 for pixel metrics",
    ),
]
KidSubsetSize = Annotated[int, typer.Option(help="Number of samples in each of KID's 100 subsets.", min=2)]
Json = Annotated[Path | None, typer.Option(help="Write the results and the protocol to this file.")]
Csv = Annotated[Path | None, typer.Option(help="Append one row for each measured set to this file.")]
Save = Annotated[Path | None, typer.Option(help="Save all samples to this folder, images as PNG and clips as MP4.")]
Pictures = Annotated[
    Path | None, typer.Option(help="Save sample grids, nearest real images and the worst classes to this folder.")
]


def evaluate(
    target: Target,
    *,
    reference: ReferenceOption = None,
    metrics: Metrics = None,
    nfe: Nfes = "1",
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    count: Count = None,
    seed: Seeds = "0",
    size: FileSize = None,
    frames: FileFrames = None,
    weights: WeightsOption = None,
    kid_subset_size: KidSubsetSize = 1000,
    json: Json = None,
    csv: Csv = None,
    save: Save = None,
    pictures: Pictures = None,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    batch_size: AtOnce = AT_ONCE,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Compare a run, or images or clips on disk, with real data. Under torchrun the processes share the work."""
    from alphaflow.evaluation.evaluate import evaluate as measure
    from alphaflow.parallel.device import find_device
    from alphaflow.parallel.world import join, leave
    from alphaflow.progress import shown

    _check_places(json, csv, save, pictures)
    is_run = (Path(target) / "run.json").is_file()
    of_runs = {"nfe": nfe != "1", "guidance": guidance, "count": count, "seed": seed != "0", "save": save, "raw": raw}
    of_runs |= {"checkpoint": checkpoint is not None}
    of_files = {} if reference else {"size": size, "frames": frames}
    _check_kind(target, of_files if is_run else of_runs, is_run)
    found = find_device(device)
    world = join(found)
    with shown(sys.stderr, main=world.main) as progress:
        result = measure(
            _opened(target, checkpoint, raw, found, trust) if is_run else target, reference,
            progress=progress, metrics=metric_names(metrics), nfes=tuple(integers(nfe, "--nfe", least=1)), count=count,
            seeds=tuple(integers(seed, "--seed", least=0)), guidance=guide(guidance, guidance_interval), size=size,
            frames=frames, weights=weights_of(weights), device=found, batch_size=batch_size,
            save=save, pictures=pictures, kid_subset_size=kid_subset_size,
        )  # fmt: skip
    leave()
    if world.main:
        _tell(result, json, csv, pictures, save)


def _check_kind(target: str, strange: Mapping[str, object], is_run: bool) -> None:
    """Refuses options that apply only to the other kind of target: to files, or to runs."""
    from alphaflow.errors import UserError

    named = ", ".join(f"--{name}" for name, given in strange.items() if given)
    if named and is_run:
        raise UserError(
            f"{named} can only be given for files, of a --reference too; a run's samples have their own size"
        )
    if named and Path(target).exists():
        raise UserError(f"{named} can only be given for runs, and {target} is not a run; leave it out")


def _check_places(json: Path | None, csv: Path | None, save: Path | None, pictures: Path | None) -> None:
    """Refuses, before anything is measured, places where figures (JSON, CSV) and pictures can't be written."""
    from alphaflow.evaluation.result import check_json
    from alphaflow.files import check_writable, foreign
    from alphaflow.media.grids import is_our_picture

    for place, folder in ((json, False), (csv, False), (save, True), (pictures, True)):
        if place is not None:
            check_writable(place, folder=folder)
    if json is not None:
        check_json(json)
    others = [] if pictures is None else [file for file in pictures.glob("nfe-*.png") if not is_our_picture(file)]
    if others:
        raise foreign(others[0], "--pictures")


def _opened(run: str, checkpoint: int | None, raw: bool, device: torch.device, trust: bool) -> Run:
    from alphaflow.runs.run import Run

    return Run(run, step=checkpoint, ema=not raw, device=device, trust=trust)


def _tell(
    result: EvaluationResult, json: Path | None, csv: Path | None, pictures: Path | None, save: Path | None
) -> None:
    """Prints the figures and writes them."""
    _print(result)
    for line in result.warnings:
        print(f"note: {as_flags(line)}")
    if json is not None:
        result.write(json)
        print(f"results written to {json}")
    if csv is not None:
        result.append(csv)
        print(f"rows appended to {csv}")
    if pictures is not None:
        _worst(pictures)
        print(f"figures in {pictures}")
    if save is not None:
        print(f"samples in {save}")


def _print(result: EvaluationResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from alphaflow.evaluation.catalogue import OUTPUTS

    reference = result.protocol["reference"]
    of = f"{reference['count']:,} images: " if reference["count"] else ""
    table = Table(title=f"against {of}{reference['name']}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows = result.shown()
    for heading in ("NFE", "what", "images"):
        left = heading == "what"
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    table.columns[1].min_width = min(max(len(row.name) for row in rows), 10)
    names = [name for name in OUTPUTS if any(name in row.values for row in rows)]
    for name in names:
        table.add_column(OUTPUTS[name].title, justify="right", overflow="fold")
    for row in rows:
        cells = []
        for name in names:
            cell = OUTPUTS[name].form.format(row.values[name]) if name in row.values else "–"
            cells.append(cell + (" ± " + OUTPUTS[name].form.format(row.std[name]) if name in row.std else ""))
        table.add_row(str(row.nfe or "–"), row.name, str(row.count), *cells)
    Console().print(table)


def _worst(folder: Path) -> None:
    """The worst classes of each set, from the files that were written."""
    import json

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from alphaflow.errors import printable

    for file in sorted(folder.glob("*-classes.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        table = Table(
            title=f"{file.name.removesuffix('-classes.json')}: the worst classes by {found['features']}",
            box=box.SIMPLE_HEAD,
        )
        for column in ("class", "kernel distance ↓", "samples", "real"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for row in found["worst"]:
            numbers = (f"{row['kernel distance']:.4f}", str(row["samples"]), str(row["real"]))
            table.add_row(escape(printable(row["class"])), *numbers)
        Console().print(table)
