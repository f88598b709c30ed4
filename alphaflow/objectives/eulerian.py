"""The Eulerian corner of flow maps, u's derivative along a path through z_t: what several families make of it."""

from __future__ import annotations

import torch

from ..flow import expand_like
from ..types import Model, Sample
from .records import RegressionTarget, TrainingDraw


def mean_flow_target(model: Model, draw: TrainingDraw, along: Sample) -> RegressionTarget:
    """ṽ − (t − r)·du⁻/dt (MeanFlow, arXiv 2505.13447, eq. 10), du/dt on a path with dz/dt = ``along`` (n, …)."""
    _, dudt = draw.derivative(model, along)
    return RegressionTarget(draw.v - expand_like(draw.t - draw.r, draw.z) * dudt, torch.ones_like(draw.t))


def tangent(model: Model, draw: TrainingDraw, ramp: float) -> tuple[Sample, Sample]:
    """u⁻, and how the end of its jump, z_t − (t − r)·u⁻, moves with t along the path: ṽ − u⁻ − ramp·(t − r)·du⁻/dt.

    At the exact mean velocity it is 0 in expectation. Its last part is warmed up from ramp = 0.
    """
    u, dudt = draw.derivative(model, draw.v)
    return u, draw.v - u - ramp * expand_like(draw.t - draw.r, u) * dudt


def warmed(step: int, warmup: int) -> float:
    """A ramp from 0 at step 0 to 1 at the end of the warm-up."""
    return min(1.0, step / warmup) if warmup else 1.0
