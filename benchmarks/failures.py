"""Runs that are killed, and several processes: what is lost, and what it costs.

    python benchmarks/failures.py [--kills 20] [--steps 300]

- A digits run is killed by SIGKILL at random moments and resumed each time; its last weights are compared bit for bit
  with those of an undisturbed run.
- Two gloo processes with a batch each against one process with one: seconds a step, and the share of waiting for data.
- NaN is put into data, loss, gradient, a parameter, the optimiser's state of a digits run: where it was found, and
  the pixel FD at 1 NFE in the end, against a run without.
- One of two processes is killed: seconds until the job has ended, and, with --max-restarts, until it trains again.

Prints a table; writes benchmarks/results/failures.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import alphaflow as af

DIGITS = ["-m", "alphaflow", "train", "digits", "--seed", "1"]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A process of its own session, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def torchrun(restarts: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """Two processes."""
    count = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return start("-m", "torch.distributed.run", *count, *arguments)


def finished(process: subprocess.Popen[str]) -> str:
    """What it printed.

    Raises:
        RuntimeError: it failed.
    """
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(out[-2000:])
    return out


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint: the network's and its average's."""
    place = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {
        f"{place.name}/{file}/{name}": tensor
        for file in ("model", "ema")
        for name, tensor in load_file(place / f"{file}.safetensors").items()
    }


def kills(place: Path, count: int, steps: int) -> dict[str, Any]:
    """So many SIGKILLs at random moments, each followed by a resume."""
    options = ["--steps", str(steps), "--checkpoint-every", "20", "--width", "64"]
    finished(start(*DIGITS, *options, "--out", place / "straight"))
    chance, killed = random.Random(0), 0
    while killed < count:
        process = start(*DIGITS, *options, "--out", place / "killed", "--resume")
        time.sleep(chance.uniform(2.0, 6.0))
        done = process.poll() is not None
        killed += not done
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if done:
            break
    finished(start(*DIGITS, *options, "--out", place / "killed", "--resume"))
    ours, theirs = last_weights(place / "straight"), last_weights(place / "killed")
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return {"kills": killed, "steps": steps, "bitwise equal": equal}


def overhead(place: Path, rounds: int = 3) -> dict[str, Any]:
    """Two processes with 64 samples each against one with 64; interleaved."""
    options = ["--steps", "150", "--log-every", "50", "--checkpoint-every", "1000", "--sample-every", "1000"]
    found: dict[str, list[float]] = {"one": [], "two": [], "data wait": []}
    for number in range(rounds):
        one, two = place / f"one-{number}", place / f"two-{number}"
        finished(start(*DIGITS, *options, "--batch-size", "64", "--out", one))
        finished(torchrun(0, *DIGITS, *options, "--batch-size", "128", "--out", two))
        for name, run in (("one", one), ("two", two)):
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            found[name].append(statistics.mean(1 / row["steps_per_second"] for row in rows[1:]))
            if name == "two":
                found["data wait"].append(statistics.mean(row["data_wait"] for row in rows[1:]))
    return found


def death(place: Path, restarts: int) -> dict[str, float]:
    """Seconds from a process's SIGKILL to the job's end, or to its next step."""
    options = ["--steps", "100000", "--checkpoint-every", "20", "--log-every", "5", "--width", "32"]
    run = place / f"death-{restarts}"
    process = torchrun(restarts, *DIGITS, *options, "--out", run)
    while not list((run / "checkpoints").glob("step-*")):
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    victim = int(children.stdout.split()[-1])
    before = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    if not restarts:
        process.communicate()
        return {"seconds until the job has ended": time.perf_counter() - before, "status": float(process.returncode)}
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("continuing"):
            break
    size = (run / "metrics.jsonl").stat().st_size
    while (run / "metrics.jsonl").stat().st_size <= size:  # the first row after it
        time.sleep(0.05)
    seconds = time.perf_counter() - before
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    return {"seconds until it trains again": seconds}


