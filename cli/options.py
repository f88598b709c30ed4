"""Options that more than one command takes, and the values in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alphaflow.errors import UserError

if TYPE_CHECKING:
    from alphaflow.guidance import CFG
    from alphaflow.runs.run import Run

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, as written by `alphaflow train`.")]
Device = Annotated[
    str, typer.Option(help="Device to run on: cpu, cuda, mps and so on; auto uses a GPU if there is one.")
]
Seed = Annotated[
    int, typer.Option(help="Seed for the noise; the noise is the same at every NFE.", min=0, max=2**63 - 1)
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Allow the run's recipe.py to be executed. Use it for your own runs, or after reading the file.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(
        help="Precision of the network's weights and arithmetic; samples and times stay in fp32.",
        show_default="as the network is, fp32",
    ),
]
Checkpoint = Annotated[int | None, typer.Option(help="Step of the checkpoint to load.", show_default="the last")]
Raw = Annotated[bool, typer.Option("--raw", help="Use the raw weights instead of their moving average.")]
FileSize = Annotated[
    int | None,
    typer.Option("--size", help="Crop and resize files to this size in pixels.", min=1, show_default="unchanged"),
]
FileFrames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        help="Number of frames to read from each clip file.",
        min=1,
        show_default="as many as the run makes, or 16",
    ),
]
AtOnce = Annotated[int, typer.Option("--batch-size", help="Number of samples to generate or read at once.", min=1)]
AT_ONCE = 128
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="Weights file of a feature extractor: FILE, or EXTRACTOR=FILE (inception, dinov2, clip, vgg16, i3d, "
        "videomae). May be given several times. For weights other than the published ones, add their SHA-256: "
        "FILE#SHA256.",
        show_default="downloaded to torch's cache",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale. Networks trained with it as an input need no extra evaluation; others need a second one "
        "per step."
    ),
]
GuidanceInterval = Annotated[str, typer.Option(help="Times t_min,t_max between which guidance applies, both included.")]


def open_run(path: Path, step: int | None, raw: bool, device: str, precision: str | None, trust: bool) -> Run:
    """The run of a command that samples."""
    from alphaflow.parallel.device import PRECISIONS
    from alphaflow.runs.run import Run

    dtype = None if precision is None else PRECISIONS[precision]
    return Run(path, step=step, ema=not raw, device=device, dtype=dtype, trust=trust)


def integers(text: str, option: str, least: int | None = None) -> list[int]:
    """A comma-separated list of integers; with ``least`` of different ones, of at least so much.

    Raises:
        UserError: it is none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} takes whole numbers with commas between, for example 1,2,4; got {text!r}") from error
    if least is not None and (min(found) < least or len(set(found)) < len(found)):
        raise UserError(f"{option} takes different numbers of at least {least}, got {text}")
    return found


def metric_names(text: str | None) -> tuple[str, ...] | None:
    """--metrics, as a list; None where it isn't given."""
    return None if text is None else tuple(name.strip().lower().replace("_", "-") for name in text.split(","))


def weights(given: list[str] | None) -> dict[str, str]:
    """--weights by extractor; the file under "" where none is named."""
    from alphaflow.features.extractors import EXTRACTORS

    split = [text.partition("=") for text in given or []]
    strange = next((name for name, equals, _ in split if equals and name.isidentifier() and name not in EXTRACTORS), "")
    if strange:
        raise UserError(f"--weights names {strange}, which is not an extractor; there are {', '.join(EXTRACTORS)}")
    return {
        name if name in EXTRACTORS else "": file if name in EXTRACTORS else name + "=" * bool(equals) + file
        for name, equals, file in split
    }


def guide(scale: float | None, interval: str) -> CFG | None:
    """--guidance and --guidance-interval together; None without a scale.

    Raises:
        UserError: they are none.
    """
    from alphaflow.guidance import CFG

    if scale is None:
        if interval != "0,1":
            raise UserError("--guidance-interval goes with --guidance SCALE")
        return None
    try:
        low, high = (float(part) for part in interval.split(","))
    except ValueError as error:
        raise UserError(f"--guidance-interval takes two times, for example 0.1,0.8; got {interval!r}") from error
    return CFG(scale, (low, high))
