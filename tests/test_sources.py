"""Sources and couplings: closed forms, other algorithms, what recipes and samplers make of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.objectives.loss_function import LossFunction
from alphaflow.sources import seen

RHO, SIGMA = 0.6, 0.5
"""Of the bridge: x and y are N(0, 1) with correlation ρ, and x₁ = y + σ·ε."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def std(t: Tensor) -> Tensor:
    """The deviation of z_t = (1 − t)·x + t·x₁."""
    return ((1 - t) ** 2 + t**2 * (1 + SIGMA**2) + 2 * t * (1 - t) * RHO).sqrt()


def bridge(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
    """The true mean velocity of the bridge, of a network that isn't told y: z_r/s(r) = z_t/s(t), s its deviation."""
    r, t = r[:, None], t[:, None]
    slope = ((2 + SIGMA**2 - 2 * RHO) * t + RHO - 1) / std(t) ** 2
    jump = (1 - std(r) / std(t)) / (t - r).clamp(min=1e-12)
    return torch.where(t == r, slope, jump) * z


def told(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
    """The true mean velocity of one that is told y: z_t is N((1 − t)·ρy + t·y, (1 − t)²(1 − ρ²) + t²σ²) then."""
    r, t, y = r[:, None], t[:, None], cond.image

    def mean(t: Tensor) -> Tensor:
        return ((1 - t) * RHO + t) * y

    def variance(t: Tensor) -> Tensor:
        return (1 - t) ** 2 * (1 - RHO**2) + t**2 * SIGMA**2

    apart = (t - r).clamp(min=1e-12)
    jump = (z - mean(r) - (variance(r) / variance(t)).sqrt() * (z - mean(t))) / apart
    slope = (1 - RHO) * y + (t * SIGMA**2 - (1 - t) * (1 - RHO**2)) / variance(t) * (z - mean(t))
    return torch.where(t == r, slope, jump)


def paired(n: int, seed: int = 0) -> tuple[Tensor, af.Cond]:
    y = random(n, 1, seed=seed)
    return RHO * y + math.sqrt(1 - RHO**2) * random(n, 1, seed=seed + 1), af.Cond(image=y)


class Blind(af.Network):
    """A network of one weight that isn't told the condition that the source reads."""

    conditions = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        assert not cond.tensors
        return self.weight * bridge(z, r, t, cond)


SOURCE = af.FromCondition("image", noise=SIGMA)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_bridge_gives_the_data(steps: int) -> None:
    """From draws of the source comes x's distribution; who is told y also gives its correlation with it."""
    x, cond = paired(200_000)
    start = SOURCE(random(*x.shape, seed=5), cond)
    found = af.ODE(steps)(Blind(), start, seen(cond, SOURCE, Blind()))
    assert torch.allclose(found, start / math.sqrt(1 + SIGMA**2), atol=1e-12)  # linear: x₁/s(1), of deviation 1
    for sampler in (af.ODE(steps), af.Consistency(steps, source=SOURCE)):
        found = sampler(told, start, cond, torch.Generator().manual_seed(1))
        assert torch.corrcoef(torch.cat([found, cond.image], 1).mT)[0, 1].item() == pytest.approx(RHO, abs=0.01)
        assert found.mean().item() == pytest.approx(0, abs=0.01)
        assert found.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("objective", [af.FlowMatching, af.MeanFlow, af.ImprovedMeanFlow, af.Shortcut])
def test_the_true_velocity_has_no_gradient(objective: Any) -> None:
    model, (x, cond) = Blind(), paired(200_000)
    losses = objective(source=SOURCE, weighting=af.UniformWeighting())(
        model, x, cond, 0, torch.Generator().manual_seed(2)
    )
    (right,) = torch.autograd.grad(losses.total, model.weight)
    noise = objective(weighting=af.UniformWeighting())(model, x, af.Cond(), 0, torch.Generator().manual_seed(2))
    (wrong,) = torch.autograd.grad(noise.total, model.weight)
    assert abs(float(right)) < 0.01 < 0.05 < abs(float(wrong))


def test_draws() -> None:
    """z_t = (1 − t)·x + t·x₁ and v = x₁ − x; the network is told what it takes, and no more."""
    x, cond = paired(50)
    for source, reads in [
        (SOURCE, lambda e: cond.image + SIGMA * e),
        (lambda e, c: 2 * e - c.image, lambda e: 2 * e - cond.image),
    ]:
        for own in (False, True):
            objective = af.MeanFlow(source=source)
            model = Blind() if not own else bridge
            draw = objective.draw(model, x, cond, 0, torch.Generator().manual_seed(3))
            x1 = draw.z + (1 - draw.t[:, None]) * draw.v
            again = objective.draw(model, x, cond, 0, torch.Generator().manual_seed(3))
            assert torch.equal(draw.z, again.z)
            gaussian = af.MeanFlow().draw(bridge, x, cond, 0, torch.Generator().manual_seed(3))
            noise = gaussian.z + (1 - gaussian.t[:, None]) * gaussian.v
            assert torch.allclose(x1, reads(noise), atol=1e-12)
            kept = own or not objective.source.conditions  # who doesn't say which conditions it takes is told all
            assert ("image" in draw.cond.tensors) == kept


def test_optimal_transport_is_the_least_total_distance() -> None:
    coupling = af.OptimalTransport()
    for seed in range(5):
        x, x1 = random(6, 2, 3, seed=seed), random(6, 2, 3, seed=seed + 50)
        found = coupling(x, x1)
        assert sorted(found.tolist()) == list(range(6))

        def total(order: Any, x: Tensor = x, x1: Tensor = x1) -> float:
            return float((x - x1[torch.as_tensor(order)]).square().sum())

        assert abs(total(found) - min(map(total, itertools.permutations(range(6))))) < 1e-12


def test_optimal_transport_against_scipy() -> None:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    x, x1 = random(64, 5).float(), random(64, 5, seed=1).float()
    _, wanted = linear_sum_assignment(cdist(x.numpy(), x1.numpy(), "sqeuclidean"))
    assert af.OptimalTransport()(x, x1).tolist() == wanted.tolist()


def test_coupled_draws() -> None:
    """The noise is permuted, times and labels stay with their samples; trajectories cross less."""
    x, labels = random(64, 2), torch.arange(64)
    draws = [
        af.MeanFlow(coupling=coupling).draw(bridge, x, af.Cond(labels=labels), 0, torch.Generator().manual_seed(1))
        for coupling in (None, af.OptimalTransport())
    ]
    plain, coupled = ((d.z + (1 - d.t[:, None]) * d.v) for d in draws)
    assert torch.equal(draws[0].t, draws[1].t)
    assert torch.equal(draws[1].cond.labels, labels)
    assert torch.allclose(coupled - draws[1].v, x, atol=1e-12)
    assert torch.allclose(plain.sort(0).values, coupled.sort(0).values, atol=1e-12)
    assert draws[1].v.square().sum() < 0.7 * draws[0].v.square().sum()


def test_recipes_hand_samplers_their_source() -> None:
    recipe = af.Recipe(
        model=Blind(), objective=af.MeanFlow(source=SOURCE), dataset=af.Digits(), steps=1,
        samplers=(af.ODE(1), af.Consistency(2), af.Consistency(3, source=af.Gaussian())),
    )  # fmt: skip
    assert recipe.samplers == (af.ODE(1), af.Consistency(2, source=SOURCE), af.Consistency(3, source=af.Gaussian()))
    assert replace(recipe, steps=2).samplers == recipe.samplers
    assert LossFunction.of(lambda *_: None).source == af.Gaussian()  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.MeanFlow(source=SOURCE, coupling=af.OptimalTransport()), "its own condition"),
        (lambda: af.MeanFlow(source=3), "a source is"),
        (lambda: af.MeanFlow(source=af.Gaussian), "a source is"),
        (lambda: af.MeanFlow(coupling="ot"), "coupling is"),
        (lambda: af.FromCondition("image", noise=-1.0), "at least 0"),
        (lambda: af.FromCondition("image", noise=math.nan), "finite"),
        (lambda: SOURCE(random(3, 2), af.Cond()), "'image', which is missing"),
        (lambda: SOURCE(random(3, 2), af.Cond(image=random(3, 4))), r"shape \(3, 2\), got \(3, 4\)"),
        (lambda: af.MeanFlow(source=lambda e, c: e[:1])(bridge, random(4, 1)), r"shape \(4, 1\), got \(1, 1\)"),
    ],
)
def test_wrong_sources(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
