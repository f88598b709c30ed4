"""`alphaflow export RUN OUT`: a run as a folder that stands alone, on the Hub, or as one program."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alphaflow.errors import UserError

from .options import Checkpoint, Device, Guidance, GuidanceInterval, Precision, Raw, RunPath, Trust, guide, open_run

if TYPE_CHECKING:
    from alphaflow.runs.run import Run

Out = Annotated[
    Path | None,
    typer.Argument(
        metavar="OUT",
        help="Folder to make, or a .pt2 or .onnx file.",
        show_default="none with --push",
    ),
]
Kind = Annotated[
    Literal["folder", "torch-export", "onnx"] | None,
    typer.Option(
        "--format",
        help="folder holds weights, configuration and a model card, for alphaflow; torch-export and onnx are the whole "
        "generator as one program, for PyTorch or an ONNX runtime alone.",
        show_default="by the ending of OUT",
    ),
]
Nfe = Annotated[
    int | None,
    typer.Option(help="Number of network evaluations of the program.", show_default="1"),
]
Latents = Annotated[
    bool, typer.Option("--latents", help="Leave the autoencoder out of the program, which then makes latents.")
]
Push = Annotated[
    str | None,
    typer.Option("--push", metavar="OWNER/NAME", help="Upload the folder to this repository on the Hugging Face Hub."),
]
License = Annotated[
    str | None, typer.Option("--license", help="Licence of the weights for the model card, for example mit.")
]


def export(
    run: RunPath,
    out: Out = None,
    *,
    format: Kind = None,
    push: Push = None,
    license: License = None,
    nfe: Nfe = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = "0,1",
    latents: Latents = False,
    checkpoint: Checkpoint = None,
    raw: Raw = False,
    precision: Precision = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Export a finished run: a folder for `alphaflow.load` or the Hub, or one program.

    A program is compared with the run on several batches before it is written.
    """
    from alphaflow.weights.hub_repository import check_push
    from alphaflow.weights.standalone import DECODED, ENDINGS, export_program

    ending = None if out is None else ENDINGS.get(out.suffix)
    kind = format or ending or "folder"
    if out is None and push is None:
        raise UserError("OUT is missing: give a folder, a .pt2 or .onnx file, or --push OWNER/NAME")
    program = {"--nfe": nfe, "--guidance": guidance, "--latents": latents}
    for_other = program if kind == "folder" else {"--push": push, "--license": license}
    wrong = next((option for option, value in for_other.items() if value is not None and value is not False), None)
    if wrong is not None or (ending is not None and ending != kind):
        raise UserError(f"{wrong or out} is not for --format {kind}; leave it out, or choose another")
    if push is not None:
        check_push(push)
    guided = guide(guidance, guidance_interval)
    opened = open_run(run, checkpoint, raw, device, precision, trust)
    if kind == "folder":
        _write_folder(opened, out, push, license)
        return
    assert out is not None
    steps = 1 if nfe is None else nfe
    file, off = export_program(opened, out, nfe=steps, format=kind, guidance=guided, decode=not latents)
    most = f", up to {DECODED} at once" if opened.autoencoder.networks() and not latents else ""
    print(f"{file}: {steps} NFE in {precision or 'fp32'}{most}, within {off:.1e} of the run's samples")


def _write_folder(run: Run, out: Path | None, push: str | None, license: str | None) -> None:
    from alphaflow.weights.exporting import export as write
    from alphaflow.weights.hub_repository import push as upload

    with tempfile.TemporaryDirectory() as beside:
        place = write(run, out or Path(beside) / "exported", name=push, license=license)
        if out is not None:
            print(f"{place}: open it with alphaflow.load({str(place)!r})")
        if push is not None:
            print(f"pushed to {upload(place, push)}")
