"""Digits from 4×4 to 8×8: by α-Flow from the image and from noise, flow matching in many steps, a regression, bicubic.

    python benchmarks/upscale.py [--seeds 0,1,2] [--jobs 2] [--runs FOLDER] [--picture docs/upscale-digits.png]

Trains recipes/upscale_digits.py by the command line, one thread a run, and restores the 297 digits that were held out,
each once: the peak signal-to-noise ratio against the truth, and the sliced Wasserstein distance between restored and
true digits, × 1000. The regression is the same network, trained towards the mean: one evaluation, mean squared error.
Writes benchmarks/results/upscale.json. Runs that are finished in --runs already are not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from digits import alphaflow
from measure import write
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import alphaflow as af
from alphaflow.media.grids import grid, save_picture
from alphaflow.pixel_values import to_bytes

KINDS: dict[str, tuple[dict[str, str], tuple[int, ...]]] = {
    "α-Flow from the image": ({"method": "alpha-flow", "start": "image"}, (1, 2, 4)),
    "α-Flow from noise": ({"method": "alpha-flow", "start": "noise"}, (1, 2, 4)),
    "flow matching from the image": ({"method": "flow-matching", "start": "image"}, (1, 2, 4, 64)),
    "flow matching from noise": ({"method": "flow-matching", "start": "noise"}, (1, 2, 4, 64)),
}
TRAINED = 1500
"""The recipe trains on so many digits; the others are held out."""

REGRESSION = "regression of the mean"


def pairs() -> tuple[Tensor, Tensor]:
    """All digits (1797, 1, 8, 8), and as the recipe makes small ones of them."""
    x = af.Digits().all().x
    return x, F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bicubic").clamp(-1, 1)


def regressed(seed: int) -> Tensor:
    """The held-out digits by a network of the recipe's that was trained towards the mean."""
    torch.manual_seed(seed)
    recipe = af.find_recipe("upscale-digits")()

    def predicted(model: Any, cond: af.Cond) -> Tensor:
        start, zero = cond.image, torch.zeros(len(cond.image))
        found: Tensor = start - model(start, zero, torch.ones_like(zero), cond)
        return found

    def loss(model: Any, x: Tensor, cond: af.Cond, step: int, generator: torch.Generator) -> af.Loss:
        error = (predicted(model, cond) - x).square().flatten(1).mean(1)
        return af.Loss(error.mean(), error, {"mse": error.detach()})

    options = {name: getattr(recipe, name) for name in ("model", "dataset", "steps", "lr", "ema")}
    trainer = af.Trainer(af.Recipe(objective=loss, samplers=(), **options), seed=seed)
    trainer.fit()
    with torch.no_grad():
        return predicted(trainer.ema.model.eval(), af.Cond(image=pairs()[1][TRAINED:]))


def restored(place: Path, nfe: int, seed: int) -> Tensor:
    """The held-out digits by a run, at a number of network evaluations."""
    run = af.Run(place)
    return run.sample(cond=af.Cond(image=pairs()[1][TRAINED:]), nfe=nfe, seed=seed, dtype=torch.float32)


def figures(found: Tensor) -> dict[str, float]:
    """PSNR in dB and sliced Wasserstein distance × 1000 of restored digits, in [-1, 1]."""
    truth = pairs()[0][TRAINED:]
    error = (found.clamp(-1, 1) - truth).square().flatten(1).mean(1)
    distance = af.metrics.sliced_wasserstein(found.clamp(-1, 1).flatten(1), truth.flatten(1))
    return {"psnr": float((10 * torch.log10(4 / error)).mean()), "distance": 1000 * distance}


def of_seed(seed: int, runs: Path) -> list[dict[str, Any]]:
    """A row a method and number of evaluations."""
    torch.set_num_threads(1)
    found = [{"method": REGRESSION, "nfe": 1, "seed": seed, **figures(regressed(seed))}]
    for name, (options, nfes) in KINDS.items():
        place = runs / f"{'-'.join(options.values())}-{seed}"
        flags = [word for option, value in options.items() for word in (f"--{option}", value)]
        alphaflow("train", "upscale-digits", *flags, "--seed", seed, "--out", place, "--resume")
        found += [{"method": name, "nfe": nfe, "seed": seed, **figures(restored(place, nfe, seed))} for nfe in nfes]
        print(place.name, flush=True)
    return found


def draw(runs: Path, seed: int, file: Path) -> None:
    """Columns: small, bicubic, regression, α-Flow from the image at 1 and 4 NFE (two draws of 1), truth."""
    x, image = (part[TRAINED : TRAINED + 12] for part in pairs())
    place = runs / f"alpha-flow-image-{seed}"
    small = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
    made = [restored(place, nfe, draw)[:12] for nfe, draw in ((1, seed), (1, seed + 1), (4, seed))]
    columns = [small, image, regressed(seed)[:12], *made, x]
    sheet = torch.stack(columns, 1).flatten(0, 1)
    save_picture(grid(to_bytes(sheet), len(columns)), file)


def main() -> None:
    """Trains and measures what isn't yet, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "upscale")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    truth, image = (part[TRAINED:] for part in pairs())
    rows: list[dict[str, Any]] = [{"method": "bicubic", "nfe": 0, "seed": None, **figures(image)}]
    rows += [{"method": "held-out against trained digits", "nfe": 0, "seed": None, **floor(truth)}]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += [row for found in pool.map(lambda seed: of_seed(seed, arguments.runs), seeds) for row in found]
    table = Table("method", "NFE", "PSNR, dB", "distance × 1000", title="297 digits that were held out")
    for name, nfe in dict.fromkeys((row["method"], row["nfe"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["nfe"]) == (name, nfe)]
        cells = [spread([row[key] for row in mine if key in row]) for key in ("psnr", "distance")]
        table.add_row(name, str(nfe or "–"), *cells)
    Console(width=100).print(table)
    write("upscale", torch.device("cpu"), rows=rows)
    if arguments.picture is not None:
        draw(arguments.runs, seeds[0], arguments.picture)


def floor(truth: Tensor) -> dict[str, float]:
    """How far real digits are from other real ones."""
    others = pairs()[0][: len(truth)]
    return {"distance": 1000 * af.metrics.sliced_wasserstein(others.flatten(1), truth.flatten(1))}


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the value alone if there is one; a dash if there is none."""
    if not values:
        return "–"
    more = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{more}"


if __name__ == "__main__":
    main()
