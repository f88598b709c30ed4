"""Checking a folder of shards."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphaflow.data.arrays import read_array
from alphaflow.data.shard_description import INDEX, INDEX_DTYPE, Description
from alphaflow.errors import UserError, reason
from alphaflow.files import parsed


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        samples: number of whole samples.
        shards: number of shards that were read.
        problems: one line each; empty if all is well.
        class_counts: samples by label, as found in the shards.
    """

    samples: int = 0
    shards: int = 0
    problems: list[str] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)


def verify(folder: Path, watch: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Reads every shard whole: hashes, counts, keys once each, arrays that decode and are finite, index, classes.

    Args:
        folder: folder of shards.
        watch: takes shards done and all.

    Raises:
        UserError: it is not a finished folder of shards.
    """
    description = Description(folder)
    try:
        with (folder / INDEX).open("rb") as stream:
            index = read_array(stream, (folder / INDEX).stat().st_size)
        if index.dtype != INDEX_DTYPE or index.ndim != 1:
            raise ValueError(f"it holds {index.dtype} {index.shape}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / INDEX} can't be read ({reason(error)}); encode again with the same settings"
        ) from error
    report = Report(class_counts=[0] * len(description.class_names))
    seen: set[str] = set()
    for number, shard in enumerate(description.shards):
        _verify_shard(folder, number, shard, description, index, seen, report)
        watch(number + 1, len(description.shards))
    stated = description.record
    if report.samples != stated["samples"] or len(index) != stated["samples"]:
        report.problems.append(f"{report.samples} whole samples, {len(index)} in the index, {stated['samples']} stated")
    if report.class_counts != stated["class_counts"]:
        report.problems.append("the classes' counts differ from dataset.json's")
    return report


def _verify_shard(
    folder: Path,
    number: int,
    shard: dict[str, Any],
    description: Description,
    index: np.ndarray[Any, Any],
    seen: set[str],
    report: Report,
) -> None:
    file, name = folder / shard["file"], shard["file"]
    try:
        data = file.read_bytes()
    except OSError as error:
        report.problems.append(f"{name}: {reason(error)}")
        return
    report.shards += 1
    if len(data) != shard["bytes"] or hashlib.sha256(data).hexdigest() != shard["sha256"]:
        report.problems.append(f"{name}: its length or SHA-256 differs from what was written")
    rows = {int(offset): int(label) for offset, label in index[index["shard"] == number][["offset", "label"]].tolist()}
    samples = list[_Sample]()
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                if not samples or samples[-1].key != key:
                    samples.append(_Sample(key))
                stream = archive.extractfile(member)
                samples[-1].add(kind, member, b"" if stream is None else stream.read(), description)
    except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
        report.problems.append(f"{name}: damaged after {max(len(samples) - 1, 0)} samples ({reason(error)})")
    found = [sample for sample in samples if "latent" in sample.places]
    for sample in found:
        problem = sample.problem(description)
        if sample.key in seen:
            problem = "an earlier sample has the same key"
        elif rows.get(sample.places["latent"]) != sample.label:
            problem = "the index doesn't list it here with its label"
        seen.add(sample.key)
        if problem:
            report.problems.append(f"{name}: {sample.key} ({sample.source}): {problem}")
            continue
        report.samples += 1
        if report.class_counts and 0 <= sample.label < len(report.class_counts):
            report.class_counts[sample.label] += 1
    if len(found) != shard["samples"]:
        report.problems.append(f"{name}: {len(found)} samples instead of {shard['samples']}")


@dataclass
class _Sample:
    """What was read of a sample: its label and source, where the values of its arrays begin, and what is wrong."""

    key: str
    label: int = -1
    source: str = ""
    places: dict[str, int] = field(default_factory=dict)
    wrong: str = ""

    def add(self, kind: str, member: tarfile.TarInfo, content: bytes, description: Description) -> None:
        """Takes one of its members."""
        name = kind.removesuffix(".npy")
        if kind == "cls":
            self.label = int(content)
        elif kind == "json":
            self.source = str(parsed(content)["source"])
        elif kind == "txt":
            self.wrong = self.wrong or ("" if _is_utf8(content) else "its caption isn't UTF-8")
        elif kind.endswith(".npy") and name in (description.row.names or ()):
            array = read_array(io.BytesIO(content), len(content))
            self.places[name] = member.offset_data + len(content) - array.nbytes
            self.wrong = self.wrong or _verify_array(name, array, description)

    def problem(self, description: Description) -> str:
        """What is wrong with it, in words; empty if nothing is."""
        fields: Mapping[str, tuple[Any, ...]] = description.row.fields or {}
        for name, (_, offset, *_) in () if self.wrong else fields.items():
            if self.places.get(name) != self.places["latent"] + offset:
                return f"{name}.npy is missing, or not at its place"
        return self.wrong


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _verify_array(name: str, array: np.ndarray[Any, Any], description: Description) -> str:
    wanted, shape = description.row[name].base, description.row[name].shape
    if array.dtype != wanted or array.shape != shape:
        return f"{name} is an array {array.dtype} {array.shape} instead of {wanted} {shape}"
    if not np.isfinite(array.astype(np.float32)).all():
        return f"{name} has values that are not finite"
    if name == "latent" and description.posterior and (array[array.shape[0] // 2 :] < 0).any():
        return "negative standard deviations"
    if name == "tokens" and bool(description.wrong(name, torch.from_numpy(array[None])).any()):
        return "tokens outside of the vocabulary"
    return ""
