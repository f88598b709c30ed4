"""Objects as JSON and back: what run.json keeps, so that a run's network is rebuilt without running its recipe.

Only alphaflow's own public classes are described, from plain values, and each place takes its own kind of them back:
nothing in run.json or dataset.json can run code.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .errors import UserError

NETWORKS, AUTOENCODERS = frozenset({"DiT"}), frozenset({"Pixels", "DiffusersVAE", "Normalised"})
SAMPLERS = frozenset({"ODE", "Consistency", "CFG"})
"""What may stand in the place of a network, an autoencoder, a sampler."""


MOST = 10**6
"""More than any width, depth or number of classes."""


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


def rebuild(described: Any, kinds: frozenset[str]) -> Any:
    """The object that `describe` described.

    Args:
        described: as it was read.
        kinds: names of the classes that may be built.

    Raises:
        UserError: it is none of them, or has arguments that its class doesn't take.
    """
    if not isinstance(described, dict):
        raise UserError(f"run.json describes {described!r:.100} where one of {', '.join(sorted(kinds))} is expected")
    name = str(described.get("type"))
    if name not in kinds:
        raise UserError(f"run.json names {name!r:.100}, not one of {', '.join(sorted(kinds))}; upgrade alphaflow")
    arguments = {key: _value(item, kinds) for key, item in described.items() if key != "type"}
    try:
        return _public(name)(**arguments)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"run.json describes a {name} that can't be built: {str(error)[:300]}") from error


def _value(described: Any, kinds: frozenset[str]) -> Any:
    """An argument: plain, a tuple, or one more object."""
    if isinstance(described, list):
        return tuple(_value(item, kinds) for item in described)
    if isinstance(described, dict):
        return rebuild(described, kinds)
    if isinstance(described, int) and abs(described) > MOST:
        raise UserError(f"run.json holds the number {described}, which nothing of alphaflow's can be")
    return described


def _public(name: str) -> Any:
    import alphaflow

    return getattr(alphaflow, name) if name in dir(alphaflow) else None
