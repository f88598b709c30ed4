"""Classes: by folders, tars, what lies beside a picture in a tar, or a file of labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType

from ...errors import UserError, near
from .entry import Entry, Reject
from .found import PACKED_ENDINGS, Found
from .names import key, number, splits_among
from .tables import Classes, rows_of

NO_CLASSES = "no .cls, no .json with a label, no folders in the tars, and the tars' names tell no classes"

MOST_CLASSES = 100_000
"""Classes of a place."""

WNID = re.compile(r"n\d{8}")
"""A class of ImageNet: its tars are called so."""


@dataclass(frozen=True)
class Labelled:
    """Entries with their labels.

    Attributes:
        entries: in the order of their names.
        class_names: class names by label; empty where there are no classes.
        rejects: files that have no label while others do.
        note: why there are no classes, or which file the labels are from.
    """

    entries: list[Entry]
    class_names: list[str]
    rejects: list[Reject] = field(default_factory=list)
    note: str = ""


def labelled(
    path: Path, found: Found, tars: Mapping[str, str], classes: Classes | None, labels: Path | None
) -> Labelled:
    """Gives entries their labels: of a file, else of what lies beside them, else of their tars or folders.

    Args:
        path: path of the place.
        found: what it holds; its entries are sorted by name.
        tars: the tars' names by their paths; empty where there are none.
        classes: the known classes; None for those that are found.
        labels: a file of labels.

    Raises:
        UserError: it can't be told which class is which, or a class is not in the list.
    """
    entries = sorted(found.entries, key=lambda entry: entry.name)
    names = [entry.name for entry in entries]
    split = splits_among({*_tops(names), *(tar[: -len(".tar")] for tar in tars.values())})
    if split:
        raise UserError(f"{path} holds splits: {', '.join(split)}; give one of them")
    if labels is not None:
        return _by_file(entries, labels, classes, found.rejects)
    beside = found.labels.keys() | found.unlabelled.keys()
    those = [name for name in names if key(name) in beside] if beside else []
    if those:
        if 2 * len(those) <= len(names):
            some = f"{len(those):,} of the {len(names):,} files in {path}"
            raise UserError(f"only {some} have a label, {those[0]} for one")
        _check_keys(entries)
        given = [found.labels.get(key(entry.name)) for entry in entries]
        missing = "no label beside it (.cls, or label or cls in its .json)"
        return _by_label(entries, given, classes, missing, reasons=found.unlabelled)
    places = _of_tars(path, entries, tars) if tars else names
    class_names, indices = class_folders(places)
    if len(class_names) > MOST_CLASSES:
        raise UserError(
            f"{path} has {len(class_names):,} folders with files, {class_names[0]}, …, too many for classes; "
            "give `labels=` or `classes=`"
        )
    if not class_names and classes is None:
        return Labelled(entries, [], note=f"unlabelled: {NO_CLASSES if tars else 'all lie in one folder'}")
    if classes is None:
        if tars and places[0].endswith("/"):
            _check_all_tars(path, found, tars)
        else:
            _check_none_empty(path, places, found.folders)
        return _numbered(entries, range(len(class_names)), indices, class_names)
    if not class_names:  # all in one, which may be a class
        class_names, indices = [places[0].rpartition("/")[0].rpartition("/")[2] or path.stem], [0] * len(entries)
    return _numbered(entries, [_listed(path, name, classes) for name in class_names], indices, classes.names)


def _listed(path: Path, name: str, classes: Classes) -> int:
    """The index of a folder's or tar's class in the list."""
    found = classes.index.get(name)
    if found is None:
        hint = near(name, classes.names) or "add it, move it away, or give the files' labels with `labels=`"
        raise UserError(f"the class {name!r} of {path} is not in {classes.path}; {hint}")
    return found


def class_folders(names: list[str]) -> tuple[list[str], list[int]]:
    """Classes from folders: the class names, sorted, and each file's class index.

    A file's class is the folder it lies in; what all folders share at the front or the back is no part of the name.
    Files that all lie in one folder have no classes: two empty lists.

    Raises:
        UserError: some files lie in class folders and others above them.
    """
    distinct = _folders(names)
    if len(distinct) <= 1:
        return [], []
    front = _shared(distinct)
    above = "/".join(distinct[0][:front])
    if any(len(parent) == front for parent in distinct):
        stray = next(name for name in names if name.rpartition("/")[0] == above)
        raise UserError(f"{stray} lies above the class folders; move it into one, or remove it")
    inner = [parent[front:] for parent in distinct]
    back = min(_shared([parent[::-1] for parent in inner]), min(map(len, inner)) - 1)
    index = {"/".join(parent): i for i, parent in enumerate(distinct)}
    indices = [index[name.rpartition("/")[0]] for name in names]
    return ["/".join(parent[: len(parent) - back]) for parent in inner], indices


def _folders(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The folders that files lie in, each once, in order, as the names on the way to it."""
    return sorted(tuple(folder.split("/")) if folder else () for folder in {name.rpartition("/")[0] for name in names})


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many names all paths begin with."""
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False)))


def _numbered(entries: Sequence[Entry], of: Sequence[int], indices: Sequence[int], class_names: list[str]) -> Labelled:
    """Entries with the labels that ``of`` gives their folders' indices."""
    given = [entry._replace(label=of[index]) for entry, index in zip(entries, indices, strict=True)]
    return Labelled(given, class_names)