PLACES = ("nowhere", "data", "loss", "gradient", "parameter", "optimiser state")
STEP = 333


class Once:
    """The recipe's objective; at a step, the first time, something becomes NaN."""

    def __init__(self, objective: Any, place: str) -> None:
        self.objective, self.place, self.trainer = objective, place, None

    def __call__(self, model: Any, x: torch.Tensor, cond: af.Cond, step: int, generator: torch.Generator) -> af.Loss:
        if step != STEP or self.place == "nowhere":
            found: af.Loss = self.objective(model, x, cond, step, generator)
            return found
        place, self.place = self.place, "nowhere"
        weight = model.final.out.weight
        if place == "parameter":
            with torch.no_grad():
                weight[0, 0] = math.nan
        elif place == "optimiser state":
            self.trainer.engine.optimizer.state[weight]["exp_avg"][0, 0] = math.nan
        elif place == "gradient":
            handle = weight.register_hook(lambda gradient: (handle.remove(), gradient * math.nan)[1])
        loss: af.Loss = self.objective(model, x * math.nan if place == "data" else x, cond, step, generator)
        return af.Loss(loss.total * math.nan, loss.per_sample, loss.terms) if place == "loss" else loss

    def scalars(self, step: int) -> dict[str, float]:
        found: dict[str, float] = self.objective.scalars(step)
        return found


def nan(place: str, out: Path, steps: int = 800) -> dict[str, Any]:
    """A digits run with a NaN: what was done about it, and how good it is in the end."""
    torch.manual_seed(0)
    recipe = af.find_recipe("digits")(steps=steps, width=64)
    objective: Any = Once(recipe.objective, place)
    evaluation = af.TrainingEvaluation(steps, count=2000)
    made = dataclasses.replace(recipe, objective=objective)
    trainer = objective.trainer = af.Trainer(made, out=out, checkpoint_every=100, evaluation=evaluation)
    trainer.fit()
    file = out / "incidents.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    back = [line["step"] for line in lines if line["kind"] == "rollback"]
    found = lines[0]["step"] if lines else None
    return {"place": place, "found at": found, "back to": back, "pixel FD": trainer.report.values["pixel-fd_1"]}


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        killed = kills(place, arguments.kills, arguments.steps)
        times = overhead(place)
        ended, again = death(place, 0), death(place, 3)
        spoilt = [nan(where, place / where) for where in PLACES]
    ratios = [two / one for one, two in zip(times["one"], times["two"], strict=True)]
    table = Table("what", "found", title="runs that are killed, and two processes")
    table.add_row(
        f"{killed['kills']} random SIGKILLs, resumed: last weights bit for bit those of an undisturbed run",
        str(killed["bitwise equal"]),
    )
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    table.add_row("step of two gloo processes, 64 samples each ÷ one process's with 64", spread)
    table.add_row("two processes: share of time waiting for data", f"{statistics.median(times['data wait']):.1%}")
    for values in (ended, again):
        for name, value in values.items():
            if name != "status":
                table.add_row(f"one of two processes killed: {name}", f"{value:.1f}")
    for row in spoilt:
        what = f"NaN at step {STEP}: {row['place']}" if row["found at"] is not None else "no NaN"
        done = "" if row["found at"] is None else f"found at {row['found at']}, "
        done += f"back to {row['back to'][0]}, " if row["back to"] else ""
        table.add_row(what, f"{done}pixel FD {row['pixel FD']:.3f}")
    Console(width=130).print(table)
    record = {"date": date.today().isoformat(), "torch": torch.__version__, "device": "CPU, one thread a process"}
    out = Path(__file__).parent / "results" / "failures.json"
    found = {"kills": killed, "steps": times, "ratios": ratios, "death": {**ended, **again}, "nan": spoilt}
    out.write_text(json.dumps({**record, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
