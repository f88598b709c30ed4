"""What each process makes for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A thread pool, a lock, an open file: what forked or pickled copies of a dataset can't share.

    Args:
        make: makes it, in each process when it is first asked for; can be pickled.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[int, T] | None = None

    def __call__(self) -> T:
        """What belongs to the calling process."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), self._make()
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": None}
