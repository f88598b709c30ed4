"""The published ImageNet-1K 256² runs: one row each, and what all of them share."""

from __future__ import annotations

from typing import Any, Literal

from .guidance import Guidance
from .objectives.alpha_flow import AlphaFlow, MeanFlow
from .objectives.flow_matching import FlowMatching
from .objectives.objective import Objective
from .samplers import ODE, Consistency, Sampler
from .schedules import Sigmoid, WarmUp

Method = Literal["fm", "meanflow", "alphaflow"]

Size = Literal["b2", "l2", "xl2"]

Row = tuple[Objective, tuple[Sampler, ...]]


def published_settings(method: Method, size: Size, *, guided: bool = False, steps: int | None = None) -> dict[str, Any]:
    """A published run's settings, as `Recipe` takes them: all but the network, the data and their autoencoder.

    Rows and shared settings are those of α-Flow's authors (arXiv 2510.20771, and their repository), who trained
    MeanFlow too. No run was published of flow matching with guidance, nor of L/2 and XL/2 without it: those settings
    are ours, flow matching with its size's guidance, the others as B/2. Of L/2 with guidance only the guidance and the
    number of steps were published; the rest is as for XL/2.

    Args:
        method: flow matching, MeanFlow, or α-Flow.
        size: size of the network, with patches of 2.
        guided: whether guidance is trained in.
        steps: None for as many as published, 400,000, or 1,200,000 with guidance; α's curriculum is stretched to them.
    """
    total = (1_200_000 if guided else 400_000) if steps is None else steps
    whole, late = Sigmoid(end=total), Sigmoid(start=total // 2, end=max(total * 5 // 6, total // 2 + 1))
    cfg: dict[Size, Guidance] = {
        "b2": Guidance(omega=1.0, kappa=0.5, interval=(0.0, 1.0), label_drop=0.1),
        "l2": Guidance(omega=0.2, kappa=0.92, interval=(0.0, 0.8), label_drop=0.1),
        "xl2": Guidance(omega=0.2, kappa=0.92, interval=(0.0, 0.75), label_drop=0.1),
    }
    euler: tuple[Sampler, ...] = (ODE(80, solver="euler"),)
    jumps: tuple[Sampler, ...] = (ODE(1), ODE(2))
    fresh: tuple[Sampler, ...] = (ODE(1), Consistency(times=(1.0, 0.55, 0.0)))
    runs: dict[tuple[Method, Size, bool], Row] = {
        ("fm", "b2", False): (FlowMatching(), euler),
        ("meanflow", "b2", False): (MeanFlow(fm_share=0.75), jumps),
        ("alphaflow", "b2", False): (AlphaFlow(alpha=whole, fm_share=0.5, clamp=4.0), jumps),
        ("meanflow", "b2", True): (MeanFlow(fm_share=0.5, guidance=cfg["b2"]), jumps),
        ("alphaflow", "b2", True): (AlphaFlow(alpha=whole, fm_share=0.25, clamp=4.0, guidance=cfg["b2"]), jumps),
        ("meanflow", "l2", True): (MeanFlow(fm_share=0.5, guidance=cfg["l2"]), jumps),
        ("alphaflow", "l2", True): (AlphaFlow(alpha=late, fm_share=0.5, clamp=4.0, guidance=cfg["l2"]), fresh),
        ("meanflow", "xl2", True): (MeanFlow(fm_share=0.5, guidance=cfg["xl2"]), jumps),
        ("alphaflow", "xl2", True): (AlphaFlow(alpha=late, fm_share=0.5, clamp=4.0, guidance=cfg["xl2"]), fresh),
    }
    ours: Row = (
        (FlowMatching(guidance=cfg[size]), euler) if (method, guided) == ("fm", True) else runs[method, "b2", guided]
    )
    objective, samplers = runs.get((method, size, guided), ours)
    training: dict[str, Any] = {"lr": WarmUp(10_000, 1e-4), "betas": (0.9, 0.95), "ema": 0.9999, "clip": 16.0}
    machine: dict[str, Any] = {"precision": "bf16", "tf32": True}
    return {"objective": objective, "samplers": samplers, "steps": total, **training, **machine}
