"""How objects print: as the shortest call that builds them again."""

from __future__ import annotations

import dataclasses


class Compact:
    """Base of dataclasses (declared with ``repr=False``) that print only what differs from the defaults."""

    def __repr__(self) -> str:
        given = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.init and (field.default is dataclasses.MISSING or value != field.default):
                given.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"
