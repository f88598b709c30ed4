"""Recipes: what a recipe function returns, and finding one by name, file, or module.

A recipe file is ordinary Python with a function ``recipe(*, …) -> af.Recipe``, whose keyword-only parameters are the
command line's options. This module doesn't import torch: help pages stay quick.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from .errors import UserError, is_number, is_whole
from .schedules import value_at

if TYPE_CHECKING:
    import torch

    from .autoencoders.base import Autoencoder
    from .data.base import Dataset
    from .objectives.base import Objective
    from .samplers import Sampler
    from .schedules import Scheduled
    from .training.ema import Average
    from .training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training run consists of.

    Args:
        model: the network u(z, r, t, cond), a ``torch.nn.Module``.
        objective: what it is trained for.
        dataset: what it is trained on.
        steps: optimiser steps.
        samplers: how to sample, by number of network evaluations: ``{1: ODE(1), 2: Consistency(2)}``.
        autoencoder: turns samples into pixels; None where samples are pixels in [-1, 1].
        lr: learning rate, a number or a schedule.
        betas, weight_decay: of Adam (AdamW where weight_decay > 0).
        optimizer: makes another optimiser from the parameters, in place of Adam; ``lr`` still sets its rate.
        ema: the decay of the weights' average, or a `PowerLaw`; or several of them, the first of which is sampled with.
        clip: the gradient's norm is clipped to this; None for no clipping.
        precision: ``"fp32"``, or ``"bf16"``: autocast, with weights, gradients and optimiser in fp32. As with ``tf32``,
            `Setup` (``--precision``) may say otherwise.
        tf32: whether products of fp32 matrices run in TF32 on a GPU; None for as PyTorch is set.
    """

    model: torch.nn.Module
    objective: Objective
    dataset: Dataset
    steps: int
    samplers: Mapping[int, Sampler]
    autoencoder: Autoencoder | None = None
    lr: Scheduled = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None
    ema: Average | tuple[Average, ...] = 0.9999
    clip: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.steps) or self.steps < 1:
            raise UserError(f"a recipe needs at least 1 step, a whole number, got steps={self.steps!r}")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"the precision is fp32 or bf16, got {self.precision!r}")
        averages = self.ema if isinstance(self.ema, tuple) else (self.ema,)
        wrong_decay = [d for d in averages if not hasattr(d, "decay") and not (is_number(d) and 0 <= d < 1)]
        if wrong_decay or not averages:
            raise UserError(f"the EMA decay must lie in [0, 1), or be a PowerLaw, got {self.ema!r}")
        if not callable(self.lr) and not is_number(self.lr):
            raise UserError(f"the learning rate is a finite number or a schedule, got {self.lr!r}")
        if not (is_number(rate := value_at(self.lr, 0)) and rate >= 0):
            raise UserError(f"the learning rate must not be negative, nor infinite, got {rate!r}")
        clip: Any = self.clip
        if clip is not None and not (isinstance(clip, Real) and float(clip) > 0):
            raise UserError(f"clip is a positive norm, or None for no clipping, got {self.clip!r}")
        optimizer: Any = self.optimizer
        if optimizer is not None and not callable(optimizer):
            kind = type(optimizer).__name__
            raise UserError(f"optimizer is a function of the parameters, lambda p: {kind}(p), not an optimiser")
        samplers: Any = self.samplers
        if not isinstance(samplers, Mapping):
            raise UserError(f"samplers are given by their evaluations, {{1: ODE(1)}}, not as {self.samplers!r}")
        trained = getattr(getattr(self.objective, "guidance", None), "inputs", False)
        taken = getattr(self.model, "takes_guidance", None)  # a network of the user's own need not say
        if taken is not None and bool(taken) != trained:
            raise UserError(
                "guidance as a network input needs both sides: DiT(guidance=True) and guidance=af.GuidanceInputs()"
            )
        knows, has = getattr(self.model, "config", {}).get("classes"), getattr(self.dataset, "classes", None)
        if knows is not None and has is not None and has > knows:
            raise UserError(f"the network has {knows} classes and the data {has}; give it classes=dataset.classes")
        wrong = [(nfe, sampler.nfe) for nfe, sampler in self.samplers.items() if sampler.nfe != nfe]
        if wrong:
            raise UserError(f"the sampler listed for {wrong[0][0]} evaluations takes {wrong[0][1]}; list it under that")


