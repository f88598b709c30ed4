"""`alphaflow train RECIPE`: the recipe's parameters are options of the command."""

from __future__ import annotations

import inspect
import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaflow.recipe_files import RecipeFile

from .flags import as_flags
from .options import Device
from .train_options import (
    CheckpointEvery,
    DryRun,
    Extend,
    From,
    LogEvery,
    Loggers,
    Out,
    ProbeEvery,
    Resume,
    SampleEvery,
    Seed,
    machine,
)  # fmt: skip

MACHINE = inspect.signature(machine, eval_str=True).parameters.values()

if TYPE_CHECKING:
    from alphaflow.recipe import Recipe
    from alphaflow.runs.folder import RunFolder
    from alphaflow.runs.record import Origin
    from alphaflow.training.display import Display
    from alphaflow.training.summary import TrainingSummary
    from alphaflow.training.trainer import Trainer


def train(
    found: RecipeFile,
    /,
    *,
    out: Out = None,
    resume: Resume = False,
    extend: Extend = False,
    from_run: From = None,
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = None,
    sample_every: SampleEvery = None,
    log_every: LogEvery = 50,
    loggers: Loggers = "tensorboard",
    probe_every: ProbeEvery = None,
    dry_run: DryRun = False,
    **parameters: Any,
) -> None:
    """Train a recipe. `alphaflow train RECIPE --help` also lists the recipe's own parameters.

    Under torchrun, `torchrun --nproc-per-node 8 -m alphaflow train RECIPE`, the processes share each batch.
    On SIGINT, SIGTERM, SIGUSR1 or SIGHUP training finishes its step, saves, and exits with status 130, 143, 138 or 129.
    """
    from alphaflow.diagnosis.probe import GradientProbe
    from alphaflow.errors import UserError
    from alphaflow.training.loggers import loggers_of

    if extend and not resume:
        raise UserError("--extend goes on with a run that is there: give --resume with it")
    given = {option.name: parameters.pop(option.name) for option in MACHINE}
    probe = None if probe_every is None else GradientProbe(probe_every)
    rest: dict[str, Any] = {
        "device": device, "checkpoint_every": checkpoint_every, "log_every": log_every,
        "sample_every": "auto" if sample_every is None else sample_every,
        "start": from_run, "probe": probe, **machine(**given),
        "loggers": loggers_of(loggers),
    }  # fmt: skip
    folder = Path("runs") / found.name.replace("_", "-") if out is None else out
    if dry_run:
        _dry_run(_seeded(found, seed, parameters), seed, rest)
    else:
        _train(found, folder, resume, extend, seed, parameters, rest)


def _train(
    found: RecipeFile,
    out: Path,
    resume: bool,
    extend: bool,
    seed: int,
    parameters: dict[str, Any],
    rest: dict[str, Any],
) -> None:
    """Makes the Trainer, new or continuing, and trains."""
    from alphaflow.parallel.device import find_device
    from alphaflow.parallel.world import join, leave
    from alphaflow.runs.folder import RunFolder
    from alphaflow.runs.record import Origin
    from alphaflow.training.trainer import Trainer

    folder = RunFolder(out)
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
    source = None if found.folder is None else str(found.folder)
    origin = Origin(found.name, found.text, found.function.__name__, arguments, source, str(Path.cwd()))
    world = join(find_device(rest["device"]))
    # torchrun starts processes again with the same command line, and counts that on each machine
    (restarts,) = world.mean([float(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))])

    def goes_on() -> bool:
        going = (resume or restarts > 0) and folder.exists()
        if going:
            _check_same(folder, origin, seed, rest["start"], extend)
        return going

    continuing = world.first(goes_on)
    trainer = Trainer(
        _seeded(found, seed, parameters),
        out=folder.path, seed=seed, display=_display(), origin=origin, resume=continuing,
        extend=extend and continuing, **rest,
    )  # fmt: skip
    _fit(trainer, builtin=found.folder is None)
    leave()


