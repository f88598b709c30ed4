"""Writing shards: tars that any WebDataset reader reads, whole or not there; what is done survives a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import numpy as np

from alphaflow.data.listing.entry import Entry, Reject
from alphaflow.data.listing.tars import padded
from alphaflow.data.shard_description import DATASET, HEADER, INDEX, INDEX_DTYPE
from alphaflow.errors import UserError
from alphaflow.files import parsed, remove, replacing, write_json

from .plan import differences

RECORDS = "parts"
"""The folder of what each finished shard records of itself."""

REJECTS = "rejects.jsonl"
"""The files that were left out, and why."""


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.

    Attributes:
        file: its name.
        number: its place among all.
        bytes, sha256: of the file.
        offsets: where each sample's array begins in the file.
        labels: label of each sample, −1 for none.
        rejects: what had to be left out.
        fps: frames a second of each clip that says; empty for pictures.
        made_of: `digest` of its files.
    """

    file: str
    number: int
    bytes: int
    sha256: str
    offsets: list[int]
    labels: list[int]
    rejects: list[Reject]
    fps: list[float] = field(default_factory=list)
    made_of: str = ""


def sources_of(entries: Sequence[Entry]) -> list[list[Any]]:
    """What a shard remembers of each of its files: name, label, segment and stamp; and of what belongs to it."""
    return [
        [entry.name, entry.label, entry.segment, entry.stamp, *([e.name, e.stamp] for e in beside if e is not None)]
        for entry in entries
        for beside in [(entry.caption, entry.partner)]
    ]


def digest(entries: Sequence[Entry]) -> str:
    """SHA-256 of what is remembered of files."""
    return hashlib.sha256(json.dumps(sources_of(entries)).encode()).hexdigest()


class ShardWriter:
    """Writes one shard's samples in order; see `writing`."""

    def __init__(self, stream: BinaryIO) -> None:
        import webdataset

        self._stream = _Hashing(stream)
        # nothing that differs from run to run: no times, no user
        self._tar = webdataset.TarWriter(self._stream, user="", group="", mtime=0, encoder=False, compress=False)
        self.offsets: list[int] = []
        self.labels: list[int] = []
        self.rejects: list[Reject] = []
        self.fps: list[float] = []

    def add(
        self,
        index: int,
        latent: np.ndarray[Any, Any],
        label: int | None,
        record: dict[str, Any],
        conditions: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
        caption: str | None = None,
    ) -> None:
        """Adds a sample, the key being its index in nine digits.

        KEY.cls, KEY.json, KEY.latent.npy; then the conditions, KEY.image.npy, KEY.mask.npy, KEY.tokens.npy, and
        KEY.txt: so that every array stands equally far from the latent in all samples.
        """
        sample: dict[str, bytes | str] = {"__key__": f"{index:09d}", "json": json.dumps(record).encode()}
        if label is not None:
            sample["cls"] = str(label).encode()
        self._tar.write({**sample, "latent.npy": _npy(latent)})
        self.offsets.append(self._tar.tarstream.offset - padded(HEADER + latent.nbytes) + HEADER)
        if behind := {f"{name}.npy": _npy(array) for name, array in conditions.items()}:
            text = {} if caption is None else {"txt": caption.encode()}
            self._tar.write({"__key__": sample["__key__"], **behind, **text})
        self.labels.append(-1 if label is None else label)
        if record.get("fps"):
            self.fps.append(float(record["fps"]))

    def reject(self, reject: Reject) -> None:
        """Records a sample that is left out."""
        self.rejects.append(reject)

    def abandon(self) -> None:
        """Writes no more: the shard is thrown away."""
        self._stream.abandoned = True

    def close(self) -> tuple[int, str]:
        """Ends the tar; returns its bytes and SHA-256."""
        self._tar.close()
        return self._stream.count, self._stream.hash.hexdigest()


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a .npy."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    data = stream.getvalue()
    assert len(data) == HEADER + array.nbytes
    return data


