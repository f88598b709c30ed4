"""What a step on clips costs as their tokens grow: flow matching, the two-point phase, the JVP phase; memory, too.

    python benchmarks/video.py [--rounds 3] [--depth 6] [--width 384]
    python benchmarks/video.py --device cuda --width 768 --depth 12 --precision bf16 --compile --rounds 9

Latents (4, f, h, w), patches (1, 2, 2), batch 1, whose one sample is few-step: flow matching's share hides no cost.
A step is loss, backward pass and AdamW. On a CPU: one pinned thread, process time; all steps of a size in one run,
interleaved; medians. Memory: how much more a step holds at most than before it, a fresh process each. Writes
benchmarks/results/video.json (video-gpu.json on a GPU).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from measure import interleaved, peak_bytes, pin, ratios, spread, write
from rich.console import Console
from rich.table import Table

import alphaflow as af

SHAPES = {256: (4, 4, 16, 16), 1024: (4, 16, 16, 16), 4352: (4, 17, 32, 32)}
STEPS: dict[str, tuple[af.Objective, bool]] = {
    "flow matching": (af.FlowMatching(), False),
    "two-point (0 < α < 1)": (af.AlphaFlow(alpha=0.5, fm_share=0.0), False),
    "JVP (α = 0)": (af.MeanFlow(fm_share=0.0), False),
    "flow matching, factorised": (af.FlowMatching(), True),
    "JVP (α = 0), factorised": (af.MeanFlow(fm_share=0.0), True),
}
GOAL = {("JVP (α = 0)", 4352): 1.15}


def step(name: str, tokens: int, arguments: argparse.Namespace) -> Callable[[], object]:
    """A training step, ready to run again and again."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    objective, factorised = STEPS[name]
    shape, heads = SHAPES[tokens], arguments.width // 64
    options: dict[str, Any] = {"depth": arguments.depth, "width": arguments.width, "heads": heads}
    model = af.DiT(shape, patch=(1, 2, 2), classes=700, factorised=factorised, **options)
    for parameter in model.parameters():  # no product with zeros
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model = model.to(device)
    assert math.prod(model.grid) == tokens
    if arguments.compile:
        model.compile()
    x, cond = torch.randn(1, *shape, device=device), af.Cond(labels=torch.zeros(1, dtype=torch.long, device=device))
    generator = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    half = arguments.precision == "bf16"

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            total = objective(model, x, cond, 0, generator).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def peak(name: str, tokens: int) -> int:
    """Bytes of a step beside weights and optimiser state, in a fresh process."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    call = [sys.executable, __file__, *sys.argv[1:], "--peak", name, "--tokens", str(tokens)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pin(device)
    if arguments.peak:
        run = step(arguments.peak, arguments.tokens, arguments)
        run()  # the optimiser's state, and what libraries allocate once
        print(json.dumps(peak_bytes(run, device)))
        return
    table = Table("tokens", "step", "seconds", "steps/s", "÷ flow matching", "memory, MiB", "÷ its", "goal")
    rows: list[dict[str, Any]] = []
    for tokens in SHAPES:
        works = {name: step(name, tokens, arguments) for name in STEPS}
        rounds = max(arguments.rounds, 2) * (4 if tokens < 4352 else 1)
        found = interleaved(works, device, rounds, warm=3 if arguments.compile else 1)
        memories = {
            name: peak_bytes(work, device) if device.type == "cuda" else peak(name, tokens)
            for name, work in works.items()
        }
        for name in STEPS:
            seconds, share = median(found[name]), ratios(found, name, "flow matching")
            more = memories[name] / memories["flow matching"]
            goal = GOAL.get((name, tokens))
            table.add_row(
                str(tokens), name, f"{seconds:.4g}", f"{1 / seconds:.3g}", spread(share),
                f"{memories[name] / 2**20:,.0f}", f"{more:.3f}", f"≤ {goal}" if goal else "",
            )  # fmt: skip
            rows.append({"tokens": tokens, "step": name, "seconds": seconds, "ratio": median(share),
                         "bytes": memories[name], "memory_ratio": more})  # fmt: skip
    Console(width=130).print(table)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("peak", "tokens")}
    write("video-gpu" if device.type == "cuda" else "video", device, settings=settings, rows=rows)


if __name__ == "__main__":
    main()
