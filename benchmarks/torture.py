"""Kills at any moment, damaged and hostile files, wrong command lines: how often something ends as it must not.

    python benchmarks/torture.py [--minutes 20] [--seed 0] [--counts KILLS,FILES,LINES] [--only PART-NUMBER]

- kills: a training and an encoding are killed at random moments and gone on with, until they are done; what they have
  made must be, byte by byte, what undisturbed ones make.
- files: a run, shards or statistics with one random change; some command then reads them.
- lines: command lines with odd values, and words that are missing or too many.

A command may end with status 0, or with 1, 2 or 130 and a few lines; never with a traceback, a signal, after too long,
having opened a pickle, or having written anywhere but where it was told to. Commands run in forks of this process,
which has imported everything and computes nothing itself. Attempt N of a part is the same for the same seed, but for
the moments of kills: --only files-17 repeats one and shows what it printed. Prints a table, writes
benchmarks/results/torture.json; status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import typer
from alphaflow.cli.command import RecipeCommand
from alphaflow.cli.main import build, main
from measure import write
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from alphaflow.files import sha256
from alphaflow.runs.checkpoint import MANIFEST, seal

Failure = dict[str, Any]
SMALL = "train digits --steps 60 --width 32 --depth 1 --batch-size 32"
COMMANDS = {
    "run": [
        "sample {run} --count 2 --out {out}",
        "diagnose {run} --batches 1 --out {out}",
        "evaluate {run} --count 50 --metrics pixel-fd",
        "evaluate {run} --count 20 --metrics pixel-fd --reference digits",
        SMALL + " --from {run} --dry-run",
        SMALL + " --checkpoint-every 7 --sample-every 20 --keep-last 2 --log-every 5 --resume --out {run}",
    ],
    "shards": [
        "verify {shards}",
        "preview {shards} --out {out}.png",
        "stats {shards} {out}.npz --metrics pixel-fd",
        "evaluate {shards} --count 20 --metrics pixel-fd --reference digits",
        "evaluate {run} --count 20 --metrics pixel-fd --reference {shards}",
        "encode images {pictures} {shards} --workers 0 --samples-per-shard 5 --size 8 --autoencoder grey",
    ],
    "stats.npz": [
        "evaluate {run} --count 20 --metrics pixel-fd --reference {stats}",
        "evaluate {stats} --count 20 --metrics pixel-fd --reference digits",
        "stats digits {stats} --metrics pixel-fd --overwrite",
    ],
    "": [
        SMALL + " --out {out}",
        "info digits --width 32 --measure 0",
        "encode images {pictures} {out} --workers 0 --size 8 --autoencoder pixels",
        "encode videos {pictures} {out} --workers 0 --size 8 --autoencoder pixels",
        "recipes",
        "recipes show digits",
        "recipes copy digits {out}.py",
    ],
}
"""Command lines by what they read; {out} is what they write."""
TRAIN, ENCODE = COMMANDS["run"][-1], COMMANDS["shards"][-1]
MEMORY = 4 * 2**30
"""Bytes that a command may take on top of what this process has."""
FEW = 6
"""Lines on standard error that an error may have."""
ENTRIES: list[Any] = [None, -1, 0, 1e308, math.nan, "x", [], {}, 10**12, "../../x", True]
WORDS = ["", "~", "-1", "0", "1", "2", "nan", "1e400", "ten", "a\nb", "\x1b[31mred", str(10**30), "x" * 5000, "no/y"]
ARRAYS = [np.zeros(3), np.full((64, 64), np.nan), np.array(7), np.zeros((0, 2), np.float32), np.array(["x"])]
LEFT_OUT = {"--compile", "--workers", "--batches", "--debug"}
"""Options that take long, start processes, or show tracebacks, because that is what was asked for."""


class Ended(NamedTuple):
    """How a command ended: its status, or minus its signal, and what it printed."""

    status: int
    out: str
    err: str


class Mark:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def begin(words: list[str], place: Path, limit: int) -> int:
    """Begins `alphaflow WORDS` in a process that stands in ``place/cwd``, for ``limit`` seconds; returns its number."""
    for name in ("cwd", "log"):
        (place / name).mkdir(exist_ok=True)
    with (
        Path(os.devnull).open() as no,
        (place / "log" / "out").open("w") as out,
        (place / "log" / "err").open("w") as err,
    ):
        process = os.fork()
        if process:
            return process
        for number, stream in enumerate((no, out, err)):
            os.dup2(stream.fileno(), number)
    status = 1
    try:
        os.setsid()
        os.chdir(place / "cwd")
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
        signal.alarm(limit)
        sys.argv = ["alphaflow", *words]
        main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            (place / "log" / "modules").write_text("\n".join(sys.modules))
        os._exit(status)


def end(process: int, place: Path) -> Ended:
    """Waits for a command; whatever it has begun itself is ended with it."""
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    out, err = ((place / "log" / name).read_text(errors="replace") for name in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), out, err)


def all_in(place: Path) -> dict[Path, tuple[int, int]]:
    """All there is in a folder, with what changes when it is written to."""
    found = {path: path.lstat() for path in place.rglob("*")}
    return {p: (0, 0) if p.is_dir() else (about.st_size, about.st_mtime_ns) for p, about in found.items()}


def attempt(words: list[str], place: Path, limit: int) -> list[Failure]:
    """Runs a command; what is not allowed about how it ended, if anything."""
    given, out = place / "some" / "where" / "given", place / "some" / "where" / "out"
    before = all_in(place)
    ended = end(begin(words, place, limit), place)
    told = tuple(map(str, (given, out, place / "cwd", place / "log", place / "mark")))
    strays = [str(path) for path, about in all_in(place).items() if before.get(path) != about]
    strays = [path for path in strays if not path.startswith(told)]
    lines = ended.err.strip().splitlines()
    if ended.status < 0:
        what = "time-out" if ended.status == -signal.SIGALRM else signal.Signals(-ended.status).name
    elif (place / "mark").exists():
        what = "a pickle was opened"
    elif strays:
        what = f"wrote {', '.join(strays)}"
    elif "Traceback" in ended.err:
        what = "traceback"
    elif ended.status not in (0, 1, 2, 130):
        what = f"status {ended.status}"
    elif ended.status and not 0 < len(lines or ended.out.splitlines()[:FEW]) <= FEW:
        what = f"status {ended.status}, {len(lines)} lines"
    else:
        return []
    return [{"what": what, "words": [word.replace(str(place), "…")[:200] for word in words], "says": lines[-25:]}]


def differences(one: Path, other: Path, *patterns: str) -> list[str]:
    """Names of files that two folders don't both have with the same bytes."""
    both = [{f.relative_to(p): f for pattern in patterns for f in p.glob(pattern)} for p in (one, other)]
    return sorted(
        str(name)
        for name in both[0].keys() | both[1].keys()
        if not all(name in files for files in both) or both[0][name].read_bytes() != both[1][name].read_bytes()
    )


