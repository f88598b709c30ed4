"""Classes: by folders, tars, what lies beside a picture in a tar, or a file of labels; and a fixed list of them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import UserError, near, said
from ...files import parsed
from .archives import key
from .entry import Entry, Reject
from .folders import Found
from .names import splits_among

NO_CLASSES = "no .cls, no .json with a label, no folders in the tars, and the tars' names tell no classes"

MOST_CLASSES, MOST_TEXT = 100_000, 2**28
"""Classes of a place, and bytes of a file of labels or classes."""

WNID = re.compile(r"n\d{8}")
"""A class of ImageNet: its tars are called so."""


@dataclass(frozen=True)
class Labelled:
    """Entries with their labels.

    Attributes:
        entries: in the order of their names.
        class_names: by label; empty where there are no classes.
        rejects: that have no label while others do.
        note: why there are no classes, or which file the labels are from.
    """

    entries: list[Entry]
    class_names: list[str]
    rejects: list[Reject] = field(default_factory=list)
    note: str = ""


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
            lines = [line.split("\t") for line in text_of(file).splitlines() if line.strip()]
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


def labelled(path: Path, found: Found, tars: Sequence[str], classes: Classes | None, labels: Path | None) -> Labelled:
    """Gives entries their labels: of a file, else of what lies beside them, else of their tars or folders.

    Args:
        path: of the place.
        found: what it holds; its entries are sorted by name.
        tars: the tars' names; empty where there are none.
        classes: that there are; None for those that are found.
        labels: a file of labels.

    Raises:
        UserError: it can't be told which class is which, or a class is not in the list.
    """
    entries = sorted(found.entries, key=lambda entry: entry.name)
    if labels is not None:
        return _by_file(entries, labels, classes)
    if found.labels or found.unlabelled:
        _check_keys(entries)
        given = [found.labels.get(key(entry.name)) for entry in entries]
        missing = "no label beside it (.cls, or label or cls in its .json)"
        return _by_label(entries, given, classes, missing, reasons=found.unlabelled)
    names = [entry.name for entry in entries]
    places = _of_tars(path, names, tars) if tars else names
    class_names, indices = class_folders(places)
    split = splits_among({*(name.partition("/")[0] for name in class_names), *(tar[: -len(".tar")] for tar in tars)})
    if split:
        raise UserError(f"{path} holds splits: {', '.join(split)}; give one of them")
    if len(class_names) > MOST_CLASSES:
        raise UserError(f"{path} has {len(class_names):,} folders with files, {class_names[0]}, …: are they classes?")
    if not class_names:
        return Labelled(entries, [], note=f"unlabelled: {NO_CLASSES if tars else 'all lie in one folder'}")
    if classes is None:
        if not tars:
            _check_none_empty(path, places, found.folders)
        return _numbered(entries, indices, class_names)
    of = [classes.index.get(name) for name in class_names]
    strange = next((name for name, index in zip(class_names, of, strict=True) if index is None), None)
    if strange is not None:
        hint = near(strange, classes.names)
        raise UserError(
            f"the class {strange!r} of {path} is not in {classes.path}; {hint or 'add it, or move it away'}"
        )
    return _numbered(entries, [of[index] for index in indices], classes.names)


def class_folders(names: list[str]) -> tuple[list[str], list[int]]:
    """Classes from folders: the class names, sorted, and each file's class index.

    A file's class is the folder it lies in; what all folders share at the front or the back is no part of the name.
    Files that all lie in one folder have no classes: two empty lists.

    Raises:
        UserError: some files lie in class folders and others above them.
    """
    parents = [tuple(name.split("/")[:-1]) for name in names]
    distinct = sorted(set(parents))
    if len(distinct) <= 1:
        return [], []
    front = _shared(distinct)
    stray = next((name for name, parent in zip(names, parents, strict=True) if len(parent) == front), None)
    if stray is not None:
        raise UserError(f"{stray} lies above the class folders; move it into one, or remove it")
    inner = [parent[front:] for parent in distinct]
    back = min(_shared([parent[::-1] for parent in inner]), min(map(len, inner)) - 1)
    index = {parent: i for i, parent in enumerate(distinct)}
    return ["/".join(parent[: len(parent) - back]) for parent in inner], [index[parent] for parent in parents]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many names all paths begin with."""
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False)))


def _numbered(entries: Sequence[Entry], indices: Sequence[int | None], class_names: list[str]) -> Labelled:
    given = [entry._replace(label=index) for entry, index in zip(entries, indices, strict=True)]
    return Labelled(given, class_names)


