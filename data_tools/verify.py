"""Checking a folder of shards."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
    count = 0
    label = -1
    record = ""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                stream = archive.extractfile(member)
                content = b"" if stream is None else stream.read()
                if kind == "cls":
                    label = int(content)
                elif kind == "json":
                    record = str(parsed(content)["source"])
                elif kind == "latent.npy":
                    problem = _verify_array(content, description)
                    offset = member.offset_data + len(content) - int(np.prod(description.stored)) * 2
                    if key in seen:
                        problem = "an earlier sample has the same key"
                    elif rows.get(offset) != label:
                        problem = "the index doesn't list it here with its label"
                    seen.add(key)
                    count += 1
                    if problem:
                        report.problems.append(f"{name}: {key} ({record}): {problem}")
                    else:
                        report.samples += 1
                        if report.class_counts and 0 <= label < len(report.class_counts):
                            report.class_counts[label] += 1
                    label, record = -1, ""
    except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
        report.problems.append(f"{name}: damaged after {count} samples ({reason(error)})")
    if count != shard["samples"]:
        report.problems.append(f"{name}: {count} samples instead of {shard['samples']}")


def _verify_array(content: bytes, description: Description) -> str:
    array = read_array(io.BytesIO(content), len(content))
    if array.dtype != np.float16 or array.shape != description.stored:
        return f"an array {array.dtype} {array.shape} instead of float16 {description.stored}"
    if not np.isfinite(array.astype(np.float32)).all():
        return "values that are not finite"
    if description.posterior and (array[array.shape[0] // 2 :] < 0).any():
        return "negative standard deviations"
    return ""
