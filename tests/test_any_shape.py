"""Every objective trains a user's own network on data that are no images: points, a signal, action sequences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af

STEPS = 250


class MLP(nn.Module):
    """A user's network: flattens the sample, appends times and whatever the condition holds."""

    def __init__(self, shape: tuple[int, ...], condition: int = 0, width: int = 96) -> None:
        super().__init__()
        size = math.prod(shape)
        self.layers = nn.Sequential(
            nn.Linear(size + 2 + condition, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, size),
        )

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        extra = [tensor.flatten(1) for name, tensor in cond.tensors.items() if name != "guidance"]
        return self.layers(torch.cat([z.flatten(1), r[:, None], t[:, None], *extra], dim=1)).view_as(z)  # type: ignore[no-any-return]


def checkerboard(n: int, generator: torch.Generator) -> tuple[Tensor, af.Cond]:
    """Points (n, 2) on the dark squares of a 4 × 4 board, off centre."""
    x = 4 * torch.rand(n, generator=generator) - 2
    y = torch.randint(2, (n,), generator=generator) * 2 - 2 + x.floor() % 2 + torch.rand(n, generator=generator)
    return torch.stack([x, y], dim=1) + 1.5, af.Cond()


def signal(n: int, generator: torch.Generator) -> tuple[Tensor, af.Cond]:
    """Sine waves (n, 16) of random phase around 1."""
    phase = 2 * math.pi * torch.rand(n, 1, generator=generator)
    return 1 + torch.sin(phase + torch.linspace(0, 2 * math.pi, 16)), af.Cond()


def actions(n: int, generator: torch.Generator) -> tuple[Tensor, af.Cond]:
    """Reaching: 8 actions of 3 numbers (n, 8, 3) from the origin to a goal (n, 3) that they are conditioned on."""
    goal = 2 * torch.rand(n, 3, generator=generator)
    bend = 0.3 * torch.randn(n, 1, 3, generator=generator)
    along = torch.linspace(0, 1, 8)[None, :, None]
    return along * goal[:, None] + bend * along * (1 - along) * 4, af.Cond(goal=goal)


DATA: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "points": (checkerboard, (2,), 0),
    "signal": (signal, (16,), 0),
    "actions": (actions, (8, 3), 3),
}
OBJECTIVES = [
    af.FlowMatching(),
    af.TrajectoryFlowMatching(),
    af.AlphaFlow(alpha=af.Sigmoid(end=STEPS)),
    af.MeanFlow(),
    af.ImprovedMeanFlow(),
    af.Shortcut(),
    af.Shortcut(times=af.DyadicPairs(16), ema_target=True, weighting=af.UniformWeighting()),
    af.SplitMeanFlow(),
    af.ConsistencyTraining(intervals=af.DoublingIntervals(end=STEPS, first=4, last=32)),
    af.ContinuousConsistency(warmup=STEPS // 2),
    af.FACM(),
    af.Lagrangian(),
    af.TerminalVelocity(ema_target=True, times=af.LogitNormal()),  # with its own times the signal diverges at this rate
    af.AlignYourFlow(warmup=STEPS // 2),
    af.TransitionModel(),
    af.DecoupledMeanFlow(),
]


SLOWER: dict[type[af.Objective], float] = {
    af.Lagrangian: 0.7, af.TerminalVelocity: 0.7, af.AlignYourFlow: 0.6, af.TransitionModel: 0.6
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_training(objective: af.Objective, data: str) -> None:
    """After 250 steps four evaluations bring noise three quarters of the way to the data, or what `SLOWER` says."""
    draw, shape, condition = DATA[data]
    generator = torch.Generator().manual_seed(1)
    model = MLP(shape, condition)
    ema = af.EMA(model, 0.98)
    own = [] if objective.network is None else list(objective.network.parameters())
    optimizer = torch.optim.Adam([*model.parameters(), *own], lr=3e-3)
    options: dict[str, Any] = {"ema": ema.model} if objective.ema_target else {}
    for step in range(STEPS):
        x, cond = draw(128, generator)
        loss = objective(model, x, cond, step, generator, **options)
        assert loss.per_sample.shape == (128,)
        optimizer.zero_grad()
        torch.autograd.backward(loss.total)
        optimizer.step()
        ema.update()
    real, cond = draw(2000, generator)
    noise = torch.randn(real.shape, generator=generator)
    sampler: af.Sampler = af.ODE(4, solver="euler") if isinstance(objective, af.FlowMatching) else af.ODE(4)
    if objective.pairing == "zero":  # these learn jumps to the data only
        sampler = af.Consistency(4)
    samples = sampler(ema.model, noise, cond, generator)
    assert samples.shape == real.shape
    before, after = af.metrics.sliced_wasserstein(noise, real), af.metrics.sliced_wasserstein(samples, real)
    assert after < before * (1 - SLOWER.get(type(objective), 0.75)), (before, after)


def test_sliced_wasserstein_against_scipy() -> None:
    """In one dimension it is scipy's distance; moved points are |shift|·E|cos| apart."""
    from scipy.stats import wasserstein_distance

    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(500, 1, generator=generator), 2 * torch.randn(500, 1, generator=generator) + 1
    expected = wasserstein_distance(a[:, 0].double().numpy(), b[:, 0].double().numpy())
    assert af.metrics.sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-9)
    points = torch.randn(300, 2, generator=generator)
    moved = af.metrics.sliced_wasserstein(points, points + torch.tensor([3.0, 4.0]), projections=4_000)
    assert moved == pytest.approx(5 * 2 / math.pi, rel=0.03)
    with pytest.raises(ValueError, match="points of one shape"):
        af.metrics.sliced_wasserstein(points, points[:, :1])
