"""metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..files import parsed, replacing

Row = Mapping[str, float]


class MetricsLog:
    """metrics.jsonl, one JSON object a log step.

    Args:
        file: metrics.jsonl.
        keep_until: rows of later steps, and a last row that was cut short, are removed: a resumed run repeats them.
    """

    def __init__(self, file: Path, keep_until: int) -> None:
        if file.exists():
            kept = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if _step(line) <= keep_until
            ]
            with replacing(file) as beside:
                beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = file, file.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Adds a row; ``row["step"]`` is its step."""
        if not self._path.exists():  # somebody removed it
            self._file.close()
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(line: str) -> float:
    try:
        return float(parsed(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
