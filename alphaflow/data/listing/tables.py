"""Files that people write: lists of classes, and tables."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ...errors import UserError, reason, said
from ...files import parsed

MOST_TEXT = 2**28
"""Bytes of such a file."""


def has_classes(shards: Path) -> bool:
    """Whether a folder of shards, finished or not, says that it has classes."""
    try:
        return bool(parsed((shards / "dataset.json").read_bytes())["class_names"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Classes:
    """A fixed list of classes: which there are, and in what order.

    Args:
        path: a text file with a name a line, and other names of the class after tabs; or shards, or their dataset.json.

    Raises:
        UserError: it can't be read, or names a class twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "dataset.json" if path.is_dir() else path
        if file.suffix == ".json":
            try:
                lines = [[str(name)] for name in parsed(text_of(file))["class_names"]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} lists no classes; give a text file with a name a line, or shards") from error
        else:
            lines = [line.split("\t") for line in lines_of(file)]
        self.names = [line[0].strip() for line in lines]
        self.index = {name.strip(): i for i, line in enumerate(lines) for name in line}
        if not self.names or len(self.index) < sum(map(len, lines)):
            seen = Counter(name.strip() for line in lines for name in line).most_common(1)
            raise UserError(f"{file} {f'names {seen[0][0]!r} twice' if seen else 'is empty'}; give each class one line")

    def of(self, labels: Iterable[str]) -> dict[str, int | None]:
        """Classes' indices, by their names or other names of them; or, if they are no names, by numbers from 0 on."""
        found = {label: self.index.get(label) for label in labels}
        if None in found.values() and all(label.isdecimal() and len(label) < 7 for label in found):
            numbers = {label: int(label) for label in found}
            if max(numbers.values()) < len(self.names):
                return dict(numbers)
        return found


def text_of(file: Path) -> str:
    """A text file that somebody made, in UTF-8 or as its first bytes say.

    Raises:
        UserError: it can't be read.
    """
    try:
        if file.stat().st_size > MOST_TEXT or not file.is_file():
            raise ValueError(f"no text file, or more than {MOST_TEXT:,} bytes")
        data = file.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}, is not UTF-8; save the file in that encoding") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read ({said(error)})") from error


def lines_of(file: Path) -> list[str]:
    """A text file's lines that hold something, whichever system ended them."""
    return [line for line in text_of(file).replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]


def cells_of(file: Path, lines: Iterable[str], delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """A table's rows, each with the number of the line that it ends on, its cells without the spaces around them.

    Raises:
        UserError: a row can't be read.
    """
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        return [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {reason(error)}; repair that line") from error


def rows_of(file: Path) -> list[list[str]]:
    """A table's rows; cells lie between tabs, commas, semicolons or spaces, whichever most lines have.

    Raises:
        UserError: it can't be read, or a quote that begins is not ended on its line.
    """
    lines = lines_of(file)
    with_mark = {mark: sum(mark in line.strip(" ") for line in lines) for mark in ("\t", ",", ";", " ")}
    delimiter = next((mark for mark, count in with_mark.items() if 2 * count > len(lines)), ",")
    rows = [cells for _, cells in cells_of(file, lines, delimiter)]
    if delimiter == " " and any(len(row) > 2 for row in rows):
        raise UserError(f"{file} has names or labels with spaces, and spaces between them; put tabs there")
    if len(rows) < len(lines):
        raise UserError(f"{file} has a quote that begins on one line and ends on another; repair it")
    return rows
