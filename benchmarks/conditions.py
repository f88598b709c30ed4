"""What a step costs with each condition of a DiT ÷ without any, interleaved in one process.

    python benchmarks/conditions.py [--rounds 15] [--depth 4] [--width 384] [--batch 8]

256 tokens; a class; a vector of 512; 77 tokens of 768 features, as CLIP's text encoder gives them, by cross-attention;
an image. "tokens in context" is what it would cost to take 77 more tokens in among the sample's own, without a mask:
the step of a network with 333 tokens. Loss and gradient, without the optimiser. Writes
benchmarks/results/conditions.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, pin, ratios, spread, write
from rich.console import Console
from rich.table import Table

import alphaflow as af

N, TEXT, FEATURES, VECTOR = 256, 77, 768, 512
OBJECTIVES = {"flow matching": af.FlowMatching(), "MeanFlow": af.MeanFlow(fm_share=0.5)}


def cases(b: int, device: torch.device) -> dict[str, tuple[int, dict[str, int], af.Cond]]:
    """Tokens of the sample, the network's options, and the condition."""
    mask = torch.arange(TEXT, device=device) < torch.linspace(8, TEXT, b, device=device).long()[:, None]
    tokens = torch.randn(b, TEXT, FEATURES, device=device)
    return {
        "none": (N, {}, af.Cond()),
        "class": (N, {"classes": 1000}, af.Cond(labels=torch.arange(b, device=device))),
        "vector": (N, {"vector": VECTOR}, af.Cond(vector=torch.randn(b, VECTOR, device=device))),
        "tokens": (N, {"tokens": FEATURES}, af.Cond(tokens=tokens, mask=mask)),
        "image": (N, {"image": 4}, af.Cond(image=torch.randn(b, 4, 2 * N, device=device))),
        "tokens in context": (N + TEXT, {}, af.Cond()),
    }


def step(objective: af.Objective, case: Any, settings: Any, device: torch.device) -> Callable[[], None]:
    """Loss and gradient of one batch."""
    n, options, cond = case
    torch.manual_seed(0)
    sizes = {"patch": 2, "depth": settings.depth, "width": settings.width, "heads": settings.width // 64}
    model = af.DiT((4, 2 * n), **sizes, **options).to(device)
    x, generator = torch.randn(settings.batch, 4, 2 * n, device=device), torch.Generator(device).manual_seed(0)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(objective(model, x, cond, 0, generator).total)

    return run


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch", type=int, default=8)
    settings = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pin(device)
    table, rows = Table("objective", "condition", "÷ none", title="a step with a condition ÷ without"), []
    for name, objective in OBJECTIVES.items():
        works = {kind: step(objective, case, settings, device) for kind, case in cases(settings.batch, device).items()}
        found = interleaved(works, device, settings.rounds)
        for kind in works:
            against = ratios(found, kind, "none")
            rows.append({"objective": name, "condition": kind, "ratios": against, "seconds": sorted(found[kind])})
            if kind != "none":
                table.add_row(name, kind, spread(against))
    Console(width=100).print(table)
    kind = "conditions-gpu" if device.type == "cuda" else "conditions"
    write(kind, device, settings=vars(settings), tokens={"sample": N, "text": TEXT}, rows=rows)


if __name__ == "__main__":
    main()
