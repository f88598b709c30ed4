"""What is rebuilt of a run: its network by its description, all else by its recipe.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from ..errors import UserError
from ..models.dit import DiT
from ..recipe import Recipe
from ..recipe_files import builtin_recipes, builtin_source, load_recipe
from .composed import composed_recipe
from .folder import RunFolder

NETWORKS = {"DiT": DiT}
"""What run.json may name as one."""


def recipe_of(folder: RunFolder, *, trust: bool = False) -> Recipe:
    """Runs a run's recipe.py with its arguments: its dataset, objective, and all else.

    That of a run which was composed in Python is rebuilt from run.json.

    Args:
        folder: folder of the run.
        trust: run it whatever it holds; if not, only if it is one of the built-in recipes, to the letter.

    Raises:
        UserError: the recipe isn't trusted, or can't be run, or rebuilt.
    """
    origin = folder.origin()
    if not origin.text:
        return composed_recipe(folder, NETWORKS)
    known = origin.function == "recipe" and origin.text in map(builtin_source, builtin_recipes())
    if not (known or trust):
        raise UserError(
            f"{folder.recipe} would be run, and is not one of the built-in recipes: read it, then give `trust=True`; "
            "evaluating doesn't need it where a reference is given"
        )
    beside = None if known else origin.folder
    found = load_recipe(origin.text, origin.name, folder.recipe, origin.function, beside)
    hints = {parameter.name: parameter.type for parameter in found.parameters}
    return found(**{name: _typed(value, hints.get(name)) for name, value in origin.arguments.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the recipe's parameter takes it: paths are kept as text."""
    return Path(value) if isinstance(value, str) and hint is not None and _takes_path(hint) else value


def _takes_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)
