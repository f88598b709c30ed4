"""What a step of each objective costs, and how some do on the digits, at equal steps and at equal compute.

    python benchmarks/objectives.py price [--rounds 9]
    python benchmarks/objectives.py digits [--seeds 0,1,2] [--jobs 2] [--only "Lagrangian;SoFlow"]

`price` times loss, backward pass and AdamW, ÷ flow matching's, of two networks: a DiT of depth 6 and width 384 with 256
tokens and 8 samples, and the digits' with 4 tokens and 128. One pinned thread, process time, interleaved; medians.
`digits` trains the recipe's network with each at its defaults, MeanFlow as the recipe does, for the recipe's 2,600
steps, and for as many as cost what 2,600 steps of flow matching cost, by the digits' prices; terminal velocity matching
by differences, which has the same gradient, for these only. Runs that are finished in --runs
already are not trained again. Writes benchmarks/results/objectives-price.json and objectives-digits.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from alphaflow.recipes.digits import recipe
from measure import RESULTS, interleaved, pin, ratios, spread, write
from rich.console import Console
from rich.table import Table

import alphaflow as af

STEPS = 2600
NFES = (1, 2, 4)
METRICS = ("pixel-fd", "pixel-precision", "pixel-recall", "agreement")


def compared(steps: int) -> dict[str, af.Objective]:
    """What the digits are trained with. Warm-ups and curricula are told the number of steps."""
    return {
        "MeanFlow": af.MeanFlow(weighting=af.AdaptiveWeighting(p=0.5)),
        "Lagrangian": af.Lagrangian(),
        "TerminalVelocity": af.TerminalVelocity(),
        "TerminalVelocity, differences": af.TerminalVelocity(derivative="difference"),
        "AlignYourFlow": af.AlignYourFlow(warmup=steps // 4),
        "TransitionModel": af.TransitionModel(),
        "DecoupledMeanFlow": af.DecoupledMeanFlow(),
        "SoFlow": af.SoFlow(alpha=af.Exponential(end=steps, first=0.1, last=0.002, clamp=0.0)),
        "MeanFlow, direction 0.5": af.MeanFlow(direction=0.5, weighting=af.AdaptiveWeighting(p=0.5)),
    }


def every() -> dict[str, af.Objective]:
    """What is timed, each with its own fm_share, in the phase that it spends training in."""
    return {
        "FlowMatching": af.FlowMatching(),
        "TrajectoryFlowMatching": af.TrajectoryFlowMatching(),
        "AlphaFlow, α = 0.5": af.AlphaFlow(alpha=0.5),
        "ImprovedMeanFlow": af.ImprovedMeanFlow(),
        "Shortcut": af.Shortcut(),
        "SplitMeanFlow": af.SplitMeanFlow(),
        "ConsistencyTraining": af.ConsistencyTraining(),
        "ContinuousConsistency": af.ContinuousConsistency(),
        "FACM": af.FACM(),
        **compared(STEPS),
        "TransitionModel, exact": af.TransitionModel(derivative="exact"),
    }


def network(kind: str) -> tuple[af.DiT, int]:
    """A network with weights away from zero, and its batch."""
    torch.manual_seed(0)
    if kind == "digits":
        model, batch = af.DiT((1, 8, 8), patch=4, depth=4, width=128, heads=2, classes=10), 128
    else:
        model, batch = af.DiT((4, 32, 32), patch=2, depth=6, width=384, heads=6, classes=10), 8
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model, batch


def step(kind: str, objective: af.Objective) -> Callable[[], object]:
    """A training step, ready to run again and again."""
    model, batch = network(kind)
    parameters = [*model.parameters(), *(objective.network.parameters() if objective.network is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    x, labels = torch.randn(batch, *model.shape), torch.arange(batch) % 10
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        torch.autograd.backward(objective(model, x, af.Cond(labels=labels), 1000, generator).total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def price(rounds: int) -> None:
    """Times, prints, writes."""
    cpu = torch.device("cpu")
    pin(cpu)
    rows: dict[str, dict[str, list[float]]] = {}
    for kind in ("DiT", "digits"):
        works = {name: step(kind, objective) for name, objective in every().items()}
        found = interleaved(works, cpu, rounds, warm=2, times=1 if kind == "DiT" else 5)
        rows[kind] = {name: ratios(found, name, "FlowMatching") for name in works}
    table = Table("objective", "fm_share", *rows, title="a step ÷ flow matching's, median (middle half)")
    for name, objective in every().items():
        table.add_row(name, f"{objective.share(0):g}", *(spread(kind[name]) for kind in rows.values()))
    Console(width=100).print(table)
    write("objectives-price", cpu, prices=rows)


def train(name: str, seed: int, steps: int, out: Path) -> None:
    """Trains the digits with an objective; a run that is finished stays."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    made = replace(recipe(steps=steps), objective=compared(steps)[name])
    af.Trainer(made, out=out, seed=seed, resume=(out / "run.json").exists(), device="cpu", display=None).fit()


