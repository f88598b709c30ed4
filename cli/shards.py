"""`alphaflow verify` and `alphaflow preview`: checking shards, and looking at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .encode_options import Subfolder, Tiling
from .options import Device


def verify(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder of shards.")],
) -> None:
    """Check hashes, counts, samples and classes of a folder of shards.

    Exits with status 1 if anything is wrong.
    """
    from alphaflow.data_tools.verify import verify as check
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    from alphaflow.data.shard_description import Description
    from alphaflow.errors import printable

    def shown(name: str) -> str:
        return escape(printable(name))

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying")
        report = check(shards, lambda done, total: bar.update(task, completed=done, total=total))
    description = Description(shards)
    for problem in report.problems[:50]:
        print(f"  {printable(problem)}")
    counts = report.class_counts
    if counts:
        table = Table("classes", "samples", "fewest", "most", box=None)
        low, high = counts.index(min(counts)), counts.index(max(counts))
        names = description.class_names
        table.add_row(
            str(len(counts)),
            str(sum(counts)),
            f"{counts[low]} ({shown(names[low])})",
            f"{counts[high]} ({shown(names[high])})",
        )
        Console().print(table)
    rejects = description.record["rejects"]
    verdict = f"{len(report.problems)} problems" if report.problems else "all whole"
    print(f"{report.samples} samples in {report.shards} shards: {verdict}; {rejects} rejected when encoding")
    if report.problems:
        raise SystemExit(1)


def preview(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder of shards.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .png, or .mp4 for clips.", show_default="SHARDS/preview.png")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of random samples to show.", min=1)] = 36,
    seed: Annotated[int, typer.Option(help="Seed for choosing the samples and drawing their latents.", min=0)] = 0,
    autoencoder: Annotated[
        str | None, typer.Option(help="Autoencoder to decode with.", show_default="the one that encoded the shards")
    ] = None,
    subfolder: Subfolder = None,
    tiling: Tiling = False,
    device: Device = "auto",
) -> None:
    """Show random samples, decoded: a grid as PNG (clips as rows of frames) or clips as MP4."""
    from alphaflow.data_tools.preview import preview as decode

    from alphaflow.autoencoders.opening import open_autoencoder
    from alphaflow.data.shard_description import Description
    from alphaflow.errors import printable
    from alphaflow.media.clips import DEFAULT_FPS
    from alphaflow.media.previews import check_preview, write_preview
    from alphaflow.parallel.device import find_device

    file = shards / "preview.png" if out is None else out
    check_preview(file, new=out is not None)
    given = None if autoencoder is None else open_autoencoder(autoencoder, subfolder, tiling, device)
    pixels, names = decode(shards, count, seed, given, find_device(device))
    write_preview(pixels, file, Description(shards).fps or DEFAULT_FPS)
    classes = f"; classes of the first row: {printable(', '.join(names[:6]))}" if names else ""
    print(f"{len(pixels)} samples in {file}{classes}")
