"""`alphaflow recipes`: list the built-in recipes, show one, copy one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .command import Command

app = typer.Typer(help="List, show or copy the built-in recipes.", invoke_without_command=True)


@app.callback()
def listing(context: typer.Context) -> None:
    """List the built-in recipes.

    `recipes show NAME` prints one, `recipes copy NAME FILE` copies it.
    """
    if context.invoked_subcommand is None:
        _listed()


def _listed() -> None:
    from rich.console import Console
    from rich.table import Table

    from alphaflow.recipe_files import builtin_recipes

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, summary in builtin_recipes().items():
        table.add_row(f"[bold]{name}[/bold]", summary)
    Console().print(table)


@app.command("list", hidden=True, cls=Command)
def again() -> None:
    """List the built-in recipes."""
    _listed()


@app.command(cls=Command)
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a built-in recipe.")]) -> None:
    """Print a recipe's source."""
    from alphaflow.recipe_files import builtin_source

    sys.stdout.flush()
    sys.stdout.buffer.write(builtin_source(name).encode())  # whatever the terminal's encoding: it may be a file


@app.command(cls=Command)
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a built-in recipe.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, for example my_recipe.py.")],
) -> None:
    """Copy a recipe to a file, to change it and train with it."""
    from alphaflow.errors import UserError
    from alphaflow.files import replacing
    from alphaflow.recipe_files import builtin_source

    source = builtin_source(name)
    if file.exists():
        raise UserError(f"{file} exists; choose another name, or remove it")
    with replacing(file) as beside:
        beside.write_text(source, encoding="utf-8")
    print(f"copied to {file}; train it with: alphaflow train {shlex.quote(str(file))}")
