"""What a place holds: every picture or clip in a fixed order, their classes, and what was passed over."""

from __future__ import annotations

import hashlib
import itertools
import logging
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from ...errors import UserError, printable
from . import archives
from .beside import captioned, paired
from .classes import labelled
from .endings import ENDINGS, OTHER, WORDS, Modality
from .entry import Entry, Reject, stamp
from .found import KNOWN, Found, counted, nothing
from .names import ending, number
from .tables import Classes
from .tars import members
from .walk import in_folder, scan

LOG = logging.getLogger("alphaflow.data")
"""Is told what each place holds, at level INFO; the command line prints it."""

SHOWN = 3
"""Names that a summary shows of many."""


@dataclass(frozen=True)
class Listing:
    """All pictures or clips of a place.

    Attributes:
        path: path of the place.
        kind: pictures or clips.
        entries: sorted by name, or `mixed`.
        class_names: class names by label; empty where there are no classes.
        rejects: what was seen at once to be unusable, damaged archives among them.
        passed: what was passed over and how often: by ending, or by another reason.
        note: where the labels are from, or why there are none.
    """

    path: Path
    kind: Modality
    entries: list[Entry] = field(repr=False)
    class_names: list[str] = field(repr=False)
    rejects: list[Reject] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    note: str = ""

    @property
    def lost(self) -> int:
        """Files that the rejects stand for."""
        return sum(reject.lost for reject in self.rejects)

    @property
    def captioned(self) -> bool:
        """Whether each picture has a caption."""
        return any(entry.caption is not None for entry in self.entries[:1])

    @property
    def paired(self) -> bool:
        """Whether each picture has a partner."""
        return any(entry.partner is not None for entry in self.entries[:1])

    def summary(self) -> str:
        """What it holds, in a line; and a line for each of the first rejects."""
        count = len(self.entries)
        names = self.class_names
        used = {entry.label for entry in self.entries}
        empty = [name for i, name in enumerate(names) if i not in used]
        shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        classes = f" in {len(names):,} classes ({shown})" if names else ""
        parts = [f"{count:,} {WORDS[self.kind][count != 1]}{classes}", *([self.note] if self.note else [])]
        parts += ["each with a caption"] if self.captioned else []
        parts += ["each with its pair"] if self.paired else []
        if empty:
            shown = ", ".join(empty[:SHOWN]) + ", …" * (len(empty) > SHOWN)
            parts.append(f"{len(empty):,} of the classes empty: {shown}")
        if self.passed:
            parts.append(f"passed over: {counted(self.passed)}")
        lines = [f"{self.path}: {'; '.join(parts)}"]
        lines += [f"can't be read: {reject.name}: {reject.reason}" for reject in self.rejects[:SHOWN]]
        if len(self.rejects) > SHOWN:
            lines.append(f"… and {len(self.rejects) - SHOWN:,} more that can't be read")
        return "\n".join(map(printable, lines))

    def mixed(self) -> Listing:
        """The same in the order of the names' hashes: as good as random, and the same on every machine, forever.

        A stream's shuffle buffer would see few classes in shards that lie in the place's own order.
        """

        def key(entry: Entry) -> tuple[bytes, str, tuple[float, float]]:
            name = entry.name.encode("utf-8", "surrogateescape")
            return hashlib.sha256(name).digest(), entry.name, entry.segment or (0.0, 0.0)

        return replace(self, entries=sorted(self.entries, key=key))

    def checked(self) -> Listing:
        """The listing itself, if nothing in it is a reject.

        Raises:
            UserError: something is.
        """
        if self.rejects:
            reject, more = self.rejects[0], len(self.rejects) - 1
            others = f" (and {more:,} more like it)" if more else ""
            raise UserError(f"can't use {self.place(reject.name)}: {reject.reason}{others}; repair or remove it")
        return self

    def place(self, name: str) -> Path:
        """Where a file lies: its path, or that of its archive with the name inside."""
        return place_of(self.path, name)


def place_of(path: Path, name: str) -> Path:
    """Where a file of a place lies: its path, or that of its archive with the name inside."""
    inside = path.is_dir() or (path.is_file() and ending(path.name) != ".tar")
    return (path if inside else path.parent) / name


def list_files(
    path: Path | str,
    kind: Modality,
    *,
    classes: Classes | None = None,
    labels: Path | None = None,
    frames: bool = False,
    captions: bool = False,
    pairs: Path | None = None,
) -> Listing:
    """The pictures or clips under a folder, in a zip, or in tars: a .tar, a folder of them, or a pattern.

    Names that are hidden or litter are passed over, and so is what is of another kind: pictures are known by common
    endings or else by their content, clips by their endings. Classes are what a file of labels says; else what lies
    beside a tar's files as KEY.cls or KEY.json; else folders; else the tars, where their names differ by more than
    numbers or are ImageNet's.

    Args:
        path: path of the place.
        kind: what is wanted.
        classes: a fixed list of them.
        labels: a file of labels.
        frames: where there are no clips, folders of pictures that are numbered one after another are.
        captions: each picture has a text beside it (`beside.captioned`).
        pairs: another place; each picture has one of the same name there (`beside.paired`).

    Raises:
        UserError: nothing there, it is unclear what belongs to what, or a file of classes or labels doesn't fit.
    """
    path = Path(path)
    found, tars = find(path, kind, captions=captions)
    if frames and not found.entries and not tars and path.is_dir():
        _folders_of_frames(path, found)
    if found.entries:
        done = labelled(path, found, tars, classes, labels)
        found.entries, found.rejects = done.entries, [*found.rejects, *done.rejects]
        if not found.entries:
            first = done.rejects[0]
            raise UserError(
                f"no file of {path} has a label that can be taken; the first is {first.name}: {first.reason}"
            )
    if not found.entries:
        raise nothing(path, found)
    if found.captions is not None:
        found.entries, found.rejects = captioned(path, found)
    if pairs is not None:
        found.entries, found.rejects = paired(path, found, pairs, find(pairs, kind)[0])
    return told(Listing(path, kind, found.entries, done.class_names, found.rejects, found.passed, done.note))


