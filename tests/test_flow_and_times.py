"""The straight path's identities, and the distributions of times."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import alphaflow as af
from alphaflow.describe import describe, rebuild
from alphaflow.runs.composed import OBJECTIVES
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


def logit_normal(mean: float, std: float, n: int, seed: int) -> np.ndarray:
    """Independent draws, by numpy."""
    return 1 / (1 + np.exp(-np.random.default_rng(seed).normal(mean, std, n)))


def test_pairs_of_distributions_of_their_own() -> None:
    """t, r and the times of r = t each from their own; sorted, or the smaller of r's draw and t."""
    n = 20_000
    a, b, c = (logit_normal(mean, std, n, i) for i, (mean, std) in enumerate([(0.2, 0.8), (-1.0, 0.7), (0.5, 0.3)]))
    own = {"r_times": af.LogitNormal(-1.0, 0.7), "fm_times": af.LogitNormal(0.5, 0.3)}
    expected = {"sorted": (np.minimum(a, b), np.maximum(a, b)), "min": (np.minimum(a, b), a), "product": (a * b, a)}
    for pairing, wanted in expected.items():
        pairs = af.TimePairs(af.LogitNormal(0.2, 0.8), pairing, **own)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(3)
        for found, known in zip(pairs.pairs(n, generator=generator), wanted, strict=True):
            assert stats.ks_2samp(found.numpy(), known).pvalue > 1e-3, pairing
        assert stats.ks_2samp(pairs.sample(n, generator=generator).numpy(), c).pvalue > 1e-3


def test_a_truncated_pair_of_two_distributions() -> None:
    """r is its own distribution's draw, given that it is below t; by rejection."""
    t, r = logit_normal(0.2, 0.8, 60_000, 1), logit_normal(0.0, 0.7, 60_000, 2)
    pairs = af.TimePairs(af.LogitNormal(0.2, 0.8), "truncated", r_times=af.LogitNormal(0.0, 0.7))
    found_r, found_t = pairs.pairs(20_000, generator=torch.Generator().manual_seed(3))
    assert stats.ks_2samp(found_t.numpy(), t).pvalue > 1e-3
    bins = np.digitize(found_t.numpy(), [0.3, 0.5, 0.7]), np.digitize(t, [0.3, 0.5, 0.7])
    for place in range(4):
        kept = r[(bins[1] == place)][:], t[bins[1] == place]
        below = kept[0][kept[0] <= kept[1]]
        mine = found_r.numpy()[bins[0] == place]
        # within a narrow range of t, rejection and truncation differ by the chance of being kept, which is nearly even
        assert abs(np.median(mine) - np.median(below)) < 0.03
    assert (found_r <= found_t).all()


def test_gap_pairs() -> None:
    """The gap, then an r given that it leaves room, by rejection; t = r + gap."""
    gaps, draws = logit_normal(-0.8, 1.0, 20_000, 1), logit_normal(-0.4, 1.0, 400_000, 2).reshape(20, -1)
    fits = draws <= 1 - gaps
    r = draws[fits.argmax(0), np.arange(20_000)][fits.any(0)]
    found_r, found_t = af.GapPairs().pairs(20_000, generator=torch.Generator().manual_seed(3))
    assert ((found_r >= 0) & (found_r <= found_t) & (found_t <= 1)).all()
    assert stats.ks_2samp((found_t - found_r).numpy(), gaps).pvalue > 1e-3
    assert fits.any(0).mean() > 0.99
    assert stats.ks_2samp(found_r.numpy(), r).pvalue > 1e-3
    times = af.GapPairs(fm_times=af.LogitNormal(0.5, 0.3)).sample(20_000, generator=torch.Generator().manual_seed(3))
    assert stats.ks_2samp(times.numpy(), logit_normal(0.5, 0.3, 20_000, 4)).pvalue > 1e-3


