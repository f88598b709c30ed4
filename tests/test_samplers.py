"""Samplers on a Gaussian whose mean velocity is known: the exact sample comes out at any number of steps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import alphaflow as af


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def exact(gaussian: Any, noise: Tensor) -> Tensor:
    return gaussian.m + gaussian.S.sqrt() * noise


@pytest.mark.parametrize("sampler", [af.ODE(1), af.ODE(2), af.ODE(8), af.ODE(times=(1.0, 0.55, 0.0))])
def test_jumps_land_on_the_data(sampler: Any, gaussian: Any, noise: Tensor) -> None:
    before = noise.clone()
    x = sampler(gaussian.u, noise)
    assert (x - exact(gaussian, noise)).norm() / x.norm() < 1e-13
    assert torch.equal(noise, before)


@pytest.mark.parametrize("times", [(1.0, 0.0), (1.0, 0.5, 0.0), tuple(1 - i / 8 for i in range(9))])
def test_consistency_sampling_is_exact(times: tuple[float, ...], gaussian: Any, noise: Tensor) -> None:
    """Every stage lands on the Gaussian; the path through fresh noise is followed in closed form."""
    sampler = af.Consistency(times=times)
    x = sampler(gaussian.u, noise, None, torch.Generator().manual_seed(2))
    fresh = torch.Generator().manual_seed(2)
    expected = exact(gaussian, noise)
    for t in times[1:-1]:
        eps = torch.randn(noise.shape, dtype=noise.dtype, generator=fresh)
        z = (1 - t) * expected + t * eps
        standard = (z - (1 - t) * gaussian.m) / ((1 - t) ** 2 * gaussian.S + t**2).sqrt()
        expected = gaussian.m + gaussian.S.sqrt() * standard
    assert (x - expected).norm() / expected.norm() < 1e-13
    assert sampler.nfe == len(times) - 1
    assert (x.mean(0) - gaussian.m).abs().max() < 0.08
    assert ((x.var(0) - gaussian.S) / gaussian.S).abs().max() < 0.1


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_the_flow_solvers(solver: Any, order: int, gaussian: Any, noise: Tensor) -> None:
    """Halving the step divides the error by 2^order. The network is only ever asked at r = t."""

    def velocity_only(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        assert torch.equal(r, t)
        return gaussian.velocity(z, t)

    goal = exact(gaussian, noise)
    errors = [(af.ODE(n, solver=solver)(velocity_only, noise) - goal).norm() for n in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_number_of_evaluations() -> None:
    calls = []

    def model(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        calls.append((float(t[0]), float(r[0])))
        return torch.zeros_like(z)

    for sampler in (af.ODE(3), af.ODE(5, solver="euler"), af.ODE(5, solver="heun"), af.Consistency(2)):
        calls.clear()
        sampler(model, torch.zeros(2, 3))
        assert len(calls) == sampler.nfe
    calls.clear()
    af.ODE(2)(model, torch.zeros(2, 3))
    assert calls == [(1.0, 0.5), (0.5, 0.0)]


def test_numpys_numbers_are_numbers(gaussian: Any, noise: Tensor) -> None:
    assert af.ODE(np.int64(2)).nfe == 2  # type: ignore[arg-type]
    assert af.CFG(np.float32(2.0), (np.float64(0.0), 1)).applies(0.5)


def test_same_seed_same_bits(gaussian: Any, noise: Tensor) -> None:
    first, again, other = (
        af.Consistency(3)(gaussian.u, noise, None, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.ODE(0), "at least 1 step"),
        (lambda: af.ODE(), "at least 1 step"),
        (lambda: af.ODE(times=(0.0, 1.0)), "fall strictly"),
        (lambda: af.ODE(3, times=(1.0, 0.5, 0.0)), "2 steps, not 3"),
        (lambda: af.ODE(1, solver="rk4"), "solver"),  # type: ignore[arg-type]
        (lambda: af.Consistency(0), "at least 1 step"),
        (lambda: af.ODE(1.5), "whole number"),  # type: ignore[arg-type]
        (lambda: af.ODE(True), "whole number"),
        (lambda: af.CFG(float("nan")), "finite number"),
        (lambda: af.CFG("2"), "finite number"),  # type: ignore[arg-type]
        (lambda: af.CFG(2.0, (float("nan"), 1.0)), "interval"),
    ],
)
def test_wrong_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
