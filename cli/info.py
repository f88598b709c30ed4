"""`alphaflow info RECIPE`: what a run will cost, before it is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaflow.recipe_files import RecipeFile

from .options import Device

if TYPE_CHECKING:
    from alphaflow.recipe import Recipe

Measure = Annotated[int, typer.Option(help="Number of steps to time in each training phase; 0 skips timing.", min=0)]


def info(found: RecipeFile, /, *, measure: Measure = 3, device: Device = "auto", **parameters: Any) -> None:
    """Estimate what training a recipe costs.

    Shows parameters, operations per step in each phase, memory by batch size, and time.
    """
    import torch

    from alphaflow.parallel.device import find_device

    torch.manual_seed(0)
    made = found(**parameters)
    print(f"{found.name}: {made.model}, {made.steps} steps of {_batch_size(made)}")
    parts = sum(p.numel() for p in made.model.parameters())
    print(f"parameters: {parts:,}; weights, gradients, Adam and one average in fp32: {parts * 20 / 2**20:,.0f} MiB")
    print(f"du/dt, if the objective needs it, is computed by {made.objective.derivative_by(made.model)}")
    _costs(made, find_device(device), measure)


def _costs(recipe: Recipe, device: Any, measure: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from alphaflow.costs import activation_bytes, phases, seconds_a_step

    batch = _batch_size(recipe)
    table = Table(
        "phase",
        "steps",
        "GFLOP per sample",
        "÷ flow matching",
        "s per step",
        "hours",
        box=box.SIMPLE_HEAD,
        title="time",
    )
    found, total = phases(recipe), 0.0
    floor = min(phase.flops for phase in found)
    for phase in found:
        seconds = seconds_a_step(recipe, phase.step, device, measure) if measure else 0.0
        total += seconds * phase.steps / 3600
        time = (f"{seconds:.3f}", f"{seconds * phase.steps / 3600:.2f}") if measure else ("–", "–")
        table.add_row(phase.name, f"{phase.steps:,}", f"{phase.flops / 1e9:.3g}", f"{phase.flops / floor:.2f}", *time)
    Console().print(table)
    if measure:
        print(
            f"about {total:.2f} hours on this {device.type} in {recipe.precision}, not counting samples and "
            f"checkpoints ({measure} steps timed)"
        )
    each = {phase.name: activation_bytes(recipe, phase.step, 2) / 2 for phase in found}
    name = max(each, key=lambda key: each[key])
    fixed = sum(p.numel() for p in recipe.model.parameters()) * 20
    sizes = sorted({max(1, batch // 4), max(1, batch // 2), batch, 2 * batch})
    shown = ", ".join(f"{size}: {(fixed + size * each[name]) / 2**30:.2f} GiB" for size in sizes)
    print(f"memory by batch size in fp32, including the activations of the most expensive phase, {name}: {shown}")


def _batch_size(recipe: Recipe) -> int:
    return recipe.dataset.batch_size or len(next(iter(recipe.dataset)).x)