def test_a_share_of_sorted_pairs_set_to_r_t() -> None:
    """Original MeanFlow's way: without a partner t is the larger of two draws."""
    pairs = af.TimePairs(af.LogitNormal(), fm_times="pair")
    found = pairs.sample(20_000, generator=torch.Generator().manual_seed(3)).numpy()
    larger = np.maximum(logit_normal(-0.4, 1.0, 20_000, 1), logit_normal(-0.4, 1.0, 20_000, 2))
    assert stats.ks_2samp(found, larger).pvalue > 1e-3
    assert stats.ks_2samp(found, logit_normal(-0.4, 1.0, 20_000, 3)).pvalue < 1e-6


@pytest.mark.parametrize(("fm", "zero", "b"), [(0.5, 0.1, 40), (0.25, 0.75, 8), (0.3, 0.2, 10), (0.0, 1.0, 7)])
def test_a_share_with_r_zero_is_a_count_of_the_whole_batch(fm: float, zero: float, b: int) -> None:
    """However the batch is cut; among the few-step samples, first of them; t as it was drawn."""
    objective = af.MeanFlow(fm_share=fm, zero_share=zero)
    for size in (1, 2, 3, b):
        starts = range(0, b, size)
        parts = [(objective.few(min(size, b - s), 0, s), objective.zeros(min(size, b - s), 0, s)) for s in starts]
        assert all(0 <= zeros <= few for few, zeros in parts)
        assert sum(few for few, _ in parts) == b - round(fm * b)
        assert sum(zeros for _, zeros in parts) == round(zero * b)
    x = torch.zeros(b, 3)
    draw = objective.draw(lambda z, r, t, cond: z, x, af.Cond(), 0, torch.Generator().manual_seed(1))
    plain = af.MeanFlow(fm_share=fm).draw(lambda z, r, t, cond: z, x, af.Cond(), 0, torch.Generator().manual_seed(1))
    zeros = round(zero * b)
    assert (draw.r[:zeros] == 0).all()
    assert torch.equal(draw.r[zeros:], plain.r[zeros:])
    assert torch.equal(draw.t, plain.t)
    assert objective.scalars(0)["zero_share"] == zero
    assert "zero_share" not in af.MeanFlow().scalars(0)


def test_times_of_their_own_are_printed_and_recorded() -> None:
    for times in (
        af.TimePairs(af.LogitNormal(0.2, 0.8), "min", r_times=af.UniformTimes(), fm_times=af.BetaTimes(2.0, 1.0)),
        af.TimePairs(fm_times="pair"),
        af.GapPairs(gap=af.UniformTimes(), r_times=af.TruncatedLogitNormal(0.0, 1.0, high=0.9)),
    ):
        made = af.MeanFlow(times=times, zero_share=0.1, balance=True, weighting=af.AdaptiveWeighting(scale_c=True))
        public = {name: getattr(af, name) for name in af.__all__}
        assert eval(repr(made), public) == made
        assert rebuild(json.loads(json.dumps(describe(made))), OBJECTIVES) == made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.TimePairs(r_times=af.UniformTimes), "times are distributions"),  # type: ignore[arg-type]
        (lambda: af.TimePairs(fm_times="t"), "times are distributions"),  # type: ignore[arg-type]
        (lambda: af.TimePairs(pairing="zero", r_times=af.UniformTimes()), "draws no r"),
        (lambda: af.TimePairs(pairing="truncated", r_times=af.BetaTimes()), "cdf and quantile"),
        (lambda: af.GapPairs(r_times=af.BetaTimes()), "GapPairs needs times with cdf"),
        (lambda: af.GapPairs(gap=0.5), "times are distributions"),  # type: ignore[arg-type]
        (lambda: af.GapPairs(fm_times=af.DyadicPairs(8)), "times are distributions"),
        (lambda: af.TimePairs(af.GapPairs()), "times are distributions"),
        (lambda: af.GapPairs(r_times=af.TruncatedLogitNormal(low=0.3)), "reach down to 0"),
        (lambda: af.TimePairs(pairing="truncated", r_times=af.TruncatedLogitNormal(low=0.3)), "reach down to 0"),
    ],
)
def test_wrong_times(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_grids() -> None:
    assert grid(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    for wrong in [(1.0,), (0.9, 0.0), (1.0, 0.5), (1.0, 0.5, 0.5, 0.0), (1.0, float("nan"), 0.0)]:
        with pytest.raises(ValueError, match="fall strictly"):
            check_grid(wrong)
