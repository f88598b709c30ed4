"""How objects print: as the shortest call that builds them again, but for long tuples of numbers."""

from __future__ import annotations

import dataclasses


class Compact:
    """Base of dataclasses (declared with ``repr=False``) that print only what differs from the defaults."""

    def __repr__(self) -> str:
        given = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.init and (field.default is dataclasses.MISSING or value != field.default):
                given.append(f"{field.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(given)})"


def _shown(value: object) -> str:
    long = isinstance(value, tuple) and len(value) > 32
    return f"({value[0]!r}, …, {value[-1]!r})" if long else repr(value)  # type: ignore[index]