def job(name: str, seed: int, steps: int, runs: Path) -> dict[str, Any]:
    """One run in a process of its own, and its evaluation."""
    out = runs / f"{name.replace(', ', '-').replace(' ', '-')}-{steps}-{seed}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    evaluation = out / "evaluation.json"
    nfes = ",".join(map(str, NFES))
    for call in (
        [__file__, "--one", json.dumps([name, seed, steps, str(out)])],
        [
            "-m",
            "alphaflow",
            "evaluate",
            out,
            "--nfe",
            nfes,
            "--count",
            2000,
            "--seed",
            1000 + seed,
            "--json",
            evaluation,
        ],
    ):
        command = [sys.executable, *map(str, call)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
    seconds = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    print(f"{out.name}: {seconds:.0f} s", flush=True)
    rows = [row["values"] for row in json.loads(evaluation.read_text())["rows"]][: len(NFES)]
    return {"objective": name, "seed": seed, "steps": steps, "seconds": seconds, "rows": rows}


def digits(seeds: list[int], jobs: int, only: str | None, runs: Path) -> None:
    """Trains and evaluates what isn't yet, prints, writes."""
    prices = json.loads((RESULTS / "objectives-price.json").read_text())["prices"]["digits"]
    names = only.split(";") if only else list(compared(STEPS))
    todo = [
        (name, seed, steps)
        for seed in seeds
        for name in names
        for steps in (STEPS, round(STEPS / statistics.median(prices[name]) / 10) * 10)
        if steps < STEPS or "differences" not in name
    ]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda each: job(*each, runs), todo))
    place = RESULTS / "objectives-digits.json"
    if only:
        results += [each for each in json.loads(place.read_text())["results"] if each["objective"] not in names]
    table = Table("objective", "steps", "NFE", *METRICS, title="digits, 2,000 samples, mean ± deviation over seeds")
    for name, steps in dict.fromkeys((each["objective"], each["steps"]) for each in results):
        mine = [each["rows"] for each in results if (each["objective"], each["steps"]) == (name, steps)]
        for index, nfe in enumerate(NFES):
            cells = []
            for metric in METRICS:
                found = [rows[index][metric] for rows in mine]
                cells.append(f"{statistics.mean(found):.3f} ± {statistics.stdev(found) if len(found) > 1 else 0:.3f}")
            table.add_row(name, str(steps), str(nfe), *cells)
    Console(width=130).print(table)
    torch.set_num_threads(1)  # as every run has
    write("objectives-digits", torch.device("cpu"), results=results)


def main() -> None:
    """Does what it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["price", "digits"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="some objectives, with ; between; the others keep their results")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-objectives"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        name, seed, steps, out = json.loads(arguments.one)
        train(name, seed, steps, Path(out))
    elif arguments.what == "price":
        price(arguments.rounds)
    elif arguments.what == "digits":
        digits([int(seed) for seed in arguments.seeds.split(",")], arguments.jobs, arguments.only, arguments.runs)
    else:
        parser.error("price or digits?")


if __name__ == "__main__":
    main()
