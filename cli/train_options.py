"""The options of `alphaflow train`: the run's, and the machine's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

TRAINING, MACHINE = "Training", "Machine, saving, failures"


def _training(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=TRAINING, **more)


def _machine(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=MACHINE, **more)


Out = Annotated[Path | None, _training(help="Folder of the run.", show_default="runs/RECIPE")]
Resume = Annotated[
    bool, _training("--resume", help="Continue the run in the folder --out, or start it if there is none yet.")
]
Extend = Annotated[
    bool,
    _training(
        "--extend",
        help="With --resume, go on although the recipe or its parameters were changed, for example to more steps or "
        "another batch size. What changed is kept in run.json.",
    ),
]
From = Annotated[
    Path | None,
    _training(
        "--from",
        help="Start from trained weights: a run (its last averaged weights), a checkpoint's folder, or a .safetensors "
        "file.",
    ),
]
Seed = Annotated[
    int, _training(help="Seed for the initial weights, the data order, the times and the noise.", min=0, max=2**63 - 1)
]
CheckpointEvery = Annotated[
    int | None, _training(help="Number of steps between checkpoints.", show_default="a tenth of all steps", min=1)
]
SampleEvery = Annotated[
    int | None,
    _training(
        help="Number of steps between pictures of samples; 0 for none.", show_default="a tenth of all steps", min=0
    ),
]
LogEvery = Annotated[int, _training(help="Number of steps between rows of metrics.jsonl.", min=1)]
Loggers = Annotated[
    str,
    _training(
        help="Where figures and samples go beside the run's folder, separated by commas: tensorboard, wandb, mlflow, "
        "trackio. All but the first need their package, for example pip install 'alphaflow[wandb]'.",
    ),
]
ProbeEvery = Annotated[
    int | None,
    _training(
        help="Number of steps between measurements of gradient conflict for `alphaflow diagnose`; each takes about as "
        "long as six training steps.",
        show_default="never",
        min=1,
    ),
]
DryRun = Annotated[bool, _training("--dry-run", help="Run two training steps, write nothing, and exit.")]


Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    _machine(
        help="Precision of the arithmetic: fp32, or bf16 autocast with weights in fp32.", show_default="the recipe's"
    ),
]
TF32 = Annotated[bool | None, _machine(help="Multiply fp32 matrices in TF32 on a GPU.", show_default="the recipe's")]
Accumulate = Annotated[
    int, _machine(help="Split each batch into this many parts and add up their gradients, to save memory.", min=1)
]
Recompute = Annotated[
    bool,
    _machine("--recompute", help="Recompute activations in the backward pass: less memory, about a third more time."),
]
Compile = Annotated[bool, _machine("--compile", help="Compile the network with torch.compile.")]
Parallel = Annotated[
    Literal["ddp", "fsdp", "hybrid"],
    _machine(
        help="How processes under torchrun share the network: ddp keeps it whole in each, fsdp splits it among all, "
        "hybrid splits it within each machine."
    ),
]
KeepLast = Annotated[int | None, _machine(help="Number of newest checkpoints to keep.", show_default="all", min=1)]
KeepEvery = Annotated[
    int | None,
    _machine(
        help="With --keep-last, also keep checkpoints whose step is a multiple of this.", show_default="none", min=1
    ),
]
KeepBest = Annotated[
    str | None,
    _machine(
        help="With --keep-last, also keep the checkpoint with the best value of this measurement, for example "
        "pixel-fd_1 or random-fd_1.",
        show_default="none",
    ),
]
EvaluateEvery = Annotated[
    int | None,
    _machine(
        help="Number of steps between evaluations at 1 NFE, by pixel FD or, for large samples, random-feature FD.",
        show_default="never",
        min=1,
    ),
]
MaxRollbacks = Annotated[
    int,
    _machine(help="Number of times to return to the last checkpoint after bad batches before giving up.", min=0),
]


def machine(
    *,
    precision: Precision = None,
    tf32: TF32 = None,
    accumulate: Accumulate = 1,
    recompute: Recompute = False,
    compile: Compile = False,
    parallel: Parallel = "ddp",
    keep_last: KeepLast = None,
    keep_every: KeepEvery = None,
    keep_best: KeepBest = None,
    evaluate_every: EvaluateEvery = None,
    max_rollbacks: MaxRollbacks = 2,
) -> dict[str, Any]:
    """The Trainer's arguments from these options."""
    from alphaflow.evaluation.in_training import TrainingEvaluation
    from alphaflow.training.engine import MachineSetup
    from alphaflow.training.guard import BatchGuard
    from alphaflow.training.saving import CheckpointRetention

    setup = MachineSetup(
        precision=precision, tf32=tf32, accumulate=accumulate, recompute=recompute, compile=compile, parallel=parallel
    )
    return {
        "setup": setup,
        "guard": BatchGuard(rollbacks=max_rollbacks),
        "keep": CheckpointRetention(last=keep_last, every=keep_every, best=keep_best),
        "evaluation": None if evaluate_every is None else TrainingEvaluation(evaluate_every),
    }
