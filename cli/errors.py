"""How errors end: one line and status 2 for what a user can cause, a traceback for a fault of alphaflow's own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from .flags import RUNNING, as_flags

INTERRUPTED = 130


def fail(message: str, status: int = 2) -> NoReturn:
    """Prints one line to standard error and exits; under torchrun it says which process speaks."""
    from alphaflow.errors import printable

    rank = f" in process {os.environ.get('RANK')}" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    print(f"Error{rank}: {printable(as_flags(message))}", file=sys.stderr, flush=True)
    raise SystemExit(status)


@contextmanager
def one_line() -> Iterator[None]:
    """Ends what a user can cause with one line; with --debug exceptions pass through."""
    from alphaflow.errors import UserError, place_in_users_code, said

    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if isinstance(error, _usage_errors()):
            _usage(error)
        if RUNNING.debug:
            raise
        if isinstance(error, UserError):
            fail(str(error))
        place = place_in_users_code(error)
        if _is_of_memory(error):
            where = f"{place}: " if place else ""
            fail(f"{where}there is not enough memory ({said(error)}); make the batch, or the network, smaller")
        if place:
            fail(f"{place}: {said(error)} (--debug shows the traceback)")
        if isinstance(error, OverflowError) or re.search("Overflow when unpacking|too large to convert", str(error)):
            fail(f"a number is too large: {said(error)}")
        if isinstance(error, OSError) and error.strerror:
            _of_files(error)
        if isinstance(error, ValueError):  # a setting that only the object it is for could check
            fail(f"{said(error)} (--debug shows where)")
        raise


def _of_files(error: OSError) -> NoReturn:
    """A file's error, by the name that the user knows it by."""
    if error.filename is None:
        fail(f"{error.strerror}: standard output, or a file; check the free space")
    path = Path(os.fsdecode(error.filename))
    temporary = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{8}(\.old)?\.tmp", path.name)
    path = path.with_name(temporary[1]) if temporary else path
    fail(f"{error.strerror}: {path}; check the path, its permissions, and the free space")


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, NumPy's, or PyTorch's, which on a CPU says so by a RuntimeError."""
    of_torch = isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
    return isinstance(error, MemoryError) or of_torch


def _usage_errors() -> type[Exception]:
    """The base of Typer's errors about options and arguments: its own, or click's in older versions."""
    found: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    return found


def _usage(error: Any) -> NoReturn:
    from alphaflow.errors import near

    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        raise SystemExit(0)
    message = " ".join(error.format_message().split()).rstrip(".")
    parameter = getattr(error, "param", None)
    option, name = ("", "") if parameter is None else (parameter.opts[0], parameter.name)
    if type(error).__name__ == "NoSuchOption":
        hint = near(error.option_name, error.possibilities or [], cutoff=0.0)
        message = "; ".join(filter(None, [f"there is no option {error.option_name}", hint]))
    elif message.startswith("No such command"):
        wrong = message.split("'")[1]
        message = "; ".join(filter(None, [f"there is no command {wrong}", near(wrong, error.ctx.command.commands)]))
    elif type(error).__name__ == "BadOptionUsage":
        message = f"{error.option_name} {'needs a value' if 'requires' in message else 'takes no value'}"
    elif type(error).__name__ == "MissingParameter":
        message = f"{option.upper()} is missing"
    elif option.startswith("-") and message.startswith("Invalid value"):
        message = _wrong_value(option, error.message, error.ctx.meta.get("given", {}).get(name))
    context = error.ctx or RUNNING.context
    page = "alphaflow" if context is None else " ".join(filter(None, [context.command_path, context.obj]))
    fail(f"{message}{' See' if message.endswith('?') else '; see'} `{page} --help`")


def _wrong_value(option: str, message: str, value: str | None) -> str:
    """What an option takes, and what it was given, from Typer's or click's words for it."""
    from alphaflow.errors import near

    got = "" if value is None else f", got {value!r}"
    number = r"(-?[\d.]*\d)"
    found = {
        "least": re.search(rf"greater than or equal to {number}|{number}<=x|x>={number}", message),
        "most": re.search(rf"less than or equal to {number}|x<={number}", message),
    }
    _, _, names = message.partition("not one of")
    if names:
        choices = re.findall(r"'([^']+)'", names)
        return ": ".join(
            filter(None, [f"{option} takes {', '.join(choices)}{got}", near((value or "").lower(), choices)])
        )
    bounds = [f"at {name} {next(filter(None, bound.groups()))}" for name, bound in found.items() if bound]
    if bounds:
        return f"{option} must be {' and '.join(bounds)}{got}"
    for word, kind in (("integer", "a whole number"), ("number", "a number"), ("float", "a number")):
        if word in message:
            return f"{option} takes {kind}{got}"
    return f"{option}: {' '.join(message.split()).rstrip('.')}{got}"
