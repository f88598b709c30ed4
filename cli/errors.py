"""How errors end: one line and status 2 for what a user gave, a traceback only with --debug."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

INTERRUPTED = 130


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints one line to standard error and exits; under torchrun it says which process speaks."""
    rank = f" in process {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"Error{rank}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status)


@contextmanager
def one_line(debug: bool) -> Iterator[None]:
    """Ends what a user can cause with one line; everything passes through with ``debug``."""
    from alphaflow.errors import UserError

    try:
        yield
    except UserError as error:
        if debug:
            raise
        fail(str(error))
    except ValueError as error:  # a setting that only the object it is for could check
        if debug:
            raise
        fail(f"{' '.join(str(error).split())} (--debug shows where)")
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if debug or not error.strerror:
            raise
        fail(f"{error.strerror}: {error.filename or 'a file'}; check the path, its permissions, and the free space")
    except Exception as error:
        if debug or not isinstance(error, _usage_errors()):
            raise
        _usage(error)


def _usage_errors() -> type[Exception]:
    """The base of Typer's errors about options and arguments: its own, or click's in older versions."""
    found: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    return found


def _usage(error: Any) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        raise SystemExit(0)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "alphaflow"
    message = " ".join(error.format_message().split()).rstrip(".")
    fail(f"{message}; see `{path} --help`")
