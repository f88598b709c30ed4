"""Finding a recipe by name, file, or module, and calling it.

A recipe file is ordinary Python with a function ``recipe(*, …) -> af.Recipe``, whose keyword-only parameters are the
command line's options. This module doesn't import torch: help pages stay quick.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError, is_whole, near, place_in_users_code, said
from .recipe import Recipe
from .recipe_modules import put_first


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
        steps: Any = arguments.get("steps")
        if is_whole(steps) and steps < 1:  # before schedules speak of it
            raise UserError(f"the recipe {self.name} needs at least 1 step, got steps={steps}")
        try:
            recipe = self.function(**arguments)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"the recipe {self.name} can't be built{_where(error)}: {_missing(error)}") from error
        except Exception as error:
            if self.folder is None and not isinstance(error, ValueError):  # a fault of ours
                raise
            where = _where(error)
            raise UserError(f"the recipe {self.name} can't be built from these values{where}: {said(error)}") from error
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
    file, function = (Path(module_name), function_name) if module_name.endswith(".py") else (Path(spec), "recipe")
    if file.is_file() and (file.suffix == ".py" or not _builtin(spec)):
        return load_recipe(_source(file), _name(file.stem, function), file, function, folder=file.resolve().parent)
    if colon and "/" not in spec and file.suffix != ".py":
        module = _import(module_name, spec)
        text = _source_of(module)
        name = _name(module_name.rpartition(".")[2], function_name)
        return RecipeFile(name, _function(module, function_name, spec), text, _folder_of(module))
    if file.is_dir() and _builtin(spec) is None:
        run = (file / "run.json").is_file()
        more = (
            f"is a run; to continue it give its recipe, with `out={spec!r}` and `resume=True`" if run else "is a folder"
        )
        raise UserError(f"{spec} {more}; a recipe is a name, a file.py, or module:function")
    if file.suffix == ".py" or "/" in spec:
        raise UserError(f"there is no recipe file {file}; write it, or begin with a copy of a built-in recipe")
    file = _builtin_file(spec)
    return load_recipe(file.read_text(encoding="utf-8"), file.stem, file)


def load_recipe(
    text: str, name: str, file: Path, function: str = "recipe", folder: str | Path | None = None, *, first: bool = True
) -> RecipeFile:
    """Runs a recipe file's source and takes its function.

    Args:
        text: the source.
        name: name of the recipe.
        file: where the source lies, for error messages.
        function: the function's name.
        folder: where the modules beside it lie.
        first: look there first when it imports; if not, the import path is arranged already.
    """
    if first and folder is not None and Path(folder).is_dir():
        put_first(Path(folder))
    module = ModuleType(f"alphaflow_recipe_{name}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the recipe {name} can't be loaded{_where(error)}: {_missing(error)}") from error
    return RecipeFile(name, _function(module, function, str(file)), text, None if folder is None else Path(folder))


def _builtin_folder() -> Path:
    return Path(str(resources.files("alphaflow.recipes")))


def _builtin_file(name: str) -> Path:
    file = _builtin(name)
    if file is not None:
        return file
    known = list(builtin_recipes())
    hint = near(name.lower().replace("-", "_"), known, most=3, cutoff=0.5) or f"built in are {', '.join(known)}"
    beside = Path(f"{name}.py")
    hint = f"did you mean {beside}, which is here?" if beside.is_file() else hint
    raise UserError(f"there is no recipe {name!r}; {hint}")


def _builtin(name: str) -> Path | None:
    """The file of a built-in recipe, or None."""
    stem = name.replace("-", "_")
    file = _builtin_folder() / f"{stem}.py"
    return file if stem.isidentifier() and stem != "__init__" and file.is_file() else None


def _name(short: str, function: str) -> str:
    """A recipe's name: its file's or module's, and its function's where that is another than usual."""
    return short if function == "recipe" else f"{short}-{function}"


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a recipe: it isn't text in UTF-8") from error


def _where(error: Exception) -> str:
    place = place_in_users_code(error)
    return f" ({place})" if place else ""


PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
"""Packages that are installed by another name than they are imported by."""


def _missing(error: Exception) -> str:
    """What an exception says; of a package that isn't there, how to install it."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("alphaflow"):
        top = error.name.partition(".")[0]
        return f"{said(error)}; is its folder on PYTHONPATH? If it is a package: pip install {PACKAGES.get(top, top)}"
    return said(error)


def _import(module: str, spec: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the recipe {spec} can't be imported{_where(error)}: {_missing(error)}") from error


def _source_of(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return Path(file).read_text(encoding="utf-8") if file is not None and file.endswith(".py") else ""


def _folder_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve().parent


def _function(module: ModuleType, name: str, where: str) -> Callable[..., Recipe]:
    function = getattr(module, name, None)
    if not callable(function):
        others = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = near(name, others) or "a recipe is `def recipe(*, steps: int = …) -> af.Recipe`"
        raise UserError(f"{where} has no function {name!r}; {hint}")
    found: Callable[..., Recipe] = function
    return found


def _parameters(function: Callable[..., Recipe], name: str) -> tuple[Parameter, ...]:
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # it evaluates what the annotations say
        raise UserError(f"the recipe {name} has an annotation that isn't defined: {said(error)}") from error
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
