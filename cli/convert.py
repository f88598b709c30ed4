"""`alphaflow convert SRC OUT --from LAYOUT`: another project's checkpoint as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint: a .pt, .pth or .safetensors file.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run to make.")]
From = Annotated[
    Literal["dit", "sit", "repa", "lightningdit", "meanflow", "imf", "alphaflow"],
    typer.Option(
        "--from",
        help="Whose network it is: dit (facebookresearch/DiT), sit (willisma/SiT), repa (sihyun-yu/REPA), lightningdit "
        "(hustvl/LightningDiT), meanflow (zhuyu-cs/MeanFlow), imf (Lyy-iiis/imeanflow) or alphaflow "
        "(snap-research/alphaflow).",
    ),
]
AutoencoderName = Annotated[
    str | None,
    typer.Option(
        "--autoencoder",
        help="Autoencoder that decodes its samples: a model on the Hub, a folder, or pixels.",
        show_default="stabilityai/sd-vae-ft-ema for samples with four channels, else pixels",
    ),
]
Heads = Annotated[
    int | None,
    typer.Option(
        help="Number of attention heads, which the weights do not tell.",
        show_default="as in the published sizes",
        min=1,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(help="Number of classes.", show_default="by the rows of the label embedding", min=1),
]
Raw = Annotated[bool, typer.Option("--raw", help="Take the checkpoint's raw weights instead of their moving average.")]


def convert(
    src: Source,
    out: Out,
    *,
    layout: From,
    autoencoder: AutoencoderName = None,
    heads: Heads = None,
    classes: Classes = None,
    raw: Raw = False,
) -> None:
    """Make a run of another project's checkpoint. No code in the file is run.

    The run can be sampled and evaluated. Training starts from it with `alphaflow train RECIPE --from OUT`, unless it is
    dit's, which can be a teacher.
    """
    from alphaflow.autoencoders.opening import open_autoencoder
    from alphaflow.runs.folder import RunFolder
    from alphaflow.weights.convert import convert as make

    decoder = None if autoencoder is None else open_autoencoder(autoencoder, None, False, "auto")
    place = make(src, out, layout, autoencoder=decoder, heads=heads, classes=classes, ema=not raw)
    record = RunFolder(place).read()
    shape, network = tuple(record["data"]["shape"]), record["model"]["type"]
    classes = record["data"]["classes"]
    print(
        f"{place}: a {network} of {record['parameters']:,} parameters, samples {shape}, {classes} classes, from {src}"
    )
    print(f"next: alphaflow sample {place} --nfe {next(iter(record['samplers']))}")