def _by_label(
    entries: Sequence[Entry],
    given: Sequence[str | None],
    classes: Classes | None,
    missing: str,
    note: str = "",
    reasons: Mapping[str, str] = MappingProxyType({}),
    also: Sequence[str] = (),
) -> Labelled:
    """Entries by what each is said to be; numbers are classes' indices, unless a list names them otherwise."""
    known = {label for label in given if label is not None} | {label for label in also if classes is None}
    rejects: list[Reject] = []
    if classes is not None:
        names, index = classes.names, classes.of(known)
        wrong = f"is not in {classes.path}"
    elif all(label.isdecimal() for label in known):
        index = {label: int(label) if len(label) < 12 and int(label) < MOST_CLASSES else None for label in known}
        names = [str(i) for i in range(max((i for i in index.values() if i is not None), default=-1) + 1)]
        wrong = f"is beyond {MOST_CLASSES:,} classes; give a list of them with `classes=`"
    elif any(label.isdecimal() for label in known):
        numbers, words = ([label for label in sorted(known) if label.isdecimal() is kind] for kind in (True, False))
        raise UserError(
            f"some labels are numbers and some are names, {numbers[0]!r} and {words[0]!r}; "
            "list the classes with `classes=`"
        )
    else:
        names = sorted(known)
        index, wrong = {name: i for i, name in enumerate(names)}, ""
        if len(names) > MOST_CLASSES:
            raise UserError(
                f"{len(names):,} different labels, {names[0]!r}, {names[1]!r}, …, too many for classes; give `classes=`"
            )
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


def _of_tars(path: Path, entries: Sequence[Entry], tars: Mapping[str, str]) -> list[str]:
    """Files' places, by which class folders can be told: those in the tars, or the tars themselves as folders."""
    names = list(tars.values())
    stems = [name[: -len(".tar")] for name in names]
    imagenet = [bool(WNID.fullmatch(stem.rpartition("/")[2])) for stem in stems]
    if any(imagenet) and not all(imagenet):
        odd = names[imagenet.index(False)]
        raise UserError(
            f"{path / odd} isn't called as the others are, by its class, {names[imagenet.index(True)]}; rename it"
        )
    inner = [entry.name[len(tars[entry.file]) + 1 :] for entry in entries]
    if not all(imagenet) and len({name.rpartition("/")[0] for name in inner}) > 1:
        return inner
    words = {re.sub(r"[\d_.-]+", "", stem) for stem in stems}
    if all(imagenet) or len(words) == len(stems):  # not shards, whose names differ by their numbers
        return [f"{tars[entry.file][: -len('.tar')]}/" for entry in entries]
    return [""] * len(entries)


def _check_none_empty(path: Path, names: Sequence[str], folders: Iterable[str]) -> None:
    """Refuses a folder beside classes' that holds nothing of the kind: it would move the indices of those after it."""
    parents = _folders(names)
    back = _shared([parent[::-1] for parent in parents])
    levels = {len(parent) - back for parent in parents}
    filled = {"/".join(parent[:end]) for parent in parents for end in range(len(parent) + 1)}
    for folder in sorted(folders):
        if folder not in filled and folder.rpartition("/")[0] in filled and folder.count("/") + 1 in levels:
            raise UserError(
                f"the folder {folder} in {path} holds nothing that can be read, or is a link to one that is read "
                "already, so it may be an empty class: fill or remove it, or list the classes with `classes=`"
            )


