"""How far samples drift in half precision: with samples kept in float32 between evaluations, and rounded at each step.

    python benchmarks/half_precision.py

A DiT of depth 4 and width 128 with random weights on 16 samples of 8×8 pixels, ODE steps; ‖a − b‖/‖b‖ against float32.
Writes benchmarks/results/half-precision.json.
"""

from __future__ import annotations

import copy
import itertools

import torch
from measure import write
from rich.console import Console
from rich.table import Table

import alphaflow as af


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = af.DiT((1, 8, 8), patch=4, depth=4, width=128, heads=2, classes=10).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    noise, cond = torch.randn(16, 1, 8, 8), af.Cond(labels=torch.arange(16) % 10)
    table, found = Table("type", "evaluations", "kept in float32", "rounded at each step"), []
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        for nfe in (1, 250):
            exact, kept = af.ODE(nfe)(model, noise, cond), af.ODE(nfe)(half, noise, cond)
            z, times = noise.to(dtype), torch.linspace(1, 0, nfe + 1).to(dtype)
            with torch.no_grad():
                for t, r in itertools.pairwise(times):
                    z = z - (t - r) * half(z, r.expand(16), t.expand(16), cond)
            errors = [float((x.float() - exact).norm() / exact.norm()) for x in (kept, z)]
            found.append({"type": str(dtype), "nfe": nfe, "kept": errors[0], "rounded": errors[1]})
            table.add_row(str(dtype)[6:], str(nfe), *(f"{error:.2%}" for error in errors))
    Console().print(table)
    write("half-precision", torch.device("cpu"), errors=found)


if __name__ == "__main__":
    main()
