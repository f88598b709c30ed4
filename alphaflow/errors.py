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


def is_number(value: Any) -> bool:
    """Whether a value that a user gave is a finite number: no text, no NaN, no True."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value that a user gave is a whole number, and not True."""
    return not isinstance(value, bool) and isinstance(value, Integral)
