"""Encoding as many pictures as ImageNet has, tiny ones: the seconds and the memory of each step, each in its process.

    python benchmarks/scale.py [--count 1300000] [--folder FOLDER] [--rounds 2] [--piece 20000] [--whole]

The source is a thousand tars, n00000000.tar … as ImageNet's own are called, with 1,300 pictures of 8×8 each: 1.3 GB.
The shards take 5 GB more. Both are made in FOLDER, or in a folder that is removed again; pictures found there are used.

- list: the source, by the library.
- encode a piece: `alphaflow encode images --autoencoder pixels --size 8`, as one job of many, with one worker.
- encode the rest: with --whole by the same command; else constant latents are put into shards by the library's writer.
- finish and resume: the same command where every shard is there; the first of them writes the index.
- read: opens the shards and reads a shuffled epoch in batches of 256.

Needs Linux. Seconds are the clock's and the processor's, workers included. Memory is each process's own peak; that of a
command is looked at twenty times a second. Writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

Found = dict[str, Any]

CLASS, DISTINCT, SIDE = 1300, 300, 8
"""Pictures a class; different ones among them; pixels along a side."""

SHARD, BATCH = 1000, 256


def make_pictures(place: Path, count: int) -> None:
    """Writes the tars. All have the first one's bytes, but for the class in the names and the headers' sums."""
    from PIL import Image

    noise, blocks = np.random.default_rng(0), []
    coded = []
    for pixels in noise.integers(256, size=(DISTINCT, SIDE, SIDE, 3), dtype=np.uint8):
        Image.fromarray(pixels).save(stream := io.BytesIO(), "PNG")
        coded.append(stream.getvalue())
    for number in range(CLASS):
        member = tarfile.TarInfo(f"n{0:08d}_{number}.png")
        member.size = len(coded[number % DISTINCT])
        blocks.append(member.tobuf(tarfile.USTAR_FORMAT) + coded[number % DISTINCT].ljust(512, b"\0"))
    tar = np.frombuffer(b"".join(blocks), np.uint8).reshape(CLASS, 1024).copy()
    tar[:, 148:156] = ord(" ")  # as the sum of a header counts itself
    for label in range(-(-count // CLASS)):
        members = tar[: min(CLASS, count - label * CLASS)].copy()
        members[:, 1:9] = np.frombuffer(f"{label:08d}".encode(), np.uint8)
        sums = members[:, :512].sum(1, dtype=np.int64)
        members[:, 148:154] = (sums[:, None] >> np.arange(15, -1, -3) & 7) + ord("0")
        members[:, 154] = 0
        (place / f"n{label:08d}.tar").write_bytes(members.tobytes() + bytes(1024))


def lister() -> Callable[[Path], Sequence[Any]]:
    """What lists a folder, as the command does: gives the entries in the order in which they are encoded."""
    from alphaflow.data.listing.listing import list_files

    return lambda source: list_files(source, "images").mixed().entries


def memory(process: int | str = "self", name: str = "VmHWM") -> float:
    """MiB that a process holds, or held at most; 0 for one that is gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    match = re.search(rf"{name}:\s*(\d+) kB", text)
    return int(match[1]) / 1024 if match else 0.0


