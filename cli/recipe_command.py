"""Commands that take a recipe: its parameters are their options."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alphaflow.recipe_files import Parameter, RecipeFile

RECIPE = "Recipe's parameters"


def recipe_command(
    name: str, arguments: list[str], work: Callable[..., None], more: list[inspect.Parameter] | None = None
) -> Callable[..., None]:
    """A command with the options of the recipe that the command line names, if it names one.

    Args:
        name: of the command.
        arguments: the command line.
        work: takes its own options, and all others as keyword arguments.
        more: options beside ``work``'s own.
    """
    own = [p for p in inspect.signature(work, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own += more or []
    spec = _recipe_in(name, arguments, own)
    found = None if spec is None else _find(spec)
    added = [] if found is None else [_option(parameter, own) for parameter in found.parameters]

    def run(**options: Any) -> None:
        work(**options)

    signature = inspect.Signature([*own, *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    run.__doc__ = work.__doc__ if found is None else f"{name.capitalize()} {found.name}: {_summary(found)}"
    return run


def _recipe_in(name: str, arguments: list[str], own: list[inspect.Parameter]) -> str | None:
    """RECIPE in `train … RECIPE …`: the first argument after the command that is neither an option nor its value."""
    if not arguments or arguments[0] != name:
        return None
    names = {p.name.replace("_", "-"): _is_switch(p) for p in own}
    flags = {"--help", "-h", *(before + name for name, switch in names.items() if switch for before in ("--", "--no-"))}
    known = {f"--{name}" for name in names} | {"--from"}
    rest = arguments[1:]
    while rest:
        argument, *rest = rest
        if not argument.startswith("-"):
            return argument
        takes_value = "=" not in argument and argument not in flags
        if takes_value and rest and (argument in known or not _looks_like_a_recipe(rest[0])):
            rest = rest[1:]
    return None


def _is_switch(parameter: inspect.Parameter) -> bool:
    """Whether an option takes no value: bool, or bool | None."""
    kind, *_ = typing.get_args(parameter.annotation)  # of Annotated
    return kind is bool or bool in typing.get_args(kind)


def _looks_like_a_recipe(argument: str) -> bool:
    """Whether what follows an option that isn't known yet is the recipe: `train --flip cifar10`."""
    from alphaflow.recipe_files import builtin_recipes

    return argument.endswith(".py") or ".py:" in argument or argument.replace("-", "_") in builtin_recipes()


def _find(spec: str) -> RecipeFile:
    from alphaflow.recipe_files import find_recipe

    return find_recipe(spec)


def _summary(found: RecipeFile) -> str:
    import ast

    return (ast.get_docstring(ast.parse(found.text)) or "a recipe of your own.").partition("\n")[0]


def _option(parameter: Parameter, own: list[inspect.Parameter]) -> inspect.Parameter:
    """A recipe's parameter as an option of the command."""
    from alphaflow.errors import UserError

    if parameter.name in {"help", *(p.name for p in own)}:
        raise UserError(f"a recipe's parameter can't be called {parameter.name}: there is that option; rename it")
    option = typer.Option(rich_help_panel=RECIPE, show_default=True)
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=parameter.default,
        annotation=Annotated[parameter.type, option],
    )
