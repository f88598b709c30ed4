"""Guidance trained in, against its formula; guidance while sampling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.guidance_input import guidance_setting
from alphaflow.objectives.guided import guided_velocity

N = 40


class Counting:
    """A network that counts the samples it is run on."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.samples, self.calls = inner, 0, 0

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        self.samples += len(z)
        self.calls += 1
        return self.inner(z, r, t, cond)


@pytest.fixture
def setting(smooth: Any) -> tuple[Any, Tensor, Tensor, Tensor, af.Cond]:
    generator = torch.Generator().manual_seed(1)
    z, v = torch.randn(2, N, 2, 2, dtype=torch.float64, generator=generator)
    t = torch.rand(N, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (N,), generator=generator)
    return smooth(4, 3), z, v, t, af.Cond(labels=labels)


@pytest.mark.parametrize("omega", [1.0, 0.2, 2.0])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 0.92])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.75), (0.3, 0.6)])
@pytest.mark.parametrize("dropped", ["guided", "plain"])
def test_formula(omega: float, kappa: float, interval: tuple[float, float], dropped: Any, setting: Any) -> None:
    inner, z, v, t, cond = setting
    guidance = af.Guidance(omega=omega, kappa=kappa, interval=interval, label_drop=0.4, dropped=dropped)
    model = Counting(inner)
    after, mask = guidance.drop(cond, t, t, torch.Generator().manual_seed(2))
    guided = guided_velocity(guidance, model, z, t, after, v, mask).v
    expected = v.clone()
    evaluations = 0
    for i in range(N):  # sample by sample, as the formula stands
        if not interval[0] <= t[i] <= interval[1] or (dropped == "plain" and mask[i]):
            continue
        one = slice(i, i + 1)
        label = -1 if mask[i] else int(cond.labels[i])
        u_y = inner(z[one], t[one], t[one], af.Cond(labels=torch.tensor([label])))[0]
        u_free = inner(z[one], t[one], t[one], af.Cond(labels=torch.tensor([-1])))[0]
        expected[i] = omega * v[i] + kappa * u_y + (1 - omega - kappa) * u_free
        if mask[i]:  # y is ∅: one and the same evaluation
            evaluations += omega != 1
        else:
            evaluations += (kappa != 0) + (not math.isclose(omega + kappa, 1))
    assert (guided - expected).norm() / expected.norm() < 1e-12
    assert not guided.requires_grad
    assert model.samples == evaluations  # nothing is run that is multiplied by zero, or outside the interval
    assert model.calls <= 1


@pytest.mark.parametrize("dropped", ["guided", "plain"])
def test_labels_drop_by_chance_inside_or_everywhere(dropped: Any) -> None:
    """α-Flow drops inside the interval only, MeanFlow everywhere."""
    t = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    cond = af.Cond(labels=torch.ones(20_000, dtype=torch.long))
    guidance = af.Guidance(interval=(0.2, 0.7), label_drop=0.1, dropped=dropped)
    after, mask = guidance.drop(cond, t, t, torch.Generator().manual_seed(4))
    inside = (t > 0.2) & (t < 0.7)
    assert mask[~inside].double().mean().item() == pytest.approx(0.1 if dropped == "plain" else 0, abs=0.01)
    assert bool(mask[~inside].any()) == (dropped == "plain")
    assert mask[inside].double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert ((after.labels == af.NO_CLASS) == mask).all()
    assert (cond.labels == 1).all()


def test_dropped_labels_reach_every_term(smooth: Any) -> None:
    """The prediction, the guidance terms and the few-step target of a dropped sample all see 'no class'."""
    seen: list[Tensor] = []
    inner = smooth(4, 3)

    def model(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        assert cond.labels is not None
        seen.append(cond.labels)
        return inner(z, r, t, cond)

    guidance = af.Guidance(omega=0.5, kappa=0.5, label_drop=1.0)
    objective = af.AlphaFlow(alpha=0.5, guidance=guidance)
    cond = af.Cond(labels=torch.ones(6, dtype=torch.long))
    objective(model, torch.randn(6, 4, dtype=torch.float64), cond, 0, torch.Generator().manual_seed(1))
    assert len(seen) == 3
    assert all((labels == af.NO_CLASS).all() for labels in seen)


def test_effective_scale() -> None:
    assert af.Guidance(omega=0.2, kappa=0.92).scale == pytest.approx(2.5)
    assert af.Guidance(omega=1.0, kappa=0.5).scale == pytest.approx(2.0)


def test_cfg_while_sampling(setting: Any) -> None:
    inner, z, _, _, cond = setting
    sampler = af.ODE(4, solver="euler", cfg=af.CFG(2.5, interval=(0.0, 0.5)))
    x = z
    for t in (1.0, 0.75, 0.5, 0.25):
        times = torch.full((N,), t, dtype=torch.float64)
        u = inner(x, times, times, cond)
        if t <= 0.5:
            free = inner(x, times, times, cond.null())
            u = free + 2.5 * (u - free)
        x = x - 0.25 * u
    model = Counting(inner)
    found = sampler(model, z, cond)
    assert (found - x).norm() / x.norm() < 1e-13
    assert sampler.nfe == 6
    assert model.samples == 6 * N


def test_both_ends_of_an_interval_are_inside(setting: Any) -> None:
    """In training, as an input, and while sampling, on every grid that has the end on it; in either precision."""
    inner, z, _, _, cond = setting
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([0.0999, 0.1, 0.5, 0.8, 0.8001], dtype=dtype)
        one = af.Cond(labels=torch.zeros(5, dtype=torch.long))
        mix = af.Guidance(omega=2.0, interval=(0.1, 0.8)).mix(one, t, torch.zeros(5, dtype=torch.bool))
        assert mix is not None
        assert (mix.data == 2).tolist() == [False, True, True, True, False]
        told = one.replace(guidance=guidance_setting(5, 2.0, (0.1, 0.8)))
        assert (af.guidance_at(told, t, t)[0] == 2).tolist() == [False, True, True, True, False]
        assert (af.GuidanceInputs().instant(told, t).guidance[:, 0] == 2).tolist() == [False, True, True, True, False]
    for steps in range(1, 101):
        for i in range(steps):
            sampler = af.ODE(steps, solver="euler", cfg=af.CFG(2.0, (i / steps, 1.0)))
            assert sampler.nfe == 2 * steps - max(i - 1, 0), (steps, i)  # t = 1, …, i/N; t = 0 is never asked
    sampler, model = af.ODE(10, cfg=af.CFG(2.0, (0.1, 1.0))), Counting(inner)
    assert sampler.nfe == 20
    sampler(model, z, cond)
    assert model.samples == 20 * N


def test_cfg_of_scale_one_costs_and_changes_nothing(setting: Any) -> None:
    inner, z, _, _, cond = setting
    plain, guided = af.ODE(3, solver="heun"), af.ODE(3, solver="heun", cfg=af.CFG(1.0))
    assert torch.equal(plain(inner, z, cond), guided(inner, z, cond))
    assert plain.nfe == guided.nfe == 6
