"""What a trained flow model is worth to a one-step model of the digits: steps to the same quality, three seeds.

    python benchmarks/from_flow.py [--seeds 0,1,2] [--jobs 2]

Each seed trains flow matching once, for the recipe's 2,600 steps. MeanFlow then trains for several numbers of steps:
from scratch; from the flow model, with every jump's embedding starting as that of length 0, as `--from RUN` does; from
its weights as they are, whose embedding of jumps nothing has trained; and with `DiT(late=1)`, whose first three blocks
see no jump. Each run's learning rate falls to 0 in its second half. Runs that are finished in --runs already are not
trained again. Prints pixel FD, recall and agreement in one step, and writes benchmarks/results/from-flow.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from alphaflow.recipes.digits import recipe
from measure import write
from rich.console import Console
from rich.table import Table

import alphaflow as af

STEPS = 2600
BUDGETS = {
    "from scratch": (325, 650, 1300, 2600),
    "from the flow model": (325, 650, 1300, 2600),
    "its weights as they are": (325, 1300),
    "one late block": (325, 1300),
}
METRICS = ("pixel-fd", "pixel-recall", "agreement")


def train(name: str, seed: int, steps: int, runs: Path) -> Path:
    """Trains one, if it isn't finished; returns its folder."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out = place(name, seed, steps, runs)
    flow = name == "flow matching"
    made = recipe(method="flow-matching" if flow else "mean-flow", steps=steps)
    if name == "one late block":
        made = replace(made, model=af.DiT(**{**made.model.config, "late": 1}))
    start = None if flow or name == "from scratch" else place("flow matching", seed, STEPS, runs)
    if start is not None and name == "its weights as they are":
        weights = runs / f"flow-{seed}.safetensors"  # beside no run.json, so that nothing says what they are of
        shutil.copy(start / "checkpoints" / f"step-{STEPS:08d}" / "ema.safetensors", weights)
        start = weights
    resume = (out / "run.json").exists()
    af.Trainer(made, out=out, seed=seed, resume=resume, device="cpu", display=None, start=start).fit()
    return out


def place(name: str, seed: int, steps: int, runs: Path) -> Path:
    """Where it is trained."""
    return runs / f"{name.replace(' ', '-')}-{steps}-{seed}"


def job(name: str, seed: int, steps: int, runs: Path) -> dict[str, Any]:
    """One run in a process of its own, and its evaluation."""
    out, evaluation = place(name, seed, steps, runs), place(name, seed, steps, runs) / "evaluation.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ["--nfe", 1, "--count", 2000, "--seed", 1000 + seed, "--json", evaluation]
    calls = (
        [__file__, "--one", json.dumps([name, seed, steps, str(runs)])],
        ["-m", "alphaflow", "evaluate", out, *options],
    )
    for call in calls[: 1 if name == "flow matching" else 2]:
        command = [sys.executable, *map(str, call)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
    seconds = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    print(f"{out.name}: {seconds:.0f} s", flush=True)
    values = {} if name == "flow matching" else json.loads(evaluation.read_text())["rows"][0]["values"]
    return {"start": name, "seed": seed, "steps": steps, "seconds": seconds, "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/from-flow"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, seed, steps, runs = json.loads(given.one)
        train(name, seed, steps, Path(runs))
        return
    given.runs.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    flows = [("flow matching", seed, STEPS) for seed in seeds]
    todo = [(name, seed, steps) for seed in seeds for name, budgets in BUDGETS.items() for steps in budgets]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(lambda each: job(*each, given.runs), flows))
        results += pool.map(lambda each: job(*each, given.runs), todo)
    table = Table("start", "steps", *METRICS, title="digits, 1 NFE, 2,000 samples, mean ± deviation over seeds")
    for name, budgets in BUDGETS.items():
        for steps in budgets:
            mine = [each["values"] for each in results if (each["start"], each["steps"]) == (name, steps)]
            cells = [[values[metric] for values in mine] for metric in METRICS]
            spread = [f"{statistics.mean(c):.3f} ± {statistics.stdev(c) if len(c) > 1 else 0:.3f}" for c in cells]
            table.add_row(name, str(steps), *spread)
    Console(width=110).print(table)
    torch.set_num_threads(1)  # as every run has
    write("from-flow", torch.device("cpu"), results=results)


if __name__ == "__main__":
    main()
