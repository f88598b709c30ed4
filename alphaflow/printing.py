"""How objects print: as the shortest call that builds them again."""

from __future__ import annotations

import dataclasses
from typing import ClassVar


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