def find(path: Path, kind: Modality, *, together: bool = False, captions: bool = False) -> tuple[Found, dict[str, str]]:
    """What a place holds of a kind, not yet labelled, and the tars that it is in: their names by their paths.

    Args:
        path: path of the place.
        kind: what is wanted.
        together: read tars and files beside them as one.
        captions: texts too.

    Raises:
        UserError: there is no such place, it can't be opened, or holds tars and files beside them.
    """
    found, tars = Found(kind, captions={} if captions else None), tars_of(path)
    if not tars and path.is_dir():
        in_folder(path, found)
        if found.archives and found.entries and not together:
            raise UserError(
                f"{path} holds tars ({found.archives[0]} …) and {WORDS[kind][1]} beside them "
                f"({found.entries[0].name} …): these may be the same ones twice; keep only one of the two"
            )
        tars = {name: path / name for name in sorted(found.archives)}
    elif not tars and path.is_file():
        archives.in_zip(path, found)
    elif not tars:
        raise UserError(f"{path} doesn't exist; give a folder, a zip, or tars of {WORDS[kind][1]}")
    for name, tar in tars.items():
        archives.in_tar(tar, found, name)
    return found, {str(tar): name for name, tar in tars.items()}


def told(listing: Listing) -> Listing:
    """The listing, after the log was told of it."""
    LOG.info(listing.summary())
    return listing


def kind_of(path: Path) -> Modality:
    """Whether a place holds pictures or clips, by the endings of its files: of a set of tars those in the first.

    Raises:
        UserError: it holds both.
    """
    endings = Counter(ending(name) for name in _names(path))
    only = {kind: sum(endings[name] for name in ENDINGS[kind] - ENDINGS[other]) for kind, other in OTHER.items()}
    if all(only.values()):
        raise UserError(
            f"{path} holds {only['images']:,} pictures and {only['clips']:,} clips; measure a folder with one kind, or "
            "ask for clips with `frames=`"
        )
    unknown = endings.keys() - KNOWN - ENDINGS["images"]
    return "clips" if only["clips"] or (not only["images"] and endings[".gif"] and not unknown) else "images"


def _names(path: Path) -> Iterator[str]:
    """Names of files in a place that is there and can be read; what is wrong with it is said when it is listed."""
    tars = list(tars_of(path).values())
    if not tars and path.is_dir():
        for name, item in scan(path, Counter()):
            if item is not None and ending(name) != ".tar":
                yield name
            elif item is not None and (path / name).is_file():
                tars.append(path / name)
    with suppress(OSError, ValueError, zipfile.BadZipFile):
        if tars:
            with min(tars).open("rb", buffering=0) as stream:
                found = members(stream, min(tars).stat().st_size, lambda size, why: None)
                yield from (member.name for member in itertools.islice(found, 1000))
        elif path.is_file():
            with zipfile.ZipFile(path) as packed:
                yield from packed.namelist()


def tars_of(path: Path) -> dict[str, Path]:
    """The tars that a path names itself, a tar's or a pattern with ``*``, by what they are called."""
    if path.is_file():
        return {path.name: path} if ending(path.name) == ".tar" else {}
    found = sorted(path.parent.glob(path.name)) if "*" in path.name and not path.exists() else []
    return {tar.name: tar for tar in found if tar.is_file() and ending(tar.name) == ".tar"}


def _folders_of_frames(path: Path, found: Found) -> None:
    """Takes folders of pictures that are numbered one after another, ``VIDEO/0001.jpg``, for clips."""
    pictures = Found("images")
    in_folder(path, pictures)
    folders: dict[str, list[Entry]] = {}
    for entry in pictures.entries:
        folders.setdefault(entry.name.rpartition("/")[0], []).append(entry)
    whole = {name for name, frames in folders.items() if name and _gap(frames) is None}
    found.passed = pictures.passed
    for name, frames in sorted(folders.items()):
        if name in whole:
            mark = stamp(*sorted(frame.stamp for frame in frames))
            found.entries.append(Entry(name, str(path), frames=True, stamp=mark))
        else:
            found.rejects.append(
                Reject(name or str(path), f"frames are not numbered one after another: {_gap(frames)}")
            )


def _gap(frames: Sequence[Entry]) -> str | None:
    """Where pictures are not numbered in equal steps; None if they are."""
    numbers = {number(frame.name): frame.name for frame in frames}
    found = sorted(numbers)
    steps = [after - before for before, after in pairwise(found)]
    if len(numbers) < max(len(frames), 2) or found[0] < 0:
        return frames[0].name
    return next((numbers[found[i + 1]] for i, step in enumerate(steps) if step != min(steps)), None)
