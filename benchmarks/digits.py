"""Flow matching, MeanFlow and α-Flow on the digits at equal steps: quality at 1, 2 and 4 network evaluations.

    python benchmarks/digits.py [--recipe moving-digits] [--methods flow-matching,alpha-flow] [--seeds 0,1,2] [--jobs 2]

Trains the recipe with each method and seed by the command line (`--jobs` at a time, one thread each), evaluates each on
2,000 class-balanced samples, prints means and standard deviations over the seeds, and writes
benchmarks/results/digits.json (moving-digits.json). Runs that are finished in --runs already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from measure import write
from rich.console import Console
from rich.table import Table

METHODS = ("flow-matching", "mean-flow", "alpha-flow")
NFES = (1, 2, 4)
PIXELS = ("pixel-fd", "pixel-precision", "pixel-recall", "agreement")
METRICS = {"digits": PIXELS, "moving-digits": (*PIXELS, "motion-energy", "motion-speed")}


def alphaflow(*arguments: object) -> None:
    """Runs the command line, on one thread."""
    call = [sys.executable, "-m", "alphaflow", *map(str, arguments)]
    done = subprocess.run(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def train_and_evaluate(recipe: str, method: str, seed: int, runs: Path) -> dict[str, Any]:
    """One run, trained if it isn't yet, and its evaluation."""
    run = runs / f"{method}-{seed}"
    alphaflow("train", recipe, "--method", method, "--seed", seed, "--out", run, "--resume")
    result = run / "evaluation.json"
    nfes = ",".join(map(str, NFES))
    more = ["--pictures", run / "figures"] if recipe == "moving-digits" else []
    alphaflow("evaluate", run, "--nfe", nfes, "--count", 2000, "--seed", 1000 + seed, "--json", result, *more)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated: dict[str, Any] = json.loads(result.read_text()) | {"target": run.name}
    print(f"{run.name}: {rows[-1]['seconds']:.0f} s", flush=True)
    return {"method": method, "seed": seed, "seconds": rows[-1]["seconds"], **evaluated}


def main() -> None:
    """Trains and evaluates what isn't yet, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--recipe", choices=METRICS, default="digits")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--runs", type=Path, help="a folder; runs/benchmark-RECIPE by default")
    arguments = parser.parse_args()
    recipe, methods = arguments.recipe, arguments.methods.split(",")
    runs, metrics = arguments.runs or Path(f"runs/benchmark-{recipe}"), METRICS[recipe]
    todo = [(recipe, method, int(seed)) for seed in arguments.seeds.split(",") for method in methods]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda job: train_and_evaluate(*job, runs), todo))

    table = Table("method", "NFE", *metrics, title=f"{recipe}, 2,000 samples, mean ± standard deviation over seeds")
    for method in methods:
        for index, nfe in enumerate(NFES):
            values = [result["rows"][index]["values"] for result in results if result["method"] == method]
            cells = []
            for metric in metrics:
                found = [value[metric] for value in values]
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                cells.append(f"{statistics.mean(found):.3f} ± {spread:.3f}")
            table.add_row(method, str(nfe), *cells)
    halves = results[0]["rows"][-1]["values"]
    table.add_row("real halves", "–", *(f"{halves[metric]:.3f}" for metric in metrics))
    Console(width=130).print(table)
    torch.set_num_threads(1)  # as every run has
    write(recipe, torch.device("cpu"), results=results)


if __name__ == "__main__":
    main()
