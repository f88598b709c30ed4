"""The `alphaflow` command."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from alphaflow.errors import UserError

from . import convert, diagnose, encode, evaluate, export, info, recipes, sample, shards, stats, train
from .command import Command, add_recipe_command
from .errors import one_line
from .flags import RUNNING, as_flags

HELP = """Train few-step image and video generators with flow matching, MeanFlow and α-Flow.

Start with: alphaflow train digits
"""

SPINS = "5000"
"""How often a thread of libgomp looks for work before it sleeps. Its own 300,000 are no faster where the processors are
free, and make each step several times slower where something else runs."""


def build() -> typer.Typer:
    """The command line."""
    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.add_typer(recipes.app, name="recipes")
    add_recipe_command(app, train.train, *train.MACHINE)
    add_recipe_command(app, info.info)
    for function in (
        convert.convert,
        export.export,
        sample.sample,
        evaluate.evaluate,
        diagnose.diagnose,
        shards.verify,
        shards.preview,
        stats.stats,
    ):
        app.command(no_args_is_help=True, cls=Command)(function)
    app.add_typer(encode.app, name="encode")
    return app


def main() -> None:
    """Runs the command line on the process's arguments."""
    for name in ("stdout", "stderr"):  # closed
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no α shows something else
            stream.reconfigure(errors="replace")
    if os.environ.get("RANK", "0") == "0":
        _tell_of_data()
    if not any(name.startswith(("OMP_", "GOMP_", "KMP_")) for name in os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS  # before torch is there
    RUNNING.context, RUNNING.debug = None, False
    with one_line():
        try:
            Path.cwd()
        except FileNotFoundError as error:
            raise UserError("the current folder was removed; change to another one") from error
        status = build()(args=meant(sys.argv[1:]), prog_name="alphaflow", standalone_mode=False)
        raise SystemExit(status or 0)


def _tell_of_data() -> None:
    """Prints what the library finds in places of pictures and clips, before long work."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: print(as_flags(record.getMessage()), flush=True)  # type: ignore[method-assign]
    log = logging.getLogger("alphaflow.data")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def meant(arguments: list[str]) -> list[str]:
    """Arguments with ``~`` as the home folder where the shell left it, and `help` as --help."""
    found = [_expanded(word) for word in arguments]
    return [*found[1:], "--help"] if found[:1] == ["help"] else found


def _expanded(word: str) -> str:
    option = re.match(r"--?[\w-]+=|", word)
    assert option is not None
    rest = word[option.end() :]
    if rest != "~" and not rest.startswith(("~/", "~\\")):
        return word
    try:
        return option[0] + str(Path(rest).expanduser())
    except RuntimeError:  # nobody's home is known
        return word


def _version(show: bool) -> None:
    if show:
        from alphaflow.version import __version__

        print(f"alphaflow {__version__}")
        raise typer.Exit


def _debug(show: bool) -> None:
    RUNNING.debug = RUNNING.debug or show


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_debug,
            is_eager=True,
            expose_value=False,
            help="Show the full traceback when an error occurs.",
        ),
    ] = False,
) -> None:
    pass
