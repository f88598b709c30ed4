"""Values of options that more than one command takes."""

from __future__ import annotations

from alphaflow.errors import UserError


def integers(text: str, option: str) -> list[int]:
    """A comma-separated list of integers.

    Raises:
        UserError: it is none.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} takes whole numbers with commas between, for example 1,2,4; got {text!r}") from error
