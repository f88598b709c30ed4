"""What the Trainer costs: its step ÷ a bare loop's, interleaved in one process, medians.

    python benchmarks/overhead.py [--rounds 25] [--steps 4]

Model and objective are the digits recipe's, with four times its parameters (twice the width). The bare loop does the
same mathematics and nothing else: next batch, loss, backward, Adam, EMA. Writes benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import alphaflow as af
from alphaflow.version import versions

PHASES = {"flow matching (α = 1)": 1.0, "two-point (α = 0.5)": 0.5, "MeanFlow (α = 0)": 0.0}


def make(alpha: float) -> af.Recipe:
    """The digits recipe at a constant α, with four times its parameters."""
    torch.manual_seed(0)
    recipe = af.find_recipe("digits")()
    config = recipe.model.config
    model = af.DiT(**{**config, "width": 2 * config["width"]})
    objective = dataclasses.replace(recipe.objective, alpha=alpha)
    return af.Recipe(
        model=model, objective=objective, dataset=recipe.dataset, samplers=(), steps=10**9, lr=1e-3, ema=0.999
    )


def bare(recipe: af.Recipe) -> Callable[[], None]:
    """The same mathematics as the Trainer's step, and nothing else."""
    model, objective, stream = recipe.model, recipe.objective, iter(recipe.dataset)
    parameters = list(model.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(0)
    step = 0

    def run() -> None:
        nonlocal step
        batch = next(stream)
        loss = objective(model, batch.x, batch.cond, step, generator)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-3)
        step += 1

    return run


def trainer(recipe: af.Recipe, out: Path) -> Callable[[], None]:
    """The whole loop of Trainer.fit, a step at a time: meter, logs, and all."""
    made = af.Trainer(recipe, out=out, log_every=50)

    def run() -> None:
        made.train_step()
        made.display.advance()
        if made.step % made.log_every == 0:
            made.report.row(made.step, {})

    return run


def timed(run: Callable[[], None], steps: int) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    for _ in range(steps):
        run()
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    arguments = parser.parse_args()

    table = Table("phase", "bare ms", "Trainer ms", "ratio", "ratios min … max")
    rows = []
    for name, alpha in PHASES.items():
        with tempfile.TemporaryDirectory() as folder:
            recipe = make(alpha)
            loops = {"bare": bare(copy.deepcopy(recipe)), "trainer": trainer(recipe, Path(folder) / "run")}
            for loop in loops.values():
                timed(loop, 3)
            rounds: list[dict[str, float]] = []
            for index in range(arguments.rounds):
                order = list(loops) if index % 2 else list(loops)[::-1]
                times = {key: timed(loops[key], arguments.steps) for key in order}
                rounds.append(times)
        ratios = [times["trainer"] / times["bare"] for times in rounds]
        medians = {key: statistics.median(times[key] for times in rounds) * 1e3 for key in loops}
        rows.append({"phase": name, **medians, "ratio": statistics.median(ratios), "ratios": sorted(ratios)})
        figures = (f"{medians['bare']:.1f}", f"{medians['trainer']:.1f}", f"{statistics.median(ratios):.3f}")
        table.add_row(name, *figures, f"{min(ratios):.3f} … {max(ratios):.3f}")
    Console().print(table)
    result = {
        "date": date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / "overhead.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
