"""Clips that a CSV in Kinetics' format lists, wherever in a folder their files lie."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from .entry import Entry, Reject
from .listing import Listing, find, told
from .tables import Classes, cells_of, text_of

COLUMNS = ("youtube_id", "time_start", "time_end")
"""Columns that a CSV must have; label and split are optional."""

KineticsRow = dict[str, str]


def list_csv(path: Path, folder: Path | None, *, split: str | None = None, classes: Classes | None = None) -> Listing:
    """The clips of a CSV with the columns label, youtube_id, time_start, time_end, split, as Kinetics' are.

    A row's clip is any file in the folder, in folders inside it, or in tars there, that is called ID_SSSSSS_EEEEEE (cut
    already, six digits each), else any that is called ID (the whole video, of which the segment is taken); where the
    first can't be read, the next is. Where no row has a label, there are no classes.

    Args:
        path: path of the CSV, UTF-8 or UTF-16.
        folder: where the clips lie.
        split: split to read; None reads all rows of a file that has only one.
        classes: a fixed list of them.

    Raises:
        UserError: a file or column is missing, the file has no such split or several, or no clip is there.
    """
    if folder is None or not folder.is_dir():
        raise UserError("a CSV lists clips by name: give the folder that they lie in as `folder=`")
    rows, rejects = _rows(path, split)
    found, _ = find(folder, "clips", together=True)
    files = _by_stem(found.entries)
    known = sorted({row["label"] for _, row in rows if row["label"]})
    names = known if classes is None else classes.names
    index = {name: i if classes is None else classes.index.get(name) for i, name in enumerate(known)}
    entries: list[Entry] = []
    seen: set[tuple[str, str]] = set()
    for number, row in rows:
        name, label = "_".join(row[column] for column in COLUMNS), index.get(row["label"])
        segment = _segment(row)
        candidates = [] if segment is None else _candidates(files, row["youtube_id"], segment)
        reason = ""
        if (name, row["label"]) in seen:
            reason = "the same clip and label as a line before"
        elif segment is None:
            reason = "times are no numbers, or time_end is not after time_start"
        elif known and label is None:
            reason = f"its label {row['label']!r} is not in the list of classes" if row["label"] else "no label"
        elif not candidates:
            reason = "no such file in the clips' folder"
        else:
            entries.append(_chain([entry._replace(label=label) for entry in candidates]))
        seen.add((name, row["label"]))
        if reason:
            rejects.append(Reject(name, f"line {number}: {reason}"))
    if not entries:
        raise UserError(f"none of the {len(rows):,} clips that {path} lists lies in {folder}")
    rejects += found.rejects  # damaged tars
    note = "" if known else "unlabelled: no line has a label"
    entries.sort(key=lambda entry: (entry.name, entry.segment or (0.0, 0.0)))
    return told(Listing(path, "clips", entries, names if known else [], rejects, Counter(), note))


def _rows(path: Path, split: str | None) -> tuple[list[tuple[int, KineticsRow]], list[Reject]]:
    """A split's rows with their lines' numbers, and rows that are too short."""
    table = cells_of(path, io.StringIO(text_of(path)))
    head = [name.lower() for name in table[0][1]] if table else []
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; expected label, {', '.join(COLUMNS)}, split")
    rows, rejects = [], []
    for number, cells in table[1:]:
        row = {"label": "", "split": "", **dict(zip(head, cells, strict=False))}
        if all(row.get(name) for name in COLUMNS):
            rows.append((number, row))
        elif any(cells):
            rejects.append(Reject(",".join(cells), f"line {number}: too short, or without {', '.join(COLUMNS)}"))
    return _of_split(path, rows, split), rejects


def _of_split(path: Path, rows: list[tuple[int, KineticsRow]], split: str | None) -> list[tuple[int, KineticsRow]]:
    splits = sorted({row["split"] for _, row in rows if row["split"]})
    if split is None and len(splits) > 1:
        raise UserError(f"{path} holds the splits {', '.join(splits)}; choose one with `split=`")
    if split is not None and splits and split not in splits:
        raise UserError(f"{path} has no split {split!r}; it has {', '.join(splits)}")
    chosen = [(number, row) for number, row in rows if split is None or row["split"] in ("", split)]
    if not chosen:
        raise UserError(f"{path} has no rows")
    return chosen


def _by_stem(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Files by their names without folder and ending."""
    files: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.name):
        files.setdefault(entry.name.rpartition("/")[2].rpartition(".")[0], []).append(entry)
    return files


def _segment(row: KineticsRow) -> tuple[float, float] | None:
    """A row's times in seconds; None if they are none."""
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except ValueError:
        return None
    return (start, end) if 0 <= start < end and math.isfinite(end) else None


def _candidates(files: dict[str, list[Entry]], video: str, segment: tuple[float, float]) -> list[Entry]:
    """Every file of a clip: those that are cut already, then those of the whole video."""
    start, end = segment
    cut = files.get(f"{video}_{int(start):06d}_{int(end):06d}", [])
    return [*cut, *(entry._replace(segment=segment) for entry in files.get(video, []))]


def _chain(candidates: Sequence[Entry]) -> Entry:
    """The first, with the others in its stead."""
    first, *others = candidates
    return first._replace(instead=_chain(others)) if others else first
