"""Strokes of a pen, sequences of eight points: distances from the real ones at 1, 2 and 4 evaluations.

    python benchmarks/pen.py [--seed 0] [--run FOLDER] [--picture docs/pen-digits.png]

Trains recipes/pen_digits.py by the command line, on one thread, and compares 5,000 strokes, every class equally often,
with as many real ones: the sliced Wasserstein distance × 1000, the share whose neighbours among the real ones have the
class that was asked for; beside both those of other 5,000 real strokes. Writes benchmarks/results/pen.json. A run that
is finished already is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from digits import alphaflow
from measure import write
from rich.console import Console
from rich.table import Table
from torch import Tensor

import alphaflow as af

NFES, COUNT = (1, 2, 4), 5000


def against_real(x: Tensor, labels: Tensor, nfe: int | None) -> dict[str, Any]:
    """Figures of strokes (n, 2, 8) of these classes."""
    real = af.PenDigits().all()[torch.randperm(10_992, generator=torch.Generator().manual_seed(0))[:COUNT]]
    assert real.cond.labels is not None
    distance = 1000 * af.metrics.sliced_wasserstein(x.flatten(1), real.x.flatten(1))
    agreement = af.metrics.label_agreement(real.x.flatten(1), real.cond.labels, x.flatten(1), labels)
    return {"nfe": nfe, "distance": distance, "agreement": agreement}


def draw(runs: dict[int, Tensor], file: Path) -> None:
    """A row each: real strokes, and made ones; a column a class; from light to dark along the stroke."""
    from matplotlib.figure import Figure

    real = af.PenDigits().all()
    assert real.cond.labels is not None
    first = torch.stack([real.x[real.cond.labels == digit][0] for digit in range(10)])
    rows = {"real": first, **{f"{nfe} NFE": x[:10] for nfe, x in runs.items()}}
    figure = Figure(figsize=(10, 1.15 * len(rows)), layout="constrained")
    for axes, (name, strokes) in zip(figure.subplots(len(rows), 10), rows.items(), strict=True):
        axes[0].set_ylabel(name, fontsize=10)
        for axis, (x, y) in zip(axes, strokes, strict=True):
            axis.plot(x, y, color="0.6", linewidth=1.5)
            axis.scatter(x, y, c=range(8), cmap="viridis_r", s=14, zorder=2)
            axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    figure.savefig(file, dpi=100)


def main() -> None:
    """Trains what isn't yet, measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("runs") / "pen-digits")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    alphaflow("train", "pen-digits", "--seed", arguments.seed, "--out", arguments.run, "--resume")
    run, labels = af.Run(arguments.run), torch.arange(COUNT) % 10
    strokes = {nfe: run.sample(COUNT, nfe, labels=labels, seed=arguments.seed) for nfe in NFES}
    rows = [against_real(x, labels, nfe) for nfe, x in strokes.items()]
    other = af.PenDigits().all()[torch.randperm(10_992, generator=torch.Generator().manual_seed(0))[-COUNT:]]
    assert other.cond.labels is not None
    rows.append(against_real(other.x, other.cond.labels, None))
    table = Table("NFE", "distance × 1000", "agreement", title=f"{COUNT} strokes against real ones")
    for row in rows:
        table.add_row(str(row["nfe"] or "real"), f"{row['distance']:.1f}", f"{row['agreement']:.3f}")
    Console(width=100).print(table)
    write("pen", torch.device("cpu"), seed=arguments.seed, count=COUNT, rows=rows)
    if arguments.picture is not None:
        draw(strokes, arguments.picture)


if __name__ == "__main__":
    main()