class Torture:
    """What is made once, and the three parts: each makes one attempt in a folder of its own.

    Args:
        given: a folder, for a run, shards, statistics, pictures.
    """

    def __init__(self, given: Path) -> None:
        self.given, self.straight, self.killed = given, given.with_name("straight"), 0
        self.seconds: dict[str, float] = {}
        noise = np.random.default_rng(0)
        for number in range(42):
            file = given / "pictures" / "ab"[number % 2] / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
        first = [TRAIN, ENCODE, "stats digits {stats} --metrics pixel-fd", *COMMANDS["run"][1:3]]
        for folder, line in [*((given, line) for line in first), (self.straight, TRAIN), (self.straight, ENCODE)]:
            start = time.monotonic()
            ended = end(begin(self.words(line, folder), given.parent, 600), given.parent)
            self.seconds[line] = time.monotonic() - start
            if ended.status:
                raise RuntimeError(f"{line}: {ended.err}")
            for module in set((given.parent / "log" / "modules").read_text().splitlines()) - sys.modules.keys():
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)

    def words(self, line: str, given: Path) -> list[str]:
        """A command line with paths in a folder."""
        places = {name: given / name for name in ("run", "shards")}
        pictures = self.given / "pictures"
        return shlex.split(
            line.format(**places, stats=given / "stats.npz", pictures=pictures, out=given.with_name("out"))
        )

    def copy(self, place: Path) -> Path:
        """A copy of all that is given, some folders deep, so that ../../x stays in the attempt's own folder."""
        return Path(shutil.copytree(self.given, place / "some" / "where" / "given"))

    def kill(self, chance: random.Random, place: Path) -> list[Failure]:
        """A training, or an encoding, killed until it is done; then compared."""
        line = chance.choice([TRAIN, TRAIN, ENCODE])
        words, moments = self.words(line, place), list[float]()
        while True:
            moments.append(round(chance.uniform(0, self.seconds[line]), 4))
            process = begin(words, place, 60)
            time.sleep(moments[-1])
            os.kill(process, signal.SIGKILL)
            ended = end(process, place)
            if ended.status != -signal.SIGKILL or len(moments) > 100:
                break
            self.killed += 1
        run, shards = place / "run", place / "shards"
        if ended.status:
            found = [f"status {ended.status}"]
        elif line == TRAIN:
            found = differences(self.straight / "run", run, "checkpoints/*/*.safetensors", "samples/*.png")
            found += [str(path) for path in run.rglob(".*.tmp")]
            steps = [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]
            found += [] if steps == list(range(5, 61, 5)) else [f"rows of metrics.jsonl: {steps}"]
        else:
            found = differences(self.straight / "shards", shards, "*.tar", "index.npy", "dataset.json", "parts/*")
            found += [str(path) for path in shards.glob(".train-*.tmp")]
            ended = end(begin(["verify", str(shards)], place, 60), place)
            found += [] if ended.status == 0 and "all whole" in ended.out else ["verify finds problems"]
        failure = {"what": ", ".join(found), "words": words, "moments": moments, "says": ended.err.splitlines()[-25:]}
        return [failure] if found else []

    def file(self, chance: random.Random, place: Path) -> list[Failure]:
        """One change to a run, to shards, or to statistics; one command that reads them."""
        given = self.copy(place)
        name = chance.choice(["run", "run", "shards", "shards", "stats.npz"])
        if chance.random() < 0.5:  # so that a resume has something to do
            shutil.rmtree(max((given / "run" / "checkpoints").iterdir()))
        says = change(given / name, chance, place / "mark")
        words = self.words(chance.choice(COMMANDS[name]), given)
        return [{"changed": says, **failure} for failure in attempt(words, place, 60)]

    def line(self, chance: random.Random, place: Path) -> list[Failure]:
        """A command line that is right, but for one to three changes."""
        given = self.copy(place)
        words = self.words(chance.choice(list(itertools.chain(*COMMANDS.values()))), given)
        odd = [*WORDS, *map(str, given.iterdir()), str(given / "run" / "run.json"), "digits", "--resume", "--"]
        options = list(_options(words))
        for _ in range(chance.choice([1, 1, 2, 3])):
            how, at = chance.random(), chance.randrange(len(words))
            if options and how < 0.7:
                words += [chance.choice(odd) if part == "?" else part for part in chance.choice(options)]
            elif how < 0.9 or len(words) == 1:
                words[at : at + chance.randint(0, 1)] = [chance.choice(odd)]
            else:
                del words[at]
        if words[0] == "train":
            words += [*chance.choice([[], ["--dry-run"]]), "--steps", "2"]
        return attempt(words, place, 30)


