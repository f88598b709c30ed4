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

from . import diagnose, encode, evaluate, info, recipes, sample, shards, stats, train
from .errors import one_line

HELP = """Trains few-step image and video generators: flow matching, MeanFlow, and α-Flow between them.

Start with: alphaflow train digits
"""

SPINS = "5000"
"""How often a thread of libgomp looks for work before it sleeps. Its own 300,000 are no faster where the processors are
free, and make each step several times slower where something else runs."""

PLACES = {
    "--autoencoder", "--cache", "--classes", "--clips-folder", "--csv", "--data", "--from", "--json", "--labels",
    "--metrics", "--out", "--pictures", "--reference", "--save", "--subfolder", "--weights",
}  # fmt: skip
"""Options that nothing is meant by if they are empty: to Python that is the current folder."""


def build(arguments: list[str]) -> typer.Typer:
    """The command line for these arguments: `train RECIPE` has the options of that recipe."""
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
    arguments = meant(sys.argv[1:])
    debug = "--debug" in arguments
    if arguments[:1] == ["--debug"]:
        arguments = arguments[1:]
    with one_line(arguments, debug):
        _check(arguments)
        status = build(arguments)(args=arguments, prog_name="alphaflow", standalone_mode=False)
        raise SystemExit(status or 0)


def _tell_of_data() -> None:
    """Prints what the library finds in places of pictures and clips, before long work."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: print(record.getMessage(), flush=True)  # type: ignore[method-assign]
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


def _check(arguments: list[str]) -> None:
    """Refuses an empty argument, and a folder to work in that was removed."""
    from alphaflow.errors import UserError

    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder was removed; change to another one") from error
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and not value.strip() and (option in PLACES or not option.startswith("--")):
            raise UserError(f"{option if option in PLACES else 'an argument'} is empty; give a value, or leave it out")


def _version(show: bool) -> None:
    if show:
        from alphaflow.version import __version__

        print(f"alphaflow {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
