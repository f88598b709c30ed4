"""Where encoding reads from: pictures in folders, zips and WebDataset tars; clips in folders, or listed in a CSV.

Nothing here imports torch: decoding runs in worker processes.
"""

from __future__ import annotations

import csv
import hashlib
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from alphaflow.data.images import class_folders, walk
from alphaflow.data.kinds import CLIPS, IMAGES, nothing_of
from alphaflow.errors import UserError


@dataclass(frozen=True)
class Reject:
    """A file that is not encoded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """One picture or clip of a source.

    Attributes:
        name: as people know it: the path inside the source.
        label: class index, or None.
        file: the file to open: the picture or clip itself, the zip, or the tar.
        member: its place in the zip's list.
        place: (offset, size) of its bytes in the tar.
        segment: (start, end) of the clip in seconds, or None for all of it.
    """

    name: str
    label: int | None
    file: str
    member: int | None = None
    place: tuple[int, int] | None = None
    segment: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """All that is to be encoded, in a fixed order.

    Attributes:
        path: where it is.
        entries: mixed, so that any shard has of all classes (`mixed`), and always in the same order.
        class_names: by label; empty where there are no classes.
        rejects: what was seen at once to be unusable.
    """

    path: Path
    entries: list[Entry] = field(repr=False)
    class_names: list[str] = field(repr=False)
    rejects: list[Reject] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 of names, labels and segments: the same source gives the same."""
        found = hashlib.sha256()
        for entry in self.entries:
            found.update(f"{entry.name}\t{entry.label}\t{entry.segment}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()


def mixed(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in the order of their names' hashes: as good as random, and the same on every machine, forever.

    A stream's shuffle buffer would see few classes in shards that lie in the source's own order.
    """

    def key(entry: Entry) -> tuple[bytes, str, tuple[float, float]]:
        name = entry.name.encode("utf-8", "surrogateescape")
        return hashlib.sha256(name).digest(), entry.name, entry.segment or (0.0, 0.0)

    return sorted(entries, key=key)


def image_source(path: Path) -> Source:
    """The pictures under a folder, in a zip, or in WebDataset tars (a .tar, a folder of them, or a pattern).

    A class is a folder; in tars it is what a sample's ``.cls`` says, or the tar itself where all are called as
    ImageNet's own are, ``n01440764.tar``, and hold no ``.cls``.

    Raises:
        UserError: nothing there.
    """
    tars = _tars(path)
    if tars:
        return _tar_source(path, tars)
    rejects: list[Reject] = []
    if path.is_dir():
        names = sorted(name for name in walk(path) if _is(name, IMAGES))
        files: dict[str, tuple[str, int | None]] = {name: (str(path / name), None) for name in names}
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                listed = archive.namelist()
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is no folder, zip or tar of pictures ({error})") from error
        names = sorted(_unique((name for name in listed if _is(name, IMAGES)), rejects))
        first = {name: place for place, name in reversed(list(enumerate(listed)))}
        files = {name: (str(path), first[name]) for name in names}
    else:
        raise UserError(f"{path} doesn't exist; give a folder, a zip, or WebDataset tars of pictures")
    if not names:
        raise nothing_of("images", path, walk(path) if path.is_dir() else listed)
    class_names, labels = class_folders(names)
    entries = [
        Entry(name, labels[i] if labels else None, files[name][0], files[name][1]) for i, name in enumerate(names)
    ]
    return Source(path, mixed(entries), class_names, rejects)


def video_source(path: Path, clips: Path | None = None, split: str | None = None) -> Source:
    """The clips under a folder, ``CLASS/NAME.mp4``; or those of a CSV in Kinetics-700's format, with their folder.

    The CSV's columns are label, youtube_id, time_start, time_end, split. A row's clip is searched in ``clips`` as
    ID_SSSSSS_EEEEEE (cut already, six digits each), else as ID (the whole video, of which the segment is taken), in
    that folder or any folder inside it.

    Raises:
        UserError: nothing there, or a CSV without these columns.
    """
    if path.suffix.lower() == ".csv":
        return _csv_source(path, clips, split)
    if not path.is_dir():
        raise UserError(f"{path} doesn't exist; give a folder of clips, CLASS/NAME.mp4, or a CSV and --clips-folder")
    names = sorted(name for name in walk(path) if _is(name, CLIPS))
    if not names:
        raise nothing_of("clips", path, walk(path))
    class_names, labels = class_folders(names)
    entries = [Entry(name, labels[i] if labels else None, str(path / name)) for i, name in enumerate(names)]
    return Source(path, mixed(entries), class_names)


COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def _csv_source(path: Path, folder: Path | None, split: str | None) -> Source:
    if not path.is_file():
        raise UserError(f"{path} doesn't exist; give the CSV of a Kinetics split")
    if folder is None or not folder.is_dir():
        raise UserError("a CSV lists clips by name: give the folder that they lie in with --clips-folder")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}; expected {', '.join(COLUMNS)}, split")
        try:
            rows = [row for row in reader if split is None or not row.get("split") or row["split"] == split]
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; repair that line") from error
    if not rows:
        raise UserError(f"{path} has no rows of the split {split!r}")
    by_stem = {PurePosixPath(name).stem: name for name in sorted(walk(folder)) if _is(name, CLIPS)}
    class_names = sorted({row["label"] for row in rows})
    index = {name: i for i, name in enumerate(class_names)}
    entries, rejects, seen = [], [], set[tuple[str, str]]()
    for number, row in enumerate(rows, start=2):
        name = f"{row['youtube_id']}_{row['time_start']}_{row['time_end']}"
        if (name, row["label"]) in seen:
            rejects.append(Reject(name, f"line {number}: the same clip and label as a line before"))
            continue
        seen.add((name, row["label"]))
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
        except (TypeError, ValueError):
            rejects.append(Reject(name, f"line {number}: times are no numbers"))
            continue
        if not 0 <= start < end:
            rejects.append(Reject(name, f"line {number}: time_end must be after time_start"))
            continue
        cut = by_stem.get(f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}")
        whole = by_stem.get(row["youtube_id"])
        found = cut or whole
        if found is None:
            rejects.append(Reject(name, "no such file in the clips' folder"))
            continue
        segment = None if cut else (start, end)
        entries.append(Entry(found, index[row["label"]], str(folder / found), segment=segment))
    if not entries:
        raise UserError(f"none of the {len(rows)} clips that {path} lists lies in {folder}")
    return Source(path, mixed(entries), class_names, rejects)


def _tars(path: Path) -> list[Path]:
    if path.is_file() and path.suffix == ".tar":
        return [path]
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
        return found if found and not any(child.is_dir() for child in path.iterdir()) else []
    return sorted(path.parent.glob(path.name)) if "*" in path.name else []


def _tar_source(path: Path, tars: list[Path]) -> Source:
    """The pictures in WebDataset tars: one a key, its class in KEY.cls."""
    pictures: list[tuple[str, str, int, int]] = []
    labels: dict[str, str] = {}
    rejects: list[Reject] = []
    seen: set[str] = set()
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as archive:  # not compressed: members are read at their place
                for member in archive:
                    name = f"{tar.name}/{member.name}"
                    if not member.isfile():
                        continue
                    parts = PurePosixPath(member.name).parts
                    if member.name.startswith("/") or ".." in parts:
                        rejects.append(Reject(name, "an absolute path, or one with '..'"))
                    elif name in seen:
                        rejects.append(Reject(name, "a second file of this name"))
                    elif _is(member.name, IMAGES):
                        pictures.append((name, str(tar), member.offset_data, member.size))
                    elif member.name.endswith(".cls"):
                        stream = archive.extractfile(member)
                        labels[name[: -len(".cls")]] = "" if stream is None else stream.read().decode("utf-8").strip()
                    seen.add(name)
        except (tarfile.TarError, OSError) as error:
            rejects.append(Reject(tar.name, f"not a whole tar: {error}"))
    if not pictures:
        raise UserError(f"{path} holds no pictures; expected tars with KEY.jpg (or .png …) and KEY.cls")
    names = [name[: -len(PurePosixPath(name).suffix)] for name, *_ in pictures]
    found = [labels.get(key) for key in names]
    if not labels and all(re.fullmatch(r"n\d{8}", tar.stem) for tar in tars):
        found = [Path(file).stem for _, file, *_ in pictures]
    known = sorted({label for label in found if label is not None}, key=_as_number)
    index = {label: i for i, label in enumerate(known)}
    if all(label.isdecimal() for label in known) and known:
        class_names = [str(i) for i in range(int(known[-1]) + 1)]
        index = {label: int(label) for label in known}
    else:
        class_names = known
    entries = []
    for (name, file, offset, size), label in zip(pictures, found, strict=True):
        if known and label is None:
            rejects.append(Reject(name, "no .cls beside it"))
        else:
            entries.append(Entry(name, None if label is None else index[label], file, place=(offset, size)))
    return Source(path, mixed(entries), class_names, rejects)


def _as_number(label: str) -> Any:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


def _unique(names: Iterable[str], rejects: list[Reject]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            rejects.append(Reject(name, "an absolute path, or one with '..'"))
        elif name in seen:
            rejects.append(Reject(name, "a second file of this name"))
        else:
            seen.add(name)
            yield name


def _is(name: str, suffixes: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in suffixes and not hidden
