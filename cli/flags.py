"""The running command: its flags, by which users know the library's parameters, and whether errors show tracebacks."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

ALSO = {
    "chosen": "classes", "cond": "conditions", "evaluation": "evaluate_every", "file": "out", "folder": "clips_folder",
    "nfes": "nfe", "place": "out", "seeds": "seed", "shards": "shard", "start": "from_run", "step": "checkpoint",
}  # fmt: skip
"""Parameters of the library ↦ the command line's, where they have other names there."""


@dataclass
class Running:
    """The running command's click Context, once there is one; and whether errors show their traceback."""

    context: Any = None
    debug: bool = False


RUNNING = Running()
"""One process runs one command line."""


def as_flags(text: str) -> str:
    """A text of the library with its parameters, `` `name=value` `` or `` `name=` ``, as the running command's flags.

    Names that the command doesn't have stay as they are: they are for Python.
    """
    parameters = [] if RUNNING.context is None else RUNNING.context.command.params
    known = {parameter.name: parameter for parameter in parameters}

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        parameter = known.get(name) or known.get(ALSO.get(name, ""))
        if parameter is None:
            return found[0]
        option = parameter.opts[0]
        if not option.startswith("-"):
            return str(option).upper()
        if value == "False" and parameter.secondary_opts:
            return str(parameter.secondary_opts[0])
        return f"{option} {_shown(value)}".strip()

    return re.sub(r"`(\w+)=([^`]*)`", flag, text)


def _shown(value: str) -> str:
    """A value that is written in Python as the command line takes it; a switch that is on as none."""
    try:
        given = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
    if isinstance(given, dict):
        return " ".join(f"{name}={part}" for name, part in given.items())
    return ",".join(map(str, given)) if isinstance(given, tuple | list) else "" if given is True else str(given)
