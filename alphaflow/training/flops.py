"""Floating-point operations, counted, and what a device can do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..network import known
from ..sources import seen
from ..types import Cond

if TYPE_CHECKING:
    from ..recipe import Recipe

PEAK = {
    "H200": (989e12, 494e12, 67e12), "H100": (989e12, 494e12, 67e12), "A100": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12), "RTX 4090": (165e12, 82.6e12, 82.6e12), "RTX 3090": (71e12, 35.6e12, 35.6e12),
}  # fmt: skip
"""Dense operations a second in bf16, TF32, fp32, from NVIDIA's data sheets (SXM parts where there are several)."""


def peak_flops(device: torch.device, precision: Literal["bf16", "tf32", "fp32"]) -> float | None:
    """What a device can do in a second; None where that isn't known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peak for key, peak in PEAK.items() if key in name), None)
    return None if found is None else found[("bf16", "tf32", "fp32").index(precision)]


def count_flops(work: Callable[[], object]) -> float:
    """The floating-point operations of some work: matrix products, convolutions, attention."""
    from torch.utils.flop_counter import FlopCounterMode

    on_cpu: dict[Any, Any] = {  # which PyTorch counts on GPUs only
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: partial(_attention_flops, 0, 2),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: partial(_attention_flops, 1, 5),
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        work()
    return float(counter.get_total_flops())


def _attention_flops(query: int, products: int, *shapes: Any, **options: Any) -> int:
    """Of so many products of (tokens × d) with (d × tokens) matrices; ``query`` is q's place among the arguments."""
    (b, heads, tokens, d), others = shapes[query], shapes[query + 1][2]
    return int(products * 2 * b * heads * tokens * others * d)


def forward_flops(recipe: Recipe, device: torch.device) -> float | None:
    """Operations of the network's forward pass of one sample; None where it can't be called alone."""
    one = torch.ones(1, device=device)
    model = recipe.model
    try:
        x, cond = example(recipe, recipe.dataset.shape, 1, device)
        given = seen(cond, recipe.objective.source, model)
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            return count_flops(lambda: model(x, one, one, given))
    except Exception:  # a network of the user's own may want more than zeros
        return None


def example(recipe: Recipe, shape: tuple[int, ...], batch: int, device: torch.device) -> tuple[Tensor, Cond]:
    """Zeros (batch, *shape), and a condition such as they have in the recipe's data.

    Samples are read for it only where network or source may take more than labels.
    """
    dataset, takes = recipe.dataset, known(recipe.model).conditions
    x = torch.zeros(batch, *shape, device=device)
    wanted = {*recipe.objective.source.conditions, *(("any",) if takes is None else takes)} - {"labels", "guidance"}
    if wanted and dataset.indexed is not None and dataset.indexed.shape == tuple(shape):
        return x, dataset.indexed.fetch(np.arange(batch) % len(dataset.indexed)).cond.to(device)
    classes = dataset.classes
    return x, Cond() if not classes else Cond(labels=torch.arange(batch, device=device) % classes)
