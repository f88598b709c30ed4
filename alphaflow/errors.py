"""The one exception for what a user gave."""

from __future__ import annotations

import math
from numbers import Integral, Real
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


def is_number(value: Any) -> bool:
    """Whether a value that a user gave is a finite number: no text, no NaN, no True."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value that a user gave is a whole number, and not True."""
    return not isinstance(value, bool) and isinstance(value, Integral)
