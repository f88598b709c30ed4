"""Every objective on a 2-D checkerboard: a small MLP, equal steps, three seeds; sliced Wasserstein distances.

    python benchmarks/checkerboard.py [--seeds 0,1,2] [--steps 6000] [--jobs 2] [--only "MeanFlow;MeanFlow, OT"]

The network knows nothing of images: it takes points (b, 2). Each objective has its defaults but for what `objectives`
lists; "OT" couples noise and points by minibatch optimal transport; "teacher" starts from a network trained by flow
matching for as many steps, whose velocity it learns from. Squared errors are weighted by `InverseAlphaWeighting` where
an objective has a choice: `AdaptiveWeighting` weights a sample by its own error, which in two dimensions pulls the
regression away from the mean. Prints distances after 1, 2 and 8 network evaluations, mean ± standard deviation over
seeds, beside the distance of two sets of real points, and writes benchmarks/results/checkerboard.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import alphaflow as af

NFES = (1, 2, 8)
POINTS = 20_000


def objectives(steps: int) -> dict[str, af.Objective]:
    """What is compared. Warm-ups and curricula are told the number of steps."""
    plain = af.InverseAlphaWeighting()
    return {
        "FlowMatching": af.FlowMatching(weighting=plain),
        "FlowMatching, OT": af.FlowMatching(weighting=plain, coupling=af.OptimalTransport()),
        "TrajectoryFlowMatching": af.TrajectoryFlowMatching(weighting=plain),
        "AlphaFlow": af.AlphaFlow(alpha=af.Sigmoid(end=steps), weighting=plain),
        "MeanFlow": af.MeanFlow(weighting=plain),
        "MeanFlow, OT": af.MeanFlow(weighting=plain, coupling=af.OptimalTransport()),
        "ImprovedMeanFlow": af.ImprovedMeanFlow(weighting=plain),
        "Shortcut": af.Shortcut(weighting=plain),
        "Shortcut, dyadic": af.Shortcut(times=af.DyadicPairs(128), ema_target=True, weighting=af.UniformWeighting()),
        "SplitMeanFlow": af.SplitMeanFlow(weighting=plain),
        "ConsistencyTraining": af.ConsistencyTraining(intervals=af.DoublingIntervals(end=steps)),
        "ContinuousConsistency": af.ContinuousConsistency(warmup=steps // 4),
        "FACM": af.FACM(),
        "MeanFlow, direction 0.5": af.MeanFlow(weighting=plain, direction=0.5),
        "MeanFlow, balanced": af.MeanFlow(weighting=plain, balance=True),
        "Lagrangian": af.Lagrangian(),
        "TerminalVelocity": af.TerminalVelocity(),
        "TerminalVelocity, averaged targets": af.TerminalVelocity(ema_target=True),
        "AlignYourFlow": af.AlignYourFlow(warmup=steps // 4),
        "AlignYourFlow, teacher": af.AlignYourFlow(warmup=steps // 4),
        "TransitionModel": af.TransitionModel(),
        "DecoupledMeanFlow": af.DecoupledMeanFlow(),
        "SoFlow": af.SoFlow(alpha=af.Exponential(end=steps, first=0.1, last=0.002, clamp=0.0)),
    }


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """Points (n, 2) of the dark squares of a 4 × 4 board on [-2, 2]², scaled to unit variance."""
    x = 4 * torch.rand(n, generator=generator) - 2
    row = torch.randint(2, (n,), generator=generator) * 2 - 2 + x.floor() % 2
    y = row + torch.rand(n, generator=generator)
    return torch.stack([x, y], dim=1) / (4 / 3) ** 0.5


class MLP(nn.Module):
    """u(z, r, t) of points: three hidden layers; times as sines and cosines."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 4 * 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        angles = torch.stack([t, t - r], dim=1)[:, :, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
        waves = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
        out: Tensor = self.layers(torch.cat([z, waves], dim=1))
        return out


def sampler(name: str, nfe: int) -> Any:
    """How each method is sampled: what knows r = t only by Euler steps, jumps to the data by consistency sampling."""
    if name.startswith("FlowMatching"):
        return af.ODE(nfe, solver="euler")
    if name in ("ConsistencyTraining", "ContinuousConsistency", "FACM"):
        return af.Consistency(nfe)
    return af.ODE(nfe)


def trained(objective: af.Objective, model: nn.Module, generator: torch.Generator, steps: int, batch: int) -> Any:
    """The average of a network's weights after training."""
    ema = af.EMA(model, 0.999)
    parameters = [*model.parameters(), *(objective.network.parameters() if objective.network is not None else ())]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    averaged: dict[str, Any] = {"ema": ema.model} if objective.ema_target else {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 2 * (1 - step / steps))
        loss = objective(model, checkerboard(batch, generator), None, step, generator, **averaged)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        optimizer.step()
        ema.update()
    return ema.model


def run(name: str, seed: int, steps: int, batch: int = 256) -> dict[str, Any]:
    """Trains one objective with one seed; its distances by NFE."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    objective, model = objectives(steps)[name], MLP()
    if name.endswith("teacher"):
        flow = objectives(steps)["FlowMatching"]
        teacher = trained(flow, model, torch.Generator().manual_seed(100 + seed), steps, batch)
        model.load_state_dict(teacher.state_dict())
        objective = replace(objective, teacher=teacher)
    network = trained(objective, model, generator, steps, batch)
    fresh = torch.Generator().manual_seed(1000 + seed)
    real, noise = checkerboard(POINTS, fresh), torch.randn(POINTS, 2, generator=fresh)
    distances = {
        str(nfe): af.metrics.sliced_wasserstein(sampler(name, nfe)(network, noise, None, fresh), real) for nfe in NFES
    }
    floor = af.metrics.sliced_wasserstein(checkerboard(POINTS, fresh), real)
    return {"objective": name, "seed": seed, "distances": distances, "floor": floor}


def in_a_process(name: str, seed: int, steps: int) -> dict[str, Any]:
    call = [sys.executable, __file__, "--one", json.dumps([name, seed, steps])]
    done = subprocess.run(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    print(done.stdout.strip(), flush=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def show(results: list[dict[str, Any]], steps: int) -> None:
    table = Table("objective", *(f"{nfe} NFE" for nfe in NFES), title=f"sliced Wasserstein × 1000, {steps} steps")

    def cell(values: list[float]) -> str:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{1000 * statistics.mean(values):.1f} ± {1000 * spread:.1f}"

    for name in dict.fromkeys(result["objective"] for result in results):
        mine = [result for result in results if result["objective"] == name]
        cells = [cell([result["distances"][str(nfe)] for result in mine]) for nfe in NFES]
        table.add_row(name, *cells)
    table.add_row("real against real", cell([result["floor"] for result in results]), "", "")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="some objectives, with ; between; the others keep their results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(run(*json.loads(arguments.one))))
        return
    every = list(objectives(arguments.steps))
    names = arguments.only.split(";") if arguments.only else every
    todo = [(name, int(seed), arguments.steps) for seed in arguments.seeds.split(",") for name in names]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda job: in_a_process(*job), todo))
    out = Path(__file__).parent / "results" / "checkerboard.json"
    if arguments.only:
        kept = json.loads(out.read_text())["results"]
        results += [result for result in kept if result["objective"] not in names]
    results.sort(key=lambda result: every.index(result["objective"]))
    show(results, arguments.steps)
    record = {"date": date.today().isoformat(), "torch": torch.__version__, "device": "CPU, one thread a run"}
    out.write_text(json.dumps({**record, "steps": arguments.steps, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
