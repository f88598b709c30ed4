"""The one exception for what a user gave, and how exceptions are told."""

from __future__ import annotations

import difflib
import math
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Something the user gave can't be used.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it as it
    is and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


def reason(error: object) -> str:
    """Why something failed, in one line: an error's message, without a file's name; its kind where it has none."""
    return _line(getattr(error, "strerror", None) or error) or type(error).__name__


def said(error: BaseException) -> str:
    """The message of an exception, in one line, after its kind; a ValueError's kind is left out."""
    kind, text = type(error).__name__, _line(error)
    return text if isinstance(error, ValueError) and text else f"{kind}: {text}" if text else kind


def _line(message: object) -> str:
    text = " ".join(str(message).partition("Exception raised from")[0].split())  # PyTorch's C++ frames
    return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"


def near(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """``did you mean X?``, of the known names that are like this one; empty if none is."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""


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


@cache
def _is_users(file: str) -> bool:
    path = Path(file).resolve()
    if file.startswith("<") or {"site-packages", "dist-packages"} & {*path.parts, *Path(file).parts}:
        return False
    return not any(place in path.parents for place in _installed())


@cache
def _installed() -> set[Path]:
    """Folders of code that isn't the user's: Python's, alphaflow's, and, wherever it lies, what that stands on."""
    package = Path(__file__).resolve().parent
    found = {package, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))}
    if (package.parent / "pyproject.toml").is_file():  # a checkout in place of an installed package
        found |= {package.parent / name for name in ("cli", "data_tools", "recipes")}
    files = (getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "numpy", "typer", "click", "rich"))
    return found | {Path(file).resolve().parent for file in files if file}


def is_number(value: Any) -> bool:
    """Whether a value that a user gave is a finite number: no text, no NaN, no True."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_whole(value: Any) -> bool:
    """Whether a value that a user gave is a whole number, and not True."""
    return not isinstance(value, bool) and isinstance(value, Integral)