class _Hashing:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()
        self.count = 0
        self.abandoned = False

    def write(self, data: bytes) -> int:
        if self.abandoned:  # tarfile writes its end even as it is thrown away
            return len(data)
        self.hash.update(data)
        self.count += len(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


@contextmanager
def writing(out: Path, prefix: str, number: int, entries: Sequence[Entry] = ()) -> Iterator[ShardWriter]:
    """Writes shard ``number`` of these entries: first the tar, renamed into place when it is whole, then its record."""
    file = out / f"{prefix}-{number:06d}.tar"
    _record_file(out, number).unlink(missing_ok=True)
    with replacing(file) as beside, beside.open("wb") as stream:
        writer = ShardWriter(cast(BinaryIO, stream))
        try:
            yield writer
            size, sha256 = writer.close()
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            writer.abandon()
            raise
    sources, made_of = sources_of(entries), digest(entries)
    shard = ShardRecord(
        file.name, number, size, sha256, writer.offsets, writer.labels, writer.rejects, writer.fps, made_of
    )
    write_json(_record_file(out, number), {**asdict(shard), "sources": sources})


def finished_shards(out: Path) -> dict[int, ShardRecord]:
    """The shards that are done, by number and in order: whose record is there, and whose file is as long as it says."""
    found = {}
    for file in sorted((out / RECORDS).glob("*.json")):
        try:
            record = parsed(file.read_text(encoding="utf-8"))
            record.pop("sources", None)  # large, and needed by `changed_files` only
            record["rejects"] = [Reject(**reject) for reject in record["rejects"]]
            shard = ShardRecord(**record)
            lists = (shard.offsets, shard.labels, shard.fps)
            if type(shard.number) is not int or not all(isinstance(found, list) for found in lists):
                raise TypeError(f"{file} is not a shard's record")
            if (out / shard.file).stat().st_size == shard.bytes:
                found[shard.number] = shard
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # not there, or not whole: the shard is made again
    return found


def drop(out: Path, plan: dict[str, Any], class_names: list[str], shards: Sequence[ShardRecord]) -> None:
    """Removes shards that are made again; nobody reads the folder until it is finished again."""
    _begun(out, plan, class_names)
    for shard in shards:
        _record_file(out, shard.number).unlink(missing_ok=True)
        (out / shard.file).unlink(missing_ok=True)


def changed_files(out: Path, shards: Sequence[ShardRecord], entries: Sequence[Entry], whole: bool) -> str:
    """How files differ from those that shards were made of, in words.

    Args:
        out: the folder.
        shards: shards that are finished, in order.
        entries: all that there are now, in order.
        whole: those were all shards.
    """
    now = {_of(source): source for source in sources_of(entries)}
    before: dict[tuple[str, str], list[Any]] = {}
    for shard in shards:
        sources = parsed(_record_file(out, shard.number).read_text(encoding="utf-8")).get("sources", [])
        before |= {_of(source): source for source in sources}
    both = before.keys() & now.keys()
    found = {
        "replaced": [file for file in both if before[file][3:] != now[file][3:]],
        "of another class": [file for file in both if before[file][1] != now[file][1]],
        "removed": before.keys() - now.keys(),
        "added": now.keys() - before.keys() if whole else (),
    }
    words = [
        f"{len(files):,} {what} ({min(files)[0]}{' …' * (len(files) > 1)})" for what, files in found.items() if files
    ]
    return ", ".join(words) or "files were added"


def _of(source: list[Any]) -> tuple[str, str]:
    """What tells a file, or a segment of it, from others."""
    return source[0], str(source[2] and list(source[2]))


def sweep_shards(out: Path, prefix: str, numbers: set[int]) -> None:
    """Removes what a killed process left half-written: of these shards at once, of the common files after an hour.

    Other jobs' files stay.
    """
    for leftover in [*out.glob(".*.tmp"), *(out / RECORDS).glob(".*.tmp")]:
        match = re.match(rf"\.(?:{re.escape(prefix)}-)?(\d{{6}})\.", leftover.name)
        common = leftover.name.startswith((f".{INDEX}.", f".{DATASET}.", f".{REJECTS}.", "..encoded-"))
        try:
            old = common and time.time() - leftover.stat().st_mtime > 3600
        except OSError:  # another job has just renamed it into place
            continue
        if old or (match and int(match.group(1)) in numbers):
            remove(leftover)


def begin(out: Path, plan: dict[str, Any], class_names: list[str]) -> None:
    """Makes the folder and its dataset.json, or checks that what is there was begun in the same way.

    Classes stand in it from the start, for others that share their indices.

    Raises:
        UserError: the folder holds something else, or was started with other settings.
    """
    if (out / DATASET).is_file():
        try:
            record = dict(parsed((out / DATASET).read_text(encoding="utf-8")))
            before = dict(record["plan"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{out / DATASET} is damaged; restore it, or choose another folder") from error
        others = differences(before, parsed(json.dumps(plan)))
        if others:
            raise UserError(
                f"{out} was started with {'; '.join(others)}; use the same settings, or choose another folder"
            )
        if not record.get("finished") and record.get("class_names") != class_names:
            _begun(out, plan, class_names)
        return
    taken = out.exists() and (not out.is_dir() or any(not place.name.startswith(".") for place in out.iterdir()))
    if taken and not (out / DATASET).is_file():  # another job may have begun it just now
        raise UserError(f"{out} exists and holds no shards of ours; choose another folder")
    _begun(out, plan, class_names)


def _begun(out: Path, plan: dict[str, Any], class_names: list[str]) -> None:
    write_json(out / DATASET, {"format": 1, "finished": False, "class_names": class_names, "plan": plan})


def finish(
    out: Path, plan: dict[str, Any], about: dict[str, Any], shards: list[ShardRecord], known_rejects: list[Reject]
) -> None:
    """Writes the index, rejects.jsonl, and last dataset.json, once every shard is done: their records, in order."""
    rows = [
        (shard.number, offset, label)
        for shard in shards
        for offset, label in zip(shard.offsets, shard.labels, strict=True)
    ]
    index = np.array(rows, dtype=INDEX_DTYPE)
    with replacing(out / INDEX) as beside, beside.open("wb") as stream:
        np.save(stream, index, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    rejects = [*known_rejects, *(reject for shard in shards for reject in shard.rejects)]
    list_rejects(out, rejects)
    names = about["class_names"]
    counts = np.bincount(index["label"], minlength=len(names)).tolist() if names else []
    record = {
        **about,
        "samples": len(index),
        "rejects": sum(reject.lost for reject in rejects),
        "class_counts": counts,
        "shards": [
            {"file": shard.file, "samples": len(shard.offsets), "bytes": shard.bytes, "sha256": shard.sha256}
            for shard in shards
        ],
    }
    write_json(out / DATASET, {"format": 1, "finished": True, **record, "plan": plan})


def list_rejects(out: Path, rejects: list[Reject]) -> None:
    """Writes rejects.jsonl: a name and a reason a line."""
    with replacing(out / REJECTS) as beside:
        lines = (json.dumps(asdict(reject), ensure_ascii=not _is_utf8(reject.name)) + "\n" for reject in rejects)
        beside.write_text("".join(lines), encoding="utf-8")


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _record_file(out: Path, number: int) -> Path:
    return out / RECORDS / f"{number:06d}.json"
