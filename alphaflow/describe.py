"""Objects as JSON and back: what run.json keeps, so that a run's network is rebuilt without running its recipe.

Only alphaflow's own public classes are described and rebuilt, from plain values: nothing in run.json can run code.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .errors import UserError


class NotDescribableError(TypeError):
    """The value is of a class that isn't alphaflow's."""


def describe(value: Any) -> Any:
    """A value as JSON: plain values as they are, an alphaflow object as {"type": …, its arguments}.

    Raises:
        NotDescribableError: the value, or one inside it, is of another class.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    arguments: Any
    if dataclasses.is_dataclass(value):
        arguments = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
    else:
        arguments = getattr(value, "config", None)
    name = type(value).__name__
    if not isinstance(arguments, dict) or _public(name) is not type(value):
        raise NotDescribableError(f"{type(value).__module__}.{name} is not one of alphaflow's classes")
    return {"type": name, **{key: describe(item) for key, item in arguments.items()}}


def rebuild(described: Any) -> Any:
    """The value that `describe` described.

    Raises:
        UserError: it names a class that alphaflow doesn't have, or arguments that the class doesn't take.
    """
    if isinstance(described, list):
        return tuple(rebuild(item) for item in described)
    if not isinstance(described, dict):
        return described
    arguments = {key: rebuild(item) for key, item in described.items() if key != "type"}
    name = str(described.get("type"))
    built_by = _public(name)
    if not isinstance(built_by, type):
        raise UserError(f"run.json names {name!r}, which this version of alphaflow doesn't have; upgrade alphaflow")
    try:
        return built_by(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"run.json describes a {name} that can't be built: {error}") from error


def _public(name: str) -> Any:
    import alphaflow

    return getattr(alphaflow, name) if name in dir(alphaflow) else None
