"""What an evaluation found: rows, the protocol they were found by, and both as JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parsed, replacing, write_json


@dataclass(frozen=True)
class Measured:
    """One row of a result.

    Attributes:
        name: what was measured.
        nfe: network evaluations a sample, None where that isn't known.
        count: how many samples.
        values: name ↦ value; with several seeds the mean over them.
        seed: seed of the noise; None for images on disk, and for means over seeds.
        std: name ↦ standard deviation over seeds (n − 1); empty for single values.
    """

    name: str
    nfe: int | None
    count: int
    values: dict[str, float]
    seed: int | None = None
    std: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation's figures and how they came about.

    Attributes:
        rows: for each number of evaluations and each seed, then the means over seeds, where there are several.
        protocol: every choice, as JSON values.
        warnings: what a reader should know.
    """

    rows: list[Measured]
    protocol: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def shown(self) -> list[Measured]:
        """The rows of a table: means over seeds rather than single seeds, where there are several."""
        averaged = {row.nfe for row in self.rows if row.std}
        return [row for row in self.rows if row.std or row.seed is None or row.nfe not in averaged]

    def write(self, path: Path) -> None:
        """Writes protocol, rows and warnings as JSON; see `check_json`."""
        check_json(path)
        write_json(path, {**self.protocol, "rows": [asdict(row) for row in self.rows], "warnings": self.warnings})

    def append(self, path: Path) -> None:
        """Appends the rows to a CSV file, or begins one: the protocol's main choices, then the values.

        Raises:
            UserError: the file has other columns.
        """
        chosen = {
            "date": self.protocol["date"],
            "target": self.protocol["target"],
            "checkpoint": (self.protocol.get("run") or {}).get("checkpoint", ""),
            "guidance": ((self.protocol.get("run") or {}).get("guidance") or {}).get("scale", ""),
            "reference": self.protocol["reference"]["name"],
        }
        lines = [
            {**chosen, "nfe": row.nfe or "", "seed": "" if row.seed is None else row.seed, "count": row.count}
            | {"sampler": row.name, **row.values, **{f"{name} ± seeds": value for name, value in row.std.items()}}
            for row in self.rows
        ]
        columns = list(dict.fromkeys(name for line in lines for name in line))
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        known = next(csv.reader([before.partition("\n")[0]]), []) if before else columns
        if not set(columns) <= set(known):
            new = ", ".join(name for name in columns if name not in known)
            raise UserError(f"{path} has no columns for {new}; write to another file")
        text = io.StringIO()
        writer = csv.DictWriter(text, known, lineterminator="\n")
        if not before:
            writer.writeheader()
        writer.writerows(lines)
        with replacing(path) as beside:
            beside.write_text(before + text.getvalue(), encoding="utf-8")


def check_json(path: Path) -> None:
    """Refuses a file that is there and holds no result.

    Raises:
        UserError: so it is.
    """
    try:
        there = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or not {"metrics", "rows", "warnings"} <= there.keys():
        raise UserError(f"{path} exists, and holds no result of an evaluation; choose another file")


def over_seeds(rows: Sequence[Measured]) -> Measured:
    """The mean and the standard deviation of the same measurement with several seeds."""
    first, n = rows[0], len(rows)
    mean = {name: math.fsum(row.values[name] for row in rows) / n for name in first.values}
    std = {name: math.sqrt(math.fsum((row.values[name] - mean[name]) ** 2 for row in rows) / (n - 1)) for name in mean}
    return Measured(f"{first.name}, {n} seeds", first.nfe, first.count, mean, None, std)


def flat(rows: Sequence[Measured]) -> Mapping[str, float]:
    """Values by name and number of evaluations, ``fid_1``, for a training log."""
    return {f"{name}_{row.nfe}": value for row in rows for name, value in row.values.items()}