def _options(words: list[str]) -> Iterator[list[str]]:
    """The options of a command: each alone where it is a switch, with a ? for its value where it takes one."""
    command: Any = typer.main.get_command(build())
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    if isinstance(command, RecipeCommand):
        command = command.with_recipe(words[1])
    for option in command.params:
        for name in (*option.opts, *option.secondary_opts):
            if name.startswith("--") and name not in LEFT_OUT:
                yield [name] if option.is_flag else [name, "?"]


def change(place: Path, chance: random.Random, mark: Path) -> str:
    """Changes one file of a folder (or this file); says how. Half the time the sums are made to agree with it."""
    found = [p for p in place.rglob("*") if p.is_file() and not p.name.startswith((".", "events"))] or [place]
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(found):  # each kind of file equally often
        kinds.setdefault((path.parent.name, path.suffix), []).append(path)
    file = chance.choice(kinds[chance.choice(sorted(kinds))])
    says = _change_inside(file, chance) if chance.random() < 0.6 else ""
    says = f"{file.relative_to(place.parent)}: {says or _change_bytes(file, chance, mark)}"
    if chance.random() < 0.5:
        return says
    if file.parent.parent.name == "checkpoints" and file.name != MANIFEST:
        (file.parent / MANIFEST).unlink()
        seal(file.parent, int(file.parent.name.removeprefix("step-")), {})
        return f"{says}, and the manifest"
    if file.suffix == ".tar" and file.is_file():
        about, part = place / "dataset.json", place / "parts" / f"{file.stem[-6:]}.json"
        sums, record = {"bytes": file.stat().st_size, "sha256": sha256(file)}, json.loads(about.read_text())
        record["shards"] = [{**s, **sums} if s["file"] == file.name else s for s in record["shards"]]
        about.write_text(json.dumps(record))
        part.write_text(json.dumps({**json.loads(part.read_text()), **sums}))
        return f"{says}, and its sums"
    return says