def workers(process: int) -> list[str]:
    """A process's decoding processes; not what it runs for a moment, which begins as a copy of itself."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def clock(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def stage_list(source: Path, out: Path, count: int) -> Found:
    """Lists the source."""
    listing = lister()  # is imported now
    before = memory(name="VmRSS")
    entries, seconds = clock(lambda: listing(source))
    if len(entries) != count:
        raise RuntimeError(f"{len(entries)} pictures were listed instead of {count}")
    after = memory(name="VmRSS")
    return {"listing, s": seconds, "the list, MiB": after - before, "peak above before, MiB": memory() - before}


def stage_write(source: Path, out: Path, count: int) -> Found:
    """Writes every shard that isn't there, of constant latents."""
    from alphaflow.data_tools.shard_writer import finished_shards, writing

    entries, latent = lister()(source), np.ones((3, SIDE, SIDE), np.float16)
    done, written, start = finished_shards(out), 0, time.perf_counter()
    for number in range(-(-count // SHARD)):
        if number in done:
            continue
        first = number * SHARD
        its = entries[first : first + SHARD]
        with writing(out, "train", number, its) as writer:
            for index, entry in enumerate(its, first):
                writer.add(index, latent, entry.label, {"source": entry.name, "crop": "adm", "mirrored": False})
        written += len(its)
    return {"samples/s": written / (time.perf_counter() - start), "samples": written}


def stage_read(source: Path, out: Path, count: int) -> Found:
    """Opens the shards and reads an epoch."""
    import alphaflow as af

    reader = af.LatentShards  # is imported now
    before = memory(name="VmRSS")
    shards, opening = clock(lambda: reader(out, batch_size=BATCH, seed=0))
    if len(shards) != count:
        raise RuntimeError(f"{len(shards)} samples were found instead of {count}")
    opened, peak = memory(name="VmRSS") - before, memory() - before
    stream = iter(shards)
    _, first = clock(lambda: next(stream))
    batches = count // BATCH - 1
    seen, seconds = clock(lambda: sum(len(batch.x) for batch in itertools.islice(stream, batches)))
    return {
        "opening, s": opening, "opened, MiB": opened, "opening's peak, MiB": peak, "first batch, s": first,
        "samples/s": seen / seconds, "after the epoch, MiB": memory(name="VmRSS") - before,
    }  # fmt: skip


STAGES = {"list": stage_list, "write": stage_write, "read": stage_read}


def measured(call: list[str], folder: Path) -> tuple[str, Found]:
    """What a command prints, and what it took; it works in ``folder``, so that it imports nothing from here."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    peak = worker = beside = 0.0
    with tempfile.TemporaryFile("w+") as printed:
        with subprocess.Popen(call, cwd=folder, stdout=printed) as process:
            while process.poll() is None:
                children = workers(process.pid)
                peak = max(peak, memory(process.pid))
                if children:
                    worker = max(worker, *map(memory, children))
                    beside = max(beside, memory(process.pid, "VmRSS"))
                time.sleep(0.05)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise RuntimeError(f"{' '.join(call)} ended with {process.returncode}")
        printed.seek(0)
        text = printed.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"s": seconds, "CPU s": cpu, "peak, MiB": peak}
    if worker:
        found |= {"beside workers, MiB": beside, "a worker's peak, MiB": worker}
    return text, found


class Bench:
    """The steps, and what was found of each."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.source, self.out = folder / f"pictures-{count}", folder / f"shards-{count}"
        self.found: dict[str, list[Found]] = {}

    def prepare(self) -> None:
        """The pictures, where they aren't there yet, and no shards."""
        if not self.source.exists():
            half = self.source.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            make_pictures(half, self.count)
            half.rename(self.source)
        shutil.rmtree(self.out, ignore_errors=True)

    def stage(self, stage: str, name: str) -> None:
        """One of this file's own stages."""
        arguments = json.dumps([stage, str(self.source), str(self.out), self.count])
        text, took = measured([sys.executable, str(Path(__file__).resolve()), "--stage", arguments], self.folder)
        self._note(name, took | json.loads(text))

    def encode(self, name: str, *more: str) -> None:
        """The command."""
        call = [sys.executable, "-m", "alphaflow", "encode", "images", str(self.source), str(self.out)]
        call += ["--autoencoder", "pixels", "--size", str(SIDE), "--workers", "1", *more]
        text, took = measured(call, self.folder)
        match = re.search(r"(\d+) encoded, 0 rejected in ([\d.]+) s", text)
        if match is None:
            raise RuntimeError(f"the command printed {text!r}")
        encoded, seconds = int(match[1]), float(match[2])
        rate = {"encoded": encoded, "pictures/s": encoded / seconds} if encoded else {}
        self._note(name, took | {"outside of encoding, s": took["s"] - seconds} | rate)

    def _note(self, name: str, found: Found) -> None:
        self.found.setdefault(name, []).append(found)
        print(f"{name}: {json.dumps(found)}", flush=True)

    def run(self, rounds: int, piece: int, whole: bool) -> None:
        """All of it."""
        self.prepare()
        for _ in range(rounds):
            self.stage("list", "list")
        jobs = max(self.count // piece, rounds)
        for number in range(rounds):
            self.encode("encode a piece", "--shard", f"{number}/{jobs}")
        if whole:
            self.encode("encode the rest")
        else:
            self.stage("write", "write the rest, constant")
            self.encode("finish")
        for _ in range(rounds):
            self.encode("resume, all finished")
        for _ in range(rounds):
            self.stage("read", "read")


def print_table(found: dict[str, list[Found]], title: str) -> None:
    """Each step's figures, a line each; its rounds beside one another."""
    table = Table("step", "", "round by round", title=title)
    for name, rounds in found.items():
        for at, key in enumerate(dict.fromkeys(itertools.chain(*rounds))):
            values = (row[key] for row in rounds if key in row)
            table.add_row("" if at else name, key, "  ".join(f"{v:,.{0 if v >= 100 else 2}f}" for v in values))
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_300_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--piece", type=int, default=20_000)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--name", default="scale", help="of the JSON in benchmarks/results, or a path without .json")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage is not None:
        stage, source, out, count = json.loads(arguments.stage)
        print(json.dumps(STAGES[stage](Path(source), Path(out), count)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench((arguments.folder or Path(temporary)).resolve(), arguments.count)
        bench.run(arguments.rounds, arguments.piece, arguments.whole)
    print_table(bench.found, f"{arguments.count:,} pictures of {SIDE}×{SIDE}")
    import torch  # not above: the processes that are measured begin without it
    from measure import write

    print(write(arguments.name, torch.device("cpu"), count=arguments.count, whole=arguments.whole, steps=bench.found))


if __name__ == "__main__":
    main()
