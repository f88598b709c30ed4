"""The `alphaflow` command."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from . import diagnose, encode, evaluate, info, recipes, sample, shards, stats, train
from .errors import one_line

HELP = """Trains few-step image and video generators: flow matching, MeanFlow, and α-Flow between them.

Start with: alphaflow train digits
"""


def build(arguments: list[str]) -> typer.Typer:
    """The command line for these arguments: `train RECIPE` has the options of that recipe."""
    app = typer.Typer(
        help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    app.callback()(_root)
    app.add_typer(recipes.app, name="recipes")
    app.command("train", no_args_is_help=True)(train.command(arguments))
    app.command("info", no_args_is_help=True)(info.command(arguments))
    app.command("sample", no_args_is_help=True)(sample.sample)
    app.command("evaluate", no_args_is_help=True)(evaluate.evaluate)
    app.command("diagnose", no_args_is_help=True)(diagnose.diagnose)
    app.add_typer(encode.app, name="encode")
    app.command("verify", no_args_is_help=True)(shards.verify)
    app.command("preview", no_args_is_help=True)(shards.preview)
    app.command("stats", no_args_is_help=True)(stats.stats)
    return app


def main() -> None:
    """Runs the command line on the process's arguments."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no α shows something else
            stream.reconfigure(errors="replace")
    with one_line("--debug" in arguments):
        status = build(arguments)(args=arguments, prog_name="alphaflow", standalone_mode=False)
        raise SystemExit(status or 0)


def _version(show: bool) -> None:
    if show:
        from alphaflow import __version__

        print(f"alphaflow {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