def _change_inside(file: Path, chance: random.Random) -> str:
    """Another value in a file that can be read all the same; says which, nothing if the file is of another kind."""
    if file.suffix in (".json", ".jsonl") and file.stat().st_size:
        text = file.read_text()
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        at = chance.randrange(len(lines))
        lines[at], says = _change_json(lines[at], chance)
        file.write_text("\n".join(lines) + "\n")
        return says
    arrays: dict[str, Any] = {}
    if file.suffix in (".npz", ".safetensors"):
        arrays = load_file(file) if file.suffix == ".safetensors" else dict(np.load(file))
    name = chance.choice(sorted(arrays) or ["an array"])
    if name == "about" and chance.random() < 0.8:
        text, says = _change_json(str(arrays[name]), chance)
        arrays[name] = np.array(text)
    else:
        arrays[name] = chance.choice(ARRAYS[:-1] if file.suffix == ".safetensors" else ARRAYS)
        says = f"is {arrays[name].dtype} {arrays[name].shape}"
    if file.suffix == ".npz":
        np.savez(file, **arrays)
    elif file.suffix == ".safetensors":
        save_file(arrays, file)
    elif file.suffix == ".npy":
        np.save(file, arrays[name])
    else:
        return ""
    return f"{name} {says}"


def _change_json(text: str, chance: random.Random) -> tuple[str, str]:
    """Another value somewhere, or none."""
    root: Any = {"": json.loads(text)}
    inner, path = root, [""]
    while isinstance(inner[path[-1]], dict | list) and inner[path[-1]] and chance.random() < 0.8:
        inner = inner[path[-1]]
        path.append(chance.choice(list(inner)) if isinstance(inner, dict) else chance.randrange(len(inner)))
    if len(path) > 1 and chance.random() < 0.1:
        del inner[path[-1]]
        return json.dumps(root[""]), f"no {path[1:]}"
    inner[path[-1]] = chance.choice(ENTRIES)
    return json.dumps(root[""]), f"{path[1:]} = {inner[path[-1]]!r}"


def _change_bytes(file: Path, chance: random.Random, mark: Path) -> str:
    """Other bytes, a folder, or nothing in a file's place; says how."""
    data = file.read_bytes()
    at = chance.randrange(max(len(data), 1))
    contents = {
        "flip": data[:at] + bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :],
        "cut": data[:at],
        "empty": b"",
        "pickle": pickle.dumps(Mark(mark)),
        "noise": chance.randbytes(len(data)),
        "deep": b"[" * 100_000,
    }
    how = chance.choice([*contents, "gone", "folder"])
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how in contents:
        file.write_bytes(contents[how])
    return f"{how} at {at} of {len(data)}" if how in ("flip", "cut") else how


Part = Callable[[random.Random, Path], list[Failure]]


def run(name: str, part: Part, seed: int, numbers: Iterator[int], seconds: float) -> dict[str, Any]:
    """Attempts of a part, until the numbers or the time run out."""
    start, count, failures = time.monotonic(), 0, list[Failure]()
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            found = part(random.Random(f"{seed}-{name}-{number}"), Path(folder).resolve())
        failures += [{"attempt": f"{name}-{number}", **failure} for failure in found]
        count += 1
        if time.monotonic() - start > seconds:
            break
    return {"attempts": count, "failed": len(failures), "failures": failures}


def torture() -> int:
    """Runs the parts; prints a table, writes the results. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="split evenly over the parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", help="attempts of each part, rather than minutes: 3,25,25; writes no results")
    parser.add_argument("--only", help="one attempt, for example files-17; writes no results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="200", HF_HUB_OFFLINE="1")
    os.environ.update(dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"))  # nothing is downloaded
    with tempfile.TemporaryDirectory() as folder:
        (given := Path(folder).resolve() / "given").mkdir()
        made = Torture(given)
        parts: dict[str, Part] = {"kills": made.kill, "files": made.file, "lines": made.line}
        numbers: list[Iterator[int]] = [itertools.count() for _ in parts]
        seconds = arguments.minutes * 60 / len(parts)
        if arguments.only:
            name, number = arguments.only.split("-")
            parts, numbers = {name: parts[name]}, [iter([int(number)])]
        elif arguments.counts:
            numbers, seconds = [iter(range(int(count))) for count in arguments.counts.split(",")], math.inf
        found = {
            name: run(name, part, arguments.seed, of, seconds)
            for (name, part), of in zip(parts.items(), numbers, strict=True)
        }
    table = Table("part", "attempts", "failed", title=f"seed {arguments.seed}; {made.killed} processes killed")
    for name, part in found.items():
        table.add_row(name, str(part["attempts"]), str(part["failed"]))
    Console().print(table)
    failures = [failure for part in found.values() for failure in part["failures"]]
    for failure in failures:
        print(f"{failure['attempt']}: {failure['what']}; {failure.get('changed', '')} {shlex.join(failure['words'])}")
        print("\n".join(failure["says"] if arguments.only else failure["says"][-1:]))
    if not arguments.only and not arguments.counts:
        write("torture", torch.device("cpu"), seed=arguments.seed, killed=made.killed, parts=found)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(torture())
