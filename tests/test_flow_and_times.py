"""The straight path's identities, and the distributions of times."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

import alphaflow as af
from alphaflow.times import check_grid, grid


def test_jump_lands_on_the_path() -> None:
    """z_s = (1−s)x + sε = z_t − (t−s)v: the identity that fixes the sign."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 50, 3, 4, dtype=torch.float64, generator=generator)
    s, t = torch.rand(2, 50, dtype=torch.float64, generator=generator)
    z_t = af.interpolate(x, noise, t)
    z_s = torch.stack([(1 - s[i]) * x[i] + s[i] * noise[i] for i in range(50)])
    assert (af.jump(z_t, af.velocity(x, noise), t, s) - z_s).norm() / z_s.norm() < 1e-14


def test_ends_of_the_path() -> None:
    x, noise = torch.randn(2, 5, 7)
    assert torch.equal(af.interpolate(x, noise, torch.zeros(5)), x)
    assert torch.equal(af.interpolate(x, noise, torch.ones(5)), noise)


def test_distributions_against_scipy() -> None:
    generator = torch.Generator().manual_seed(2)
    uniform = af.Uniform().sample(20_000, generator=generator)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    t = af.LogitNormal(-0.4, 1.0).sample(20_000, generator=generator).double()
    assert stats.kstest(torch.logit(t).numpy(), "norm", args=(-0.4, 1.0)).pvalue > 1e-3


@pytest.mark.parametrize("pairing", ["sorted", "min", "product"])
def test_pairs(pairing: str) -> None:
    pairs = af.TimePairs(af.Uniform(), pairing=pairing)  # type: ignore[arg-type]
    r, t = pairs.pairs(20_000, generator=torch.Generator().manual_seed(3))
    assert (r <= t).all()
    expected_t = {"sorted": 2 / 3, "min": 1 / 2, "product": 1 / 2}[pairing]  # means for U(0, 1)
    expected_r = {"sorted": 1 / 3, "min": 1 / 3, "product": 1 / 4}[pairing]
    assert t.mean().item() == pytest.approx(expected_t, abs=0.01)
    assert r.mean().item() == pytest.approx(expected_r, abs=0.01)


def test_grids() -> None:
    assert grid(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    for wrong in [(1.0,), (0.9, 0.0), (1.0, 0.5), (1.0, 0.5, 0.5, 0.0), (1.0, float("nan"), 0.0)]:
        with pytest.raises(ValueError, match="fall strictly"):
            check_grid(wrong)
