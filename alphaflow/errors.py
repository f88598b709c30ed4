"""The one exception for what a user gave, and how exceptions are told."""

from __future__ import annotations

import math
import sysconfig
import traceback
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Something the user gave can't be used.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it as it
    is and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


def said(error: BaseException) -> str:
    """What an exception says, in one line; with its kind, unless it is a ValueError, whose message says it all."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def printable(text: str) -> str:
    """The text with what a terminal would obey, or break a line at, written out: names come from anybody's files."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def place_in_users_code(error: BaseException) -> str:
    """``FILE, line N`` where an exception was raised, or passed last, in code that nobody installed; empty if in none.

    Of an error in a file's syntax, where that is.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return False
    installed = {Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))}
    path = Path(file).resolve()
    return not any(place in path.parents for place in installed | _checkout())


@cache
def _checkout() -> set[Path]:
    """The command line, tools and recipes of a checkout that stands for an installed package."""
    top = Path(__file__).parent.parent
    return {top / name for name in ("cli", "data_tools", "recipes") if (top / "pyproject.toml").is_file()}


def is_number(value: Any) -> bool:
    """Whether a value that a user gave is a finite number: no text, no NaN, no True."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value that a user gave is a whole number, and not True."""
    return not isinstance(value, bool) and isinstance(value, Integral)