def _by_label(
    entries: Sequence[Entry],
    given: Sequence[str | None],
    classes: Classes | None,
    missing: str,
    note: str = "",
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> Labelled:
    """Entries by what each is said to be; numbers are classes' indices, unless a list names them otherwise."""
    known = {label for label in given if label is not None}
    rejects: list[Reject] = []
    if classes is not None:
        names, index = classes.names, classes.of(known)
        wrong = f"is not in {classes.path}"
    elif all(label.isdecimal() for label in known):
        index = {label: int(label) if len(label) < 12 and int(label) < MOST_CLASSES else None for label in known}
        names = [str(i) for i in range(max((i for i in index.values() if i is not None), default=-1) + 1)]
        wrong = f"is beyond {MOST_CLASSES:,} classes; give a list of them (--classes)"
    else:
        names = sorted(known)
        index, wrong = {name: i for i, name in enumerate(names)}, ""
        if len(names) > MOST_CLASSES:
            raise UserError(f"{len(names):,} different labels, {names[0]!r}, {names[1]!r}, …: are they classes?")
    kept = []
    for entry, label in zip(entries, given, strict=True):
        number = None if label is None else index[label]
        if number is None:
            why = reasons.get(key(entry.name), missing) if label is None else f"its label {label!r:.60} {wrong}"
            rejects.append(Reject(entry.name, why))
        else:
            kept.append(entry._replace(label=number))
    return Labelled(kept, names, rejects, note)


def _check_keys(entries: Sequence[Entry]) -> None:
    """Refuses two pictures that one label belongs to."""
    seen: dict[str, str] = {}
    for entry in entries:
        other = seen.setdefault(key(entry.name), entry.name)
        if other != entry.name:
            raise UserError(
                f"{other} and {entry.name} have one key, {key(entry.name)!r}, and one label; leave one picture a key"
            )


def _of_tars(path: Path, names: list[str], tars: Sequence[str]) -> list[str]:
    """Files' places, by which class folders can be told: those in the tars, or the tars themselves as folders."""
    stems = [tar[: -len(".tar")] for tar in tars]
    imagenet = [bool(WNID.fullmatch(stem.rpartition("/")[2])) for stem in stems]
    if any(imagenet) and not all(imagenet):
        odd = next(tar for tar, right in zip(tars, imagenet, strict=True) if not right)
        raise UserError(
            f"{path / odd} isn't called as the others are, by its class, {tars[imagenet.index(True)]}; rename it"
        )
    ends = [name.lower().index(".tar/") for name in names]
    inner = [name[end + len(".tar/") :] for name, end in zip(names, ends, strict=True)]
    if not all(imagenet) and len({name.rpartition("/")[0] for name in inner}) > 1:
        return inner
    words = {re.sub(r"[\d_.-]+", "", stem) for stem in stems}
    if all(imagenet) or len(words) == len(stems):  # not shards, whose names differ by their numbers
        return [f"{name[:end]}/" for name, end in zip(names, ends, strict=True)]
    return [""] * len(names)


def _check_none_empty(path: Path, names: Sequence[str], folders: Sequence[str]) -> None:
    """Refuses a folder beside classes' that holds nothing of the kind: it would move the indices of those after it."""
    filled = {""}
    depth = 0
    for name in names:
        depth = max(depth, name.count("/"))
        while (name := name.rpartition("/")[0]) not in filled:
            filled.add(name)
    for folder in sorted(folders):
        if folder not in filled and folder.rpartition("/")[0] in filled and folder.count("/") < depth:
            raise UserError(
                f"the folder {folder} in {path} holds nothing that can be read: is it a class? Fill or remove it, or "
                "list the classes (--classes)"
            )


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


def rows_of(text: str) -> list[list[str]]:
    """A table's rows; cells lie between tabs, commas, semicolons or spaces, whichever its first line has."""
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ("\t", ",", ";", " ") if mark in first.strip()), ",")
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]


def _by_file(entries: Sequence[Entry], file: Path, classes: Classes | None) -> Labelled:
    """Entries by a file: a name and a label a line; or labels in the order of the names, as ILSVRC's ground truth.

    Raises:
        UserError: it is neither.
    """
    rows = [row for row in rows_of(text_of(file)) if any(row)]
    missing, note = f"no label in {file}", f"labels: {file}"
    if any(len(row) > 1 for row in rows):
        return _by_label(entries, _by_name(file, rows, entries), classes, missing, note)
    given = [row[0] for row in rows]
    if len(given) != len(entries):
        raise UserError(
            f"{file} has {len(given):,} labels for {len(entries):,} files; one a line in the order of their names is "
            "wanted, or a name and a label"
        )
    ids = all(label.isdecimal() for label in given)
    if ids and classes is not None and not classes.index.keys() >= set(given):
        raise UserError(
            f"{file} holds numbers, in an order of classes that nothing tells; write each class's number behind its "
            f"name and a tab in {classes.path}"
        )
    if ids and classes is None and "0" not in given:  # ILSVRC counts from 1
        last = max(map(int, given))
        if last <= MOST_CLASSES:
            numbered = [entry._replace(label=int(label) - 1) for entry, label in zip(entries, given, strict=True)]
            return Labelled(numbered, [str(i + 1) for i in range(last)], note=note)
    return _by_label(entries, given, classes, missing, note)


def _by_name(file: Path, rows: Sequence[list[str]], entries: Sequence[Entry]) -> list[str | None]:
    head = rows[0][1].lower() if len(rows[0]) > 1 else ""
    given = {row[0]: row[1] for row in rows if len(row) > 1}
    if head == "predictionstring":  # Kaggle's ImageNet: a class and boxes
        given = {name: label.partition(" ")[0] for name, label in given.items()}
    found = [_known(given, entry.name) for entry in entries]
    if not any(found):
        raise UserError(f"{file} names none of the files; it has {next(iter(given), '')!r}, they {entries[0].name!r}")
    return found


def _known(given: dict[str, Any], name: str) -> str | None:
    """What is given for a file by its path, its name, or its name without the ending."""
    base = name.rpartition("/")[2]
    found = next((given[known] for known in (name, base, base.rpartition(".")[0]) if known in given), None)
    return found or None
