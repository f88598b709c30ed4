"""Images a second from a network at 1, 2 and 4 evaluations each.

    python benchmarks/sample.py [--size S] [--batch 8]
    python benchmarks/sample.py --device cuda --size XL --batch 256 --precision bf16 --compile

Latents 4×32×32, ODE steps, without the autoencoder; random weights, which cost what trained ones do. Writes
benchmarks/results/sample.json (sample-SIZE.json on a GPU).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext

import torch
from measure import interleaved, pin, spread, write
from rich.console import Console
from rich.table import Table

import alphaflow as af


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["S", "B", "L", "XL"], default="S")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pin(device)
    torch.manual_seed(0)
    model: af.DiT = getattr(af.DiT, arguments.size)((4, 32, 32), patch=2, classes=1000)
    model.to(device).requires_grad_(False)
    if arguments.compile:
        model.compile()
    noise = torch.randn(arguments.batch, *model.shape, device=device)
    cond = af.Cond(labels=torch.arange(arguments.batch, device=device) % 1000)
    half = arguments.precision == "bf16"

    def drawn(nfe: int) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
                af.ODE(nfe)(model, noise, cond)

        return run

    found = interleaved({str(nfe): drawn(nfe) for nfe in (1, 2, 4)}, device, arguments.rounds, warm=2)
    rates = {nfe: [arguments.batch / taken for taken in seconds] for nfe, seconds in found.items()}
    table = Table("NFE", "images/s", title=f"DiT-{arguments.size}/2, batches of {arguments.batch}")
    for nfe, rate in rates.items():
        table.add_row(nfe, spread(rate))
    Console().print(table)
    medians = {nfe: statistics.median(rate) for nfe, rate in rates.items()}
    name = f"sample-{arguments.size}" if device.type == "cuda" else "sample"
    write(name, device, settings=vars(arguments), medians=medians, rates=rates)


if __name__ == "__main__":
    main()
