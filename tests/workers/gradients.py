"""Run under torchrun: every objective's gradient by many processes against one's, in float64.

Prints a line ``MODE NAME ERROR`` each: the relative error of the gradient of a global batch.
"""

from __future__ import annotations

import copy
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

import alphaflow as af
from alphaflow.parallel.pieces import full
from alphaflow.parallel.world import join
from alphaflow.training.engine import Engine, MachineSetup

BATCH = 16
OBJECTIVES = {
    "meanflow, differences": af.MeanFlow(derivative="difference"),
    "iMF, differences": af.ImprovedMeanFlow(fm_share=0.75, derivative="difference"),
    "flow matching": af.FlowMatching(),
    "two-point": af.AlphaFlow(alpha=af.Constant(0.5)),
    "meanflow": af.MeanFlow(fm_share=0.25),
    "meanflow, guided": af.MeanFlow(guidance=af.Guidance(kappa=0.5, label_drop=0.2)),
    "shortcut, ema": af.Shortcut(ema_target=True),
    "split": af.SplitMeanFlow(),
    "consistency": af.ConsistencyTraining(),
    "sCM": af.ContinuousConsistency(),
    "FACM": af.FACM(),
    "iMF": af.ImprovedMeanFlow(),
    "Lagrangian": af.Lagrangian(fm_share=0.75),
    "TVM": af.TerminalVelocity(ema_target=True),
    "TVM, differences": af.TerminalVelocity(fm_share=0.9375, derivative="difference"),
    "TVM, few": af.TerminalVelocity(fm_share=0.9375),
    "TiM": af.TransitionModel(guidance=af.Guidance(kappa=0.75, interval=(0.3, 0.8)), ema_target=True),
    "DMF": af.DecoupledMeanFlow(),
    "meanflow, LightningDiT's blocks": af.MeanFlow(),
    "iMF, MiT": af.ImprovedMeanFlow(guidance=af.GuidanceInputs()),
}
SIZES: dict[str, Any] = {"shape": (1, 8, 8), "patch": 4, "depth": 2, "width": 16, "heads": 2, "classes": 10}


def recipe(name: str, objective: af.Objective) -> af.Recipe:
    torch.manual_seed(0)
    if "MiT" in name:
        model: af.Network = af.MiT(**SIZES, u_blocks=1, velocity_head=1)
    else:
        of_lightning = dict.fromkeys(("rms_norm", "swiglu", "qk_norm", "rope"), "Lightning" in name)
        model = af.DiT(**SIZES, velocity_head=int(isinstance(objective, af.ImprovedMeanFlow)), **of_lightning)
    model.double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return af.Recipe(model=model, objective=objective, dataset=af.Digits(BATCH, seed=0), steps=10, samplers=(), ema=0.9)


def whole(model: torch.nn.Module, objective: af.Objective) -> torch.Tensor:
    """All gradients, of the model and of the objective's own network, as one vector."""
    networks = [model] if objective.network is None else [model, objective.network]
    found = [(p, p.grad) for network in networks for p in network.parameters()]
    return torch.cat([(full(torch.zeros_like(p)) if g is None else full(g)).flatten() for p, g in found])


def after_two_updates(engine: Engine, twin: torch.nn.Module, x: torch.Tensor) -> float:
    """How far the average, called before and after an update, is from a network with its weights."""
    t, average = torch.full((4,), 0.7, dtype=torch.float64), engine.ema.model
    with torch.no_grad():
        for _ in range(2):
            engine.update(5, engine.norm())
            found = average(x[:4], t / 2, t, af.Cond())
    twin.load_state_dict({name: full(value) for name, value in average.state_dict().items()})
    with torch.no_grad():
        expected = twin(x[:4], t / 2, t, af.Cond())
    return float((found - expected).norm() / expected.norm())


def main() -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    world = join(cpu)
    torch.manual_seed(1)
    x, labels = torch.randn(BATCH, 1, 8, 8, dtype=torch.float64), torch.randint(10, (BATCH,))
    n = BATCH // world.size
    parts = [af.Batch(x[r * n : (r + 1) * n], af.Cond(labels=labels[r * n : (r + 1) * n])) for r in range(world.size)]
    for mode in sys.argv[1:]:
        parallel, _, accumulate = mode.partition("/")
        if parallel == "hybrid":
            os.environ["LOCAL_WORLD_SIZE"] = "2"
            world = join(cpu)
        for name, objective in OBJECTIVES.items():
            made = recipe(name, objective)
            if objective.network is not None:
                objective.network.double()
            twin, average = copy.deepcopy(made.model), copy.deepcopy(made.model)
            count = int(accumulate or 1)
            total = torch.zeros((), dtype=torch.float64)
            for rank, part in enumerate(parts):
                generator = torch.Generator().manual_seed(100 + rank)
                for number, piece in enumerate(part.split(n // count)):
                    start = rank * n + number * (n // count)
                    loss = objective(twin, piece.x, piece.cond, 5, generator, ema=average, start=start)
                    total = total + loss.total / (world.size * count)
            if objective.network is not None:
                objective.network.zero_grad()
            torch.autograd.backward(total)
            expected = whole(twin, objective)
            setup = MachineSetup(parallel=parallel, accumulate=count)  # type: ignore[arg-type]
            engine = Engine(made, setup, cpu, world)
            engine.gradient(parts[world.rank], 5, torch.Generator().manual_seed(100 + world.rank))
            found = whole(made.model, objective)
            error = float((found - expected).norm() / expected.norm())
            norm = float(engine.norm() - torch.linalg.vector_norm(expected)) / float(expected.norm())
            stale = after_two_updates(engine, twin, x)
            if world.main:
                print("ERROR", mode, name.replace(" ", "_"), max(error, abs(norm), stale), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
