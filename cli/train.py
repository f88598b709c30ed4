"""`alphaflow train RECIPE`: the recipe's parameters are options of the command."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alphaflow.recipe import Parameter, RecipeFile
    from alphaflow.training.run_folder import Origin, RunFolder
    from alphaflow.training.trainer import Trainer

TRAINING, RECIPE = "Training", "Recipe's parameters"


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
    typer.Option(help="Steps between checkpoints.", show_default="a tenth of all steps", rich_help_panel=TRAINING),
]
SampleEvery = Annotated[
    int | None,
    typer.Option(help="Steps between sample pictures.", show_default="a tenth of all steps", rich_help_panel=TRAINING),
]
LogEvery = Annotated[int, typer.Option(help="Steps between rows of metrics.jsonl.", rich_help_panel=TRAINING)]
ProbeEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between measurements of gradient conflict, for `alphaflow diagnose`; each costs about six steps.",
        show_default="never",
        min=1,
        rich_help_panel=TRAINING,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=TRAINING)]


def train(
    recipe: RecipeName,
    *,
    out: Out = None,
    resume: Resume = False,
    from_run: From = None,
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = None,
    sample_every: SampleEvery = None,
    log_every: LogEvery = 50,
    probe_every: ProbeEvery = None,
    debug: Debug = False,
    **parameters: Any,
) -> None:
    """Train a recipe. `alphaflow train RECIPE --help` lists the recipe's own parameters too."""
    import torch

    from alphaflow.diagnostics.probe import Probe
    from alphaflow.recipe import find_recipe
    from alphaflow.training.logging import progress
    from alphaflow.training.run_folder import Origin, RunFolder
    from alphaflow.training.trainer import Trainer

    found = find_recipe(recipe)
    folder = RunFolder(Path("runs") / found.name.replace("_", "-") if out is None else out)
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
    source = None if found.folder is None else str(found.folder)
    origin = Origin(found.name, found.text, found.function.__name__, arguments, source)
    continuing = resume and folder.exists()
    if continuing:
        _check_same(folder, origin, seed, from_run)
    torch.manual_seed(seed)
    trainer = Trainer(
        found(**parameters),
        out=folder.path,
        seed=seed,
        device=device,
        checkpoint_every=checkpoint_every,
        sample_every=sample_every,
        log_every=log_every,
        display=progress(),
        origin=origin,
        resume=continuing,
        start=from_run,
        probe=None if probe_every is None else Probe(probe_every),
    )
    _fit(trainer, folder)


def _fit(trainer: Trainer, folder: RunFolder) -> None:
    from .errors import INTERRUPTED, fail

    try:
        trainer.fit()
    except KeyboardInterrupt:
        fail(f"interrupted at step {trainer.step}; the same command with --resume goes on", INTERRUPTED)
    picture = folder.samples(trainer.step)
    print(f"done: {folder.path} holds {trainer.step} steps" + (f"; samples: {picture}" if picture.is_file() else ""))
    print(f"next: alphaflow sample {folder.path} --nfe 1   or   alphaflow evaluate {folder.path} --nfe 1,2,4")


def command(arguments: list[str]) -> Callable[..., None]:
    """The train command, with the options of the recipe that the arguments name, if they name one."""
    spec = _recipe_in(arguments)
    found = None if spec is None else _find(spec)
    own = [p for p in inspect.signature(train, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [] if found is None else [_option(parameter, own) for parameter in found.parameters]

    def run(**options: Any) -> None:
        train(**options)

    signature = inspect.Signature([*own, *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    run.__doc__ = train.__doc__ if found is None else f"Train {found.name}: {_summary(found)}"
    return run


def _recipe_in(arguments: list[str]) -> str | None:
    """RECIPE in `train … RECIPE …`: the first argument after `train` that is neither an option nor its value."""
    if not arguments or arguments[0] != "train":
        return None
    flags = {"--resume", "--debug", "--help"}
    own = {"--" + name.replace("_", "-") for name in inspect.signature(train).parameters} | {"--from"}
    rest = arguments[1:]
    while rest:
        argument, *rest = rest
        if not argument.startswith("-"):
            return argument
        takes_value = "=" not in argument and argument not in flags
        if takes_value and rest and (argument in own or not _looks_like_a_recipe(rest[0])):
            rest = rest[1:]
    return None


def _looks_like_a_recipe(argument: str) -> bool:
    """Whether what follows an option that isn't known yet is the recipe: `train --flip cifar10`."""
    from alphaflow.recipe import builtin_recipes

    return argument.endswith(".py") or argument.replace("-", "_") in builtin_recipes()


def _find(spec: str) -> RecipeFile:
    from alphaflow.recipe import find_recipe

    return find_recipe(spec)


def _summary(found: RecipeFile) -> str:
    import ast

    return (ast.get_docstring(ast.parse(found.text)) or "a recipe of your own.").partition("\n")[0]


def _option(parameter: Parameter, own: list[inspect.Parameter]) -> inspect.Parameter:
    """A recipe's parameter as an option of the command."""
    from alphaflow.errors import UserError

    if parameter.name in {p.name for p in own}:
        raise UserError(f"a recipe's parameter can't be called {parameter.name}: `train` has that option; rename it")
    option = typer.Option(rich_help_panel=RECIPE, show_default=True)
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=parameter.default,
        annotation=Annotated[parameter.type, option],
    )


def _resolved(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _check_same(folder: RunFolder, origin: Origin, seed: int, start: Path | None) -> None:
    """A run goes on with the arguments it began with."""
    from alphaflow.errors import UserError

    record = folder.read()
    before = {**record["recipe"]["arguments"], "seed": record["seed"], "from": _resolved(record.get("start"))}
    now = {**json.loads(json.dumps(origin.arguments)), "seed": seed, "from": _resolved(start)}
    if folder.origin().text != origin.text:
        raise UserError(
            f"the recipe {origin.name} is not the one that {folder.path} was started with; "
            f"restore it from {folder.recipe}, or start another run with --out"
        )
    if record["recipe"]["name"] != origin.name:
        raise UserError(
            f"{folder.path} is a run of {record['recipe']['name']}, not of {origin.name}; choose another --out"
        )
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            option = f"--{name.replace('_', '-')}"
            was, given = ("nothing" if values.get(name) is None else values[name] for values in (before, now))
            raise UserError(
                f"{folder.path} was started with {option} {was}, not {given}; "
                "resume with the same options, or start another run with --out"
            )
