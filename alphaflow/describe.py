"""Objects as the shortest call that builds them again, and as JSON and back.

What run.json and dataset.json keep: only alphaflow's own classes are described, from plain values, and each place takes
its own kind of them back: nothing in those files can run code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from .errors import UserError, reason

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
        arguments = value.config if isinstance(value, Configured) else None
    name = type(value).__name__
    if arguments is None or not _is_ours(type(value)):
        raise NotDescribableError(f"{type(value).__module__}.{name} is not one of alphaflow's classes")
    return {"type": name, **{key: describe(item) for key, item in arguments.items()}}


def described_anywhere(value: Any) -> Any:
    """As `describe`, but on the device of whoever rebuilds it; None where it is the user's own."""
    try:
        described = describe(value)
    except NotDescribableError:
        return None
    return {**described, "device": "auto"} if described is not None and "device" in described else described


def rebuild(described: Any, kinds: Mapping[str, Any], most: int = MOST) -> Any:
    """The object that `describe` described.

    Args:
        described: as it was read.
        kinds: the classes that may be built, by name.
        most: the largest number that an argument may be.

    Raises:
        UserError: it is none of them, or has arguments that its class doesn't take.
    """
    if not isinstance(described, dict):
        raise UserError(f"run.json describes {described!r:.100} where one of {', '.join(sorted(kinds))} is expected")
    name = str(described.get("type"))
    if name not in kinds:
        raise UserError(
            f"run.json names the class {name!r:.100}, which is not one of {', '.join(sorted(kinds))}; upgrade alphaflow"
        )
    arguments = {key: _value(item, kinds, most) for key, item in described.items() if key != "type"}
    try:
        return kinds[name](**arguments)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"run.json describes a {name} that can't be built: {reason(error)}") from error


def _value(described: Any, kinds: Mapping[str, Any], most: int) -> Any:
    """An argument: plain, a tuple, or one more object."""
    if isinstance(described, list):
        return tuple(_value(item, kinds, most) for item in described)
    if isinstance(described, dict):
        return rebuild(described, kinds, most)
    if isinstance(described, int) and abs(described) > most:
        raise UserError(f"run.json holds the number {described}, which nothing of alphaflow's can be")
    return described


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


class Configured:
    """What isn't a dataclass, and is described by the arguments that build it again.

    Attributes:
        config: these arguments, plain values; None where they aren't known.
    """

    config: Mapping[str, Any] | None = None


class Compact:
    """Base of dataclasses (declared with ``repr=False``) that print only what differs from the defaults.

    Attributes:
        brief: fields whose long tuples of numbers print as their first and last.
    """

    brief: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        given = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.init and (field.default is dataclasses.MISSING or value != field.default):
                long = field.name in self.brief and isinstance(value, tuple) and len(value) > 32
                given.append(f"{field.name}=" + (f"({value[0]!r}, …, {value[-1]!r})" if long else repr(value)))
        return f"{type(self).__name__}({', '.join(given)})"
