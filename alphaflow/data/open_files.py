"""Files that are read at any place, while they may be cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, reason

try:
    import resource
except ImportError:  # Windows
    ROOM = 128
else:
    ROOM = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 1)
    """Files that are kept open at once: a process may open four times as many."""


class Files:
    """Files that are read at any place, in any order. Of more than ``ROOM`` the latest is closed for another.

    Not memory-mapped: reading what a mapped file has lost since ends the process.

    Args:
        paths: paths of the files; they are opened as they are first read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [str(path) for path in paths]
        self._opened: dict[int, _Opened] = {}

    def fill(self, data: memoryview, number: int, offset: int) -> None:
        """Reads a file's bytes from ``offset`` on into ``data``.

        Raises:
            UserError: it ends before, or can't be read.
        """
        try:
            opened = self._open(number)  # held while it is read, whatever other threads open
            count = 0
            while count < len(data):  # a system reads 2 GiB at once at most
                more = os.preadv(opened.descriptor, [data[count:]], offset + count)
                if not more:
                    break
                count += more
        except OSError as error:
            raise UserError(f"{self.paths[number]} can't be read any more: {reason(error)}; restore it") from error
        if count != len(data):
            raise UserError(
                f"{self.paths[number]} was cut while it was in use: it ends before byte {offset + len(data)}; "
                "restore it, and check what lies beside it"
            )

    def _open(self, number: int) -> _Opened:
        found = self._opened.get(number)
        if found is None:
            if len(self._opened) >= ROOM:
                self._opened.popitem()
            found = self._opened[number] = _Opened(os.open(self.paths[number], os.O_RDONLY))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_opened": {}}  # another process opens its own


class _Opened:
    """A file's descriptor, closed when nobody holds it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