def _tops(names: Sequence[str]) -> set[str]:
    """The outermost folders in which files lie apart from each other; of files in tars, the tars'."""
    parents = _folders(names)
    front = _shared(parents)
    return {parent[front] for parent in parents if len(parent) > front}


def _check_all_tars(path: Path, found: Found, tars: Mapping[str, str]) -> None:
    """Refuses tars, of those that are classes, in which nothing is that can be read, or that are packed."""
    filled = {entry.file for entry in found.entries}
    empty = next((name for file, name in tars.items() if file not in filled), None)
    packed = sum(found.passed[ending] for ending in PACKED_ENDINGS)
    if empty is not None or packed:
        which = f"{empty} holds nothing that can be read" if empty else f"{packed} files beside the tars are packed"
        raise UserError(
            f"{path}: {which}, and tars are the classes; restore or unpack it, or list the classes with `classes=`"
        )


def _by_file(entries: Sequence[Entry], file: Path, classes: Classes | None, rejects: Sequence[Reject]) -> Labelled:
    """Entries by a file: a name and a label a line; or labels in the order of the names, as ILSVRC's ground truth.

    Raises:
        UserError: it is neither.
    """
    rows = [row for row in rows_of(file) if any(row)]
    missing, note = f"no label in {file}", f"labels: {file}"
    if any(len(row) > 1 for row in rows):
        of, others = _by_name(file, rows, entries)
        note += f", {len(others):,} of its lines for no file here" * bool(others)
        return _by_label(entries, of, classes, missing, note, also=others)
    given = [row[0] for row in rows]
    if len(given) != len(entries):
        raise UserError(
            f"{file} has {len(given):,} labels for {len(entries):,} files; one a line in the order of their names is "
            "wanted, or a name and a label"
        )
    numbers = [number(entry.name) for entry in entries]
    if rejects or (min(numbers) >= 0 and numbers != sorted(numbers)):
        why = (
            f"{rejects[0].name} can't be read" if rejects else "their names' numbers are not in the order of the names"
        )
        raise UserError(
            f"{file} has labels in the order of the files, but that order is uncertain: {why}; write names and labels"
        )
    ids = all(label.isdecimal() for label in given)
    if ids and classes is not None and not classes.index.keys() >= set(given):
        raise UserError(
            f"{file} holds numbers, in an order of classes that nothing tells; write each class's number behind its "
            f"name and a tab in {classes.path}"
        )
    if ids and classes is None and "0" not in given:  # ILSVRC counts from 1
        last = int(max(given, key=lambda label: (len(label), label))[:7])
        if last > MOST_CLASSES:
            raise UserError(f"{file} has the label {last} …, and more than {MOST_CLASSES:,} classes can't be")
        if last:
            numbered = [entry._replace(label=int(label) - 1) for entry, label in zip(entries, given, strict=True)]
            return Labelled(numbered, [str(i + 1) for i in range(last)], note=note)
    return _by_label(entries, given, classes, missing, note)


def _by_name(file: Path, rows: Sequence[list[str]], entries: Sequence[Entry]) -> tuple[list[str | None], list[str]]:
    """Entries' labels by a table of names and labels; and the labels of names that no entry has, but a heading."""
    head = rows[0][1].lower() if len(rows[0]) > 1 else ""
    given: dict[str, str] = {}
    for name, label, *_ in (row for row in rows if len(row) > 1):
        label = label.partition(" ")[0] if head == "predictionstring" else label  # Kaggle's ImageNet: a class and boxes
        if given.setdefault(name, label) != label:
            raise UserError(f"{file} calls {name!r} both {given[name]!r} and {label!r}")
    bases = Counter(entry.name.rpartition("/")[2] for entry in entries)
    found: list[str | None] = []
    used = set[str]()
    for entry in entries:
        base = entry.name.rpartition("/")[2]
        name = next((name for name in (entry.name, base, base.rpartition(".")[0]) if name in given), "")
        if name and name != entry.name and bases[base] > 1:
            raise UserError(f"{file} labels {name!r}, and {bases[base]} files are called {base}; give their paths")
        found.append(given.get(name) or None)
        used.add(name)
    if not any(found):
        raise UserError(f"{file} names none of the files; it has {next(iter(given), '')!r}, they {entries[0].name!r}")
    others = [label for name, label in given.items() if name not in used]
    heading = next(iter(given)) not in used
    return found, others[heading:]
