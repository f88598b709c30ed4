"""The options of `alphaflow train`: the run's, and the machine's."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

TRAINING, MACHINE = "Training", "Machine, saving, failures"


class Precision(StrEnum):
    """Of the arithmetic; weights stay in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class ParallelName(StrEnum):
    """How several processes share the work."""

    DDP = "ddp"
    FSDP = "fsdp"
    HYBRID = "hybrid"


RecipeName = Annotated[str, typer.Argument(help="A built-in recipe's name, a recipe file, or module:function.")]

Out = Annotated[
    Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE", rich_help_panel=TRAINING)
]

Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run in --out; start it if there is none.", rich_help_panel=TRAINING),
]

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Start from the weights of a run (its last averaged ones), a checkpoint's folder, a .safetensors file.",
        rich_help_panel=TRAINING,
    ),
]

Seed = Annotated[
    int, typer.Option(help="Of weights, data order, times and noise.", min=0, max=2**63 - 1, rich_help_panel=TRAINING)
]

Device = Annotated[
    str, typer.Option(help="cpu, cuda, mps, …; auto takes a GPU if there is one.", rich_help_panel=TRAINING)
]

CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between checkpoints.", show_default="a tenth of all steps", min=1, rich_help_panel=TRAINING
    ),
]

SampleEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between sample pictures.", show_default="a tenth of all steps", min=1, rich_help_panel=TRAINING
    ),
]

LogEvery = Annotated[int, typer.Option(help="Steps between rows of metrics.jsonl.", min=1, rich_help_panel=TRAINING)]

ProbeEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between measurements of gradient conflict, for `alphaflow diagnose`; each costs about six steps.",
        show_default="never",
        min=1,
        rich_help_panel=TRAINING,
    ),
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Two steps of which nothing stays, and stop.", rich_help_panel=TRAINING)
]

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=TRAINING)]


def _machine(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=MACHINE, **more)


def machine(
    *,
    precision: Annotated[
        Precision | None, _machine("bf16: autocast, weights in fp32.", show_default="the recipe's")
    ] = None,
    tf32: Annotated[bool | None, _machine("On a GPU: matrices of fp32 in TF32.", show_default="the recipe's")] = None,
    accumulate: Annotated[int, _machine("Work on a batch in so many parts.", min=1)] = 1,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Less memory, a third more time.", rich_help_panel=MACHINE)
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network.", rich_help_panel=MACHINE)
    ] = False,
    parallel: Annotated[
        ParallelName, _machine("Under torchrun: whole networks, or split ones (fsdp; hybrid: on each machine).")
    ] = ParallelName.DDP,
    keep_last: Annotated[int | None, _machine("Checkpoints that stay.", show_default="all", min=1)] = None,
    keep_every: Annotated[int | None, _machine("Also those of each N-th step.", show_default="none", min=1)] = None,
    keep_best: Annotated[
        str | None, _machine("Also the best by this, pixel-fd_1 or random-fd_1.", show_default="none")
    ] = None,
    evaluate_every: Annotated[
        int | None,
        _machine(
            "Steps between measurements at 1 NFE: pixel FD, or random-feature FD of large samples.",
            show_default="never",
            min=1,
        ),
    ] = None,
    max_rollbacks: Annotated[int, _machine("How often to go back after bad batches.", min=0)] = 2,
) -> dict[str, Any]:
    """The Trainer's arguments from these options."""
    from alphaflow.evaluation.in_training import TrainingEvaluation
    from alphaflow.training.engine import MachineSetup
    from alphaflow.training.guard import BatchGuard
    from alphaflow.training.saving import CheckpointRetention

    setup = MachineSetup(
        precision=None if precision is None else precision.value,
        tf32=tf32, accumulate=accumulate, recompute=recompute, compile=compile, parallel=parallel.value,
    )  # fmt: skip
    return {
        "setup": setup,
        "guard": BatchGuard(rollbacks=max_rollbacks),
        "keep": CheckpointRetention(last=keep_last, every=keep_every, best=keep_best),
        "evaluation": None if evaluate_every is None else TrainingEvaluation(evaluate_every),
    }
