"""The straight path's identities, and the distributions of times."""

from __future__ import annotations

import numpy as np
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
    uniform = af.UniformTimes().sample(20_000, generator=generator)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    t = af.LogitNormal(-0.4, 1.0).sample(20_000, generator=generator).double()
    assert stats.kstest(torch.logit(t).numpy(), "norm", args=(-0.4, 1.0)).pvalue > 1e-3


INVERTIBLE = {
    "uniform": (af.UniformTimes(), stats.uniform()),
    "logit-normal": (af.LogitNormal(-0.4, 1.2), None),
    "truncated": (af.TruncatedLogitNormal(-0.4, 1.2, low=0.2, high=0.7), None),
    "arctan": (af.ArctanLogNormal(-0.8, 1.6), None),
}


def reference_draws(name: str, n: int) -> np.ndarray:
    """Independent draws, by numpy: the truncated one by rejection."""
    random = np.random.default_rng(5)
    if name == "uniform":
        return random.random(n)
    if name == "arctan":
        return np.arctan(random.lognormal(-0.8, 1.6, n)) * 2 / np.pi
    t = 1 / (1 + np.exp(-random.normal(-0.4, 1.2, 6 * n)))
    return t[:n] if name == "logit-normal" else t[(t >= 0.2) & (t <= 0.7)][:n]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_distributions_against_independent_draws(name: str) -> None:
    times = INVERTIBLE[name][0]
    t = times.sample(20_000, generator=torch.Generator().manual_seed(2))
    assert t.dtype == torch.float32
    assert stats.ks_2samp(t.numpy(), reference_draws(name, 20_000)).pvalue > 1e-3
    assert stats.kstest(times.cdf(t).numpy(), "uniform").pvalue > 1e-3
    p = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    assert (times.cdf(times.quantile(p)) - p).abs().max() < 1e-12


def test_beta_against_scipy() -> None:
    t = af.BetaTimes(2.0, 0.7).sample(20_000, generator=torch.Generator().manual_seed(2))
    assert stats.kstest(t.numpy(), "beta", args=(2.0, 0.7)).pvalue > 1e-3
    again = af.BetaTimes(2.0, 0.7).sample(20_000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(t, again)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_truncated_pairs(name: str) -> None:
    """r is distributed as a draw that is kept only where it is below t."""
    times = INVERTIBLE[name][0]
    r, t = af.TimePairs(times, pairing="truncated").pairs(20_000, generator=torch.Generator().manual_seed(3))
    assert (r <= t).all()
    assert stats.ks_2samp(t.numpy(), reference_draws(name, 20_000)).pvalue > 1e-3
    random = np.random.default_rng(7)
    wanted = []
    pool = reference_draws(name, 20_000)
    for time in t.numpy()[:4000]:
        below = pool[pool <= time]
        if len(below):
            wanted.append(random.choice(below))
    assert len(wanted) > 3900
    assert stats.ks_2samp(r.numpy()[:4000], np.array(wanted)).pvalue > 1e-3


def test_zero_pairs() -> None:
    r, t = af.TimePairs(af.UniformTimes(), pairing="zero").pairs(100, generator=torch.Generator().manual_seed(3))
    assert (r == 0).all()
    assert torch.equal(t, af.UniformTimes().sample(100, generator=torch.Generator().manual_seed(3)))


def test_dyadic_grid() -> None:
    """Jumps 1, ½, …, 1/64 equally often, from multiples of the jump, each equally often; single times on 1/128."""
    times = af.DyadicPairs(128)
    r, t = times.pairs(70_000, generator=torch.Generator().manual_seed(4))
    jump = (t - r).numpy()
    sizes, counts = np.unique(jump, return_counts=True)
    assert sizes.tolist() == [2.0**-k for k in range(6, -1, -1)]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (r / (t - r) == (r / (t - r)).round()).all()
    assert r.min() == 0
    assert t.max() == 1
    places, counts = np.unique(r.numpy()[jump == 1 / 64], return_counts=True)
    assert len(places) == 64
    assert stats.chisquare(counts).pvalue > 1e-3
    single = times.sample(20_000, generator=torch.Generator().manual_seed(5))
    values, counts = np.unique(single.numpy() * 128, return_counts=True)
    assert values.tolist() == list(range(1, 129))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("pairing", ["sorted", "min", "product"])
def test_pairs(pairing: str) -> None:
    pairs = af.TimePairs(af.UniformTimes(), pairing=pairing)  # type: ignore[arg-type]
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
