"""The tangent of attention: its error against float64, and its time against the fused forward pass.

    python benchmarks/attention.py
    python benchmarks/attention.py --device cuda

Against: forward-mode AD through PyTorch's plain attention, which computes the values again and holds all of the
(tokens × tokens) matrices. On a GPU, bf16: also the kernel's time ÷ its floor, the larger of what its five matrix
products and what its bytes take on this card. Writes benchmarks/results/attention.json (attention-gpu.json).
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from measure import interleaved, pin, ratios, spread, write
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphaflow.derivatives import _load_rules
from alphaflow.tangents import Dual, attention
from alphaflow.training.flops import peak_flops

BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12}
"""Bytes a second, from NVIDIA's data sheets (SXM parts)."""


def example(b: int, heads: int, tokens: int, d: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and their tangents, laid out as a network has them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(2):
        made += torch.randn(b, tokens, 3, heads, d, generator=generator).permute(2, 0, 3, 1, 4).unbind(0)
    return [x.to(device, dtype) for x in made]


def forward_ad(values: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Value and tangent by PyTorch, through its plain attention."""
    _load_rules()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        out, tangent = torch.func.jvp(F.scaled_dot_product_attention, values, tangents)
    return out, tangent


def floor(b: int, heads: int, tokens: int, d: int, device: torch.device) -> float | None:
    """Seconds that the tangent takes at least, in bf16: seven operands read, one written; five products."""
    peak = peak_flops(device, "bf16")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    speed = next((value for key, value in BANDWIDTH.items() if key in name), None)
    if peak is None or speed is None:
        return None
    return max(5 * 2 * b * heads * tokens**2 * d / peak, 8 * b * heads * tokens * d * 2 / speed)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pin(device)
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    cases = [(64, 12, 256, 64), (64, 16, 256, 72), (8, 12, 1024, 64), (2, 16, 4096, 72)]
    if not gpu:
        cases = [(4, 6, 256, 64), (4, 6, 256, 72), (1, 6, 1024, 64), (1, 2, 4096, 64)]
    ratio = ("tangent ÷ forward", "AD ÷ forward + tangent", "tangent ÷ floor")
    table = Table("batch, heads, tokens, head size", "error", "forward, ms", *ratio)
    rows: list[dict[str, Any]] = []
    for case in cases:
        given = example(*case, device, dtype)
        duals = [Dual(value, tangent) for value, tangent in zip(given[:3], given[3:], strict=True)]
        found = attention(*duals).tangent.double()
        _, exact = forward_ad(tuple(x.double() for x in given[:3]), tuple(x.double() for x in given[3:]))
        error = float((found - exact).norm() / exact.norm())

        def forward(given: list[Tensor] = given) -> object:
            return F.scaled_dot_product_attention(*given[:3])

        def both(duals: list[Dual] = duals) -> object:
            return attention(*duals)

        def generic(given: list[Tensor] = given) -> object:
            return forward_ad(tuple(given[:3]), tuple(given[3:]))

        works = {"forward": forward, "both": both, "generic": generic}
        times = interleaved(works, device, arguments.rounds, warm=3, times=20 if gpu else 3)
        tangent = [value - 1 for value in ratios(times, "both", "forward")]
        against = ratios(times, "generic", "both")
        seconds, least = statistics.median(times["forward"]), floor(*case, device)
        above = None if least is None else statistics.median(tangent) * seconds / least
        shown = "" if above is None else f"{above:.2f}"
        table.add_row(
            str(case), f"{error:.1e}", f"{seconds * 1e3:.3g}", spread(tangent), spread(against), shown
        )  # fmt: skip
        rows.append(
            {"case": case, "error": error, "forward": seconds, "tangent": tangent, "ad": against, "floor": above}
        )
    Console().print(table)
    write("attention-gpu" if gpu else "attention", device, dtype=str(dtype), rows=rows)


if __name__ == "__main__":
    main()
