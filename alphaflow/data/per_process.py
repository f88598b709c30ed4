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
        self._made: dict[int, T] = {}

    def __call__(self) -> T:
        """What belongs to the calling process: one and the same in all of its threads."""
        process = os.getpid()
        if process not in self._made:
            self._made.setdefault(process, self._make())  # the first thread's, where two make one
        return self._made[process]

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": {}}
