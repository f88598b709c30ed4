"""What a training step costs: each phase ÷ flow matching's step, against two usual ways to write MeanFlow.

    python benchmarks/step.py [--rounds 9] [--depth 6] [--width 384] [--batch 8]
    python benchmarks/step.py --device cuda --size B --precision bf16 --compile --batch 128

A step is loss, backward pass and AdamW. On a CPU: one pinned thread, process time. All in one run, interleaved; medians
and the middle half. Memory: how much more a step holds at most than before it; on a CPU a fresh process each. The
yardsticks are in benchmarks/plain.py. Writes benchmarks/results/step.json (step-SIZE.json on a GPU).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from measure import interleaved, peak_bytes, pin, ratios, spread, write
from plain import PlainDiT, flow_matching, one_jvp, subset, whole_batch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import alphaflow as af
from alphaflow.training.flops import count_flops, peak_flops

CLASSES = 1000
GUIDED = af.Guidance(omega=1.0, kappa=0.5)
OURS: dict[str, af.Objective] = {
    "flow matching": af.FlowMatching(),
    "α = 0, 0.75": af.MeanFlow(fm_share=0.75),
    "α = 0, 0.5": af.MeanFlow(fm_share=0.5),
    "α = 0, 0.25": af.MeanFlow(fm_share=0.25),
    "α = 0, 0.75, guidance": af.MeanFlow(fm_share=0.75, guidance=GUIDED),
    "α = 0, 0.5, guidance": af.MeanFlow(fm_share=0.5, guidance=GUIDED),
    "0 < α < 1, 0.5": af.AlphaFlow(alpha=0.5, fm_share=0.5),
    "0 < α < 1, 0.5, guidance": af.AlphaFlow(alpha=0.5, fm_share=0.5, guidance=GUIDED),
}
PLAIN: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "bare flow matching": (flow_matching, False),
    "(a) 0.75": (partial(whole_batch, share=0.75), False),
    "(a) 0.75, guidance": (partial(whole_batch, share=0.75, kappa=0.5, none=CLASSES), False),
    "(b) 0.5": (partial(subset, share=0.5), True),
    "(c) 0.75": (partial(one_jvp, share=0.75), False),
}
GOALS = {
    "α = 0, 0.75": "≤ 1.10", "α = 0, 0.5": "≤ 1.20", "α = 0, 0.25": "≤ 1.30", "α = 0, 0.5, guidance": "≤ 1.50",
    "0 < α < 1, 0.5": "≤ 1.14",
}  # fmt: skip
AGAINST = [
    ("(a) 0.75", "α = 0, 0.75", "≥ 1.9"),
    ("(a) 0.75, guidance", "α = 0, 0.75, guidance", "≥ 1.8"),
    ("(b) 0.5", "α = 0, 0.5", "≥ 1.35"),
    ("(c) 0.75", "α = 0, 0.75", ""),
    ("flow matching", "bare flow matching", "≤ 1.02"),
]


def network(arguments: argparse.Namespace, device: torch.device) -> af.DiT:
    """With weights away from zero, so that no product is one with zeros."""
    torch.manual_seed(0)
    shape = (4, arguments.pixels, arguments.pixels)
    if arguments.size:
        model: af.DiT = getattr(af.DiT, arguments.size)(shape, patch=2, classes=CLASSES)
    else:
        width, heads = arguments.width, arguments.width // 64
        model = af.DiT(shape, patch=2, depth=arguments.depth, width=width, heads=heads, classes=CLASSES)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to(device)


def made(name: str, arguments: argparse.Namespace) -> tuple[Any, torch.optim.Optimizer]:
    """The network of a step, and its optimiser."""
    device = torch.device(arguments.device)
    model: Any = network(arguments, device)
    if name in PLAIN:
        model = PlainDiT(model, PLAIN[name][1]).to(device)
    if arguments.compile:
        model.compile()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def step(
    name: str, arguments: argparse.Namespace, using: tuple[Any, torch.optim.Optimizer] | None = None
) -> Callable[[], object]:
    """A training step by its name, ready to run again and again; ``using`` a shared network, or its own."""
    device, batch = torch.device(arguments.device), arguments.batch
    model, optimizer = using or made(name, arguments)
    x = torch.randn(batch, 4, arguments.pixels, arguments.pixels, device=device)
    labels = torch.arange(batch, device=device) % CLASSES
    generator = torch.Generator(device).manual_seed(0)
    work: Callable[[], Tensor]
    if name in OURS:
        objective = OURS[name]

        def work() -> Tensor:
            return objective(model, x, af.Cond(labels=labels), 0, generator).total

    else:
        loss, _ = PLAIN[name]

        def work() -> Tensor:
            return loss(model, x, labels)

    half = arguments.precision == "bf16"

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            total = work()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def memory(arguments: argparse.Namespace) -> None:
    """Prints the bytes that a step needs beside weights and optimiser state. In a process of its own."""
    device = torch.device(arguments.device)
    run = step(arguments.peak, arguments)
    run()  # the optimiser's state, and what libraries allocate once
    print(json.dumps(peak_bytes(run, device)))


def peaks(names: list[str]) -> dict[str, int]:
    """Memory of each step, a fresh process each; gaps in the heap don't count, what is freed goes back at once."""
    found, environment = {}, {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    for name in names:
        call = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[name] = int(done.stdout.splitlines()[-1])
    return found


def show(
    found: dict[str, list[float]], memories: dict[str, int], utilisation: dict[str, float]
) -> list[dict[str, Any]]:
    """Prints the tables; returns their rows."""
    unit = "flow matching"
    head = ("seconds", "÷ flow matching", "fastest ÷ its", "goal", "memory ÷ its")
    table = Table("step", *head, *(["MFU"] if utilisation else []))
    rows: list[dict[str, Any]] = []
    for name in found:
        share = ratios(found, name, unit)
        more, fastest = memories[name] / memories[unit], min(found[name]) / min(found[unit])
        middle = sorted(found[name])[len(found[name]) // 2]
        used = [f"{utilisation[name]:.0%}"] if name in utilisation else [""] if utilisation else []
        table.add_row(name, f"{middle:.4g}", spread(share), f"{fastest:.2f}", GOALS.get(name, ""), f"{more:.2f}", *used)
        rows.append(
            {
                "step": name,
                "seconds": middle,
                "ratios": share,
                "fastest": fastest,
                "bytes": memories[name],
                "mfu": utilisation.get(name),
            }
        )
    console = Console()
    console.print(table)
    against = Table("", "÷", "ratio", "of the fastest", "goal")
    for one, other, goal in AGAINST:
        if one in found and other in found:
            share = ratios(found, one, other)
            fastest = min(found[one]) / min(found[other])
            against.add_row(one, other, spread(share), f"{fastest:.2f}", goal)
            rows.append({"step": one, "unit": other, "ratios": share, "fastest": fastest, "goal": goal})
    console.print(against)
    return rows


def main() -> None:
    """Measures, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--pixels", type=int, default=32, help="rows of a latent; a quarter of its square are tokens")
    parser.add_argument(
        "--size", choices=["S", "B", "L", "XL"], help="a published network, in place of depth and width"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pin(device)
    if arguments.peak:
        memory(arguments)
        return
    names = list(OURS) if arguments.only_ours else [*OURS, *PLAIN]
    gpu, peak = device.type == "cuda", peak_flops(device, arguments.precision)
    utilisation: dict[str, float] = {}
    shared = None
    if gpu:  # which holds one network and optimiser of our own, not one a step
        shared = made("", argparse.Namespace(**{**vars(arguments), "compile": False}))
        operations = {name: count_flops(step(name, arguments, shared)) for name in OURS}
        if arguments.compile:
            shared[0].compile()
    memories = {} if gpu else peaks(names)
    works = {name: step(name, arguments, shared if name in OURS else None) for name in names}
    found = interleaved(works, device, arguments.rounds, warm=3 if arguments.compile else 1)
    if gpu:
        memories = {name: peak_bytes(work, device) for name, work in works.items()}
    if peak is not None:
        utilisation = {name: operations[name] / sorted(found[name])[len(found[name]) // 2] / peak for name in OURS}
    rows = show(found, memories, utilisation)
    settings = {key: value for key, value in vars(arguments).items() if key != "peak"}
    write(f"step-{arguments.size}" if device.type == "cuda" else "step", device, settings=settings, rows=rows)


if __name__ == "__main__":
    main()