def _display() -> Display:
    """A bar on a terminal, plain lines elsewhere; the library's parameters are written as flags."""
    from alphaflow.training.display import default_display

    display = default_display()
    say = display.say
    display.say = lambda message: say(as_flags(message))  # type: ignore[method-assign]
    return display


def _seeded(found: RecipeFile, seed: int, parameters: dict[str, Any]) -> Recipe:
    import torch

    torch.manual_seed(seed)
    return found(**parameters)


def _dry_run(recipe: Recipe, seed: int, rest: dict[str, Any]) -> None:
    """Runs two training steps and writes nothing."""
    from alphaflow.training.trainer import Trainer

    trainer = Trainer(recipe, seed=seed, display=_display(), **rest)
    trainer.model.train()
    with trainer.feed:
        losses = [trainer.train_step().total.item() for _ in range(2)]
    print(f"dry run: two steps on {trainer.device}, losses {losses[0]:.4f} and {losses[1]:.4f}; nothing was written")


def _fit(trainer: Trainer, builtin: bool) -> None:
    from .errors import INTERRUPTED, fail

    try:
        summary = trainer.fit()
    except KeyboardInterrupt:
        fail(f"interrupted at step {trainer.step}; the same command with --resume continues it", INTERRUPTED)
    if trainer.world.main:
        _say_how_it_ended(trainer, summary, builtin)
    if trainer.stopped:
        raise SystemExit(128 + (trainer.stop.signal or signal.SIGTERM))


def _say_how_it_ended(trainer: Trainer, summary: TrainingSummary, builtin: bool) -> None:
    from alphaflow.runs.conditioning import Conditioning
    from alphaflow.runs.folder import RunFolder

    if summary.stopped:
        name = "another process" if trainer.stop.signal is None else trainer.stop.signal.name
        trainer.display.say(
            f"stopped by {name} at step {summary.step}, which is saved; the same command with --resume continues it"
        )
        return
    samples = "" if summary.samples is None else f"; samples: {summary.samples}"
    trainer.display.say(f"done: {summary.folder} holds {summary.step} steps{samples}")
    listed = list(trainer.recipe.samplers_by_nfe)
    if listed:
        place, trust = shlex.quote(str(summary.folder)), "" if builtin else " --trust"
        nfes = ",".join(map(str, listed))
        given = " --conditions DATA" if Conditioning.of(trainer.recipe).needed else ""
        given += trust if summary.folder and RunFolder(summary.folder).read()["model"] is None else ""
        trainer.display.say(
            f"next: alphaflow sample {place} --nfe {listed[0]}{given}   or   "
            f"alphaflow evaluate {place} --nfe {nfes}{trust}"
        )


def _check_same(folder: RunFolder, origin: Origin, seed: int, start: Path | None, extend: bool) -> None:
    """A run is continued with the recipe and the arguments it was trained with so far, or else by --extend.

    What differs in the recipe's code is printed, comments and spacing aside.
    """
    from alphaflow.errors import UserError, printable
    from alphaflow.runs.changes import changed_recipe, check_same_run

    check_same_run(folder, origin, seed, start)
    changes = changed_recipe(folder, origin)
    if extend or not changes:
        return
    went = "extended" if folder.extended_at() >= 0 else "started"
    if changes.code:
        print(*(printable(line.expandtabs()) for line in changes.code.splitlines()), sep="\n", flush=True)
        kept = f"{folder.recipe}{' and modules/' if folder.modules.is_dir() else ''}"
        raise UserError(
            f"the recipe {origin.name} is not the one that {folder.path} was {went} with; add --extend to go on with "
            f"it, or restore it from {kept}, or start another run with --out"
        )
    name, (was, now) = next(iter(changes.values.items()))
    before, given = ("nothing" if value is None else value for value in (was, now))
    raise UserError(
        f"{folder.path} was {went} with --{name.replace('_', '-')} {before}, not {given}; add --extend to go on with "
        "it, or start another run with --out"
    )