@dataclass(frozen=True)
class Parameter:
    """One of a recipe's parameters: its name, type, and default."""

    name: str
    type: Any
    default: Any


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that was found: its function and where it stands.

    Attributes:
        name: short, for a run's folder.
        function: the recipe function.
        text: the file's source.
        folder: where the file lies, if it is the user's own; None for built-in recipes.
    """

    name: str
    function: Callable[..., Recipe]
    text: str
    folder: Path | None = None
    parameters: tuple[Parameter, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _parameters(self.function, self.name))

    def __call__(self, **arguments: Any) -> Recipe:
        """Calls the recipe function.

        Raises:
            UserError: a value doesn't fit, or it returned no Recipe.
        """
        try:
            recipe = self.function(**arguments)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"the recipe {self.name} can't be built from these values: {error}") from error
        if not isinstance(recipe, Recipe):
            raise UserError(f"the recipe {self.name} must return an af.Recipe, got {type(recipe).__name__}")
        return recipe


def builtin_recipes() -> dict[str, str]:
    """The built-in recipes: name ↦ the first line of its description."""
    found = {}
    for file in sorted(_builtin_folder().glob("*.py")):
        if file.stem != "__init__":
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[file.stem] = text.partition("\n")[0]
    return found


def builtin_source(name: str) -> str:
    """A built-in recipe's source.

    Raises:
        UserError: there is none of this name; close names are suggested.
    """
    return _builtin_file(name).read_text(encoding="utf-8")


def find_recipe(spec: str) -> RecipeFile:
    """Finds a recipe by a built-in name (``moving-digits`` is ``moving_digits``), a file, or ``module:function``.

    Raises:
        UserError: there is none, or it can't be loaded.
    """
    module_name, colon, function_name = spec.rpartition(":")
    if colon and not spec.endswith(".py") and "/" not in spec:
        module = _import(module_name, spec)
        text = _source_of(module)
        short = module_name.rpartition(".")[2]
        name = short if function_name == "recipe" else f"{short}-{function_name}"
        return RecipeFile(name, _function(module, function_name, spec), text, _folder_of(module))
    if spec.endswith(".py") or "/" in spec:
        file = Path(spec)
        if not file.is_file():
            raise UserError(f"there is no recipe file {spec}; `alphaflow recipes copy digits {spec}` makes one")
        return load_recipe(file.read_text(encoding="utf-8"), file.stem, file, folder=file.resolve().parent)
    file = _builtin_file(spec)
    return load_recipe(file.read_text(encoding="utf-8"), file.stem, file)


def load_recipe(
    text: str, name: str, file: Path, function: str = "recipe", folder: str | Path | None = None
) -> RecipeFile:
    """Runs a recipe file's source and takes its function.

    Args:
        text: the source.
        name: of the recipe.
        file: where the source lies, for error messages.
        function: the function's name.
        folder: put on the import path, so that a recipe can import modules beside it.
    """
    if folder is not None and Path(folder).is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = ModuleType(f"alphaflow_recipe_{name}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)
    except UserError:
        raise
    except Exception as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"the recipe {file} can't be loaded{place}: {type(error).__name__}: {error}") from error
    return RecipeFile(name, _function(module, function, str(file)), text, None if folder is None else Path(folder))


def recipe_of(folder: RunFolder, *, trust: bool = False) -> Recipe:
    """Runs a run's recipe.py with its arguments: its dataset, objective, and all else.

    Args:
        folder: of the run.
        trust: run it whatever it holds; if not, only if it is one of the built-in recipes, to the letter.

    Raises:
        UserError: the run was composed in Python, its recipe isn't trusted, or can't be run.
    """
    origin = folder.origin()
    if not origin.text:
        raise UserError(f"{folder.path} was composed in Python and keeps no recipe.py; pass what is asked for")
    known = origin.function == "recipe" and origin.text in map(builtin_source, builtin_recipes())
    if not (known or trust):
        raise UserError(
            f"{folder.recipe} would be run, and no built-in recipe is like it: read it, then say --trust (in Python "
            "trust=True); or name the data that are asked for, --reference"
        )
    beside = None if known else origin.folder
    found = load_recipe(origin.text, origin.name, folder.recipe, origin.function, beside)
    hints = {parameter.name: parameter.type for parameter in found.parameters}
    return found(**{name: _typed(value, hints.get(name)) for name, value in origin.arguments.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the recipe's parameter takes it: paths are kept as text."""
    return Path(value) if isinstance(value, str) and hint is not None and _takes_path(hint) else value


def _takes_path(hint: Any) -> bool:
    return hint is Path or Path in getattr(hint, "__args__", ())


def _builtin_folder() -> Path:
    return Path(str(resources.files("alphaflow.recipes")))


def _builtin_file(name: str) -> Path:
    file = _builtin_folder() / f"{name.replace('-', '_')}.py"
    if name and file.is_file() and file.stem != "__init__":
        return file
    known = list(builtin_recipes())
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"built in are {', '.join(known)}"
    raise UserError(f"there is no recipe {name!r}; {hint} A file works too: path/to/recipe.py")


def _import(module: str, spec: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the recipe {spec} can't be imported: {reason}; is its folder on PYTHONPATH?") from error


def _source_of(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return Path(file).read_text(encoding="utf-8") if file is not None and file.endswith(".py") else ""


def _folder_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve().parent


def _function(module: ModuleType, name: str, where: str) -> Callable[..., Recipe]:
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{where} has no function {name!r}; a recipe is `def {name}(*, steps: int = …) -> af.Recipe`")
    found: Callable[..., Recipe] = function
    return found


def _parameters(function: Callable[..., Recipe], name: str) -> tuple[Parameter, ...]:
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise UserError(f"the recipe {name} has an annotation that isn't defined: {error}") from error
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.default is inspect.Parameter.empty:
            raise UserError(
                f"the recipe {name}'s parameter {parameter.name} must be keyword-only and have a default: "
                f"`def recipe(*, {parameter.name}: int = …)`"
            )
        if parameter.name not in hints:
            raise UserError(f"the recipe {name}'s parameter {parameter.name} needs a type: `{parameter.name}: int = …`")
        found.append(Parameter(parameter.name, hints[parameter.name], parameter.default))
    return tuple(found)
