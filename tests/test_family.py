"""Every objective of the family against a slow reference: one sample at a time, written from the formulas.

The references share only the random draw (times, noise, dropped labels) with the code under test. du/dt is taken by
double backward differentiation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.describe import describe, rebuild
from alphaflow.guidance_input import guidance_setting
from alphaflow.objectives.guided import guided_velocity

SHAPE = (2, 3)
CLASSES = 4
STEP = 30


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture
def model(smooth: Any) -> torch.nn.Module:
    return smooth(math.prod(SHAPE), CLASSES)


def call(objective: af.Objective, model: Any, batch: Any, seed: int = 7, **options: Any) -> af.Loss:
    return objective(model, *batch, STEP, torch.Generator().manual_seed(seed), **options)


def derivative(u: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """v·∂_z u + ∂_t u by double backward differentiation."""
    _, found = torch.autograd.functional.jvp(u, (z, t), (v, torch.ones_like(t)))
    return found.detach()


def two_jumps(u: Any, z: Tensor, r: float, t: float, alpha: float) -> Tensor:
    s = alpha * r + (1 - alpha) * t
    first = u(z, s, t)
    second = u(z - (t - s) * first, r, s)
    return ((t - s) * first + (s - r) * second) / (t - r)


# One few-step sample's loss, from: u(z, r, t) of the network under the sample's condition, z, r, t, ṽ, the objective,
# and α where a family draws it.


def adaptive(error: Tensor) -> Tensor:
    return error / (error.item() + 1e-3)


def shortcut(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    target = two_jumps(u, z, r, t, 0.5).detach()
    return ((u(z, r, t) - target) ** 2).mean() / 0.5


def split(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    target = two_jumps(u, z, r, t, alpha).detach()
    return ((u(z, r, t) - target) ** 2).mean() / alpha


def consistency(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    n = 12  # intervals
    assert r == 0
    assert t * n == pytest.approx(round(t * n))
    s = t - 1 / n

    def f(z: Tensor, t: float) -> Tensor:
        return z - t * u(z, 0.0, t)

    z_s = z - (t - s) * v
    clean = f(z_s, s).detach() if s > 1e-9 else z_s
    distance = (((f(z, t) - clean) ** 2).mean() + 0.00054**2).sqrt() - 0.00054
    return distance / (t - s)


def continuous(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    time = torch.tensor([t], dtype=z.dtype)

    def f(z: Tensor, time: Tensor) -> Tensor:
        return z - time * u(z, 0.0, time)

    whole = derivative(f, z, time, v)  # df/dt = v − u − t·du/dt
    flow = v - u(z, 0.0, t).detach()
    ramp = STEP / 40
    tangent = flow + ramp * (whole - flow)
    tangent = tangent / ((tangent**2).mean().sqrt() + 0.1)
    w = objective.network(time).squeeze()
    prediction = u(z, 0.0, t)
    return w.exp() * ((prediction - prediction.detach() - tangent) ** 2).mean() - w


def facm(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    time = torch.tensor([t], dtype=z.dtype)
    average = v - t * derivative(lambda z, time: u(z, 0.0, time), z, time, v)
    prediction = u(z, 0.0, t)
    step = torch.clip(prediction.detach() - average, -1, 1)
    target = prediction.detach() - (1 - (1 - t) ** 0.5) * step
    e = ((prediction - target) ** 2).mean()
    return math.sin(t * math.pi / 2) * e / math.sqrt(e.item() + 1e-3)


def improved(u: Any, z: Tensor, r: float, t: float, v: Tensor, objective: Any, alpha: float) -> Tensor:
    time = torch.tensor([t], dtype=z.dtype)
    dudt = derivative(lambda z, time: u(z, r, time), z, time, u(z, t, t).detach())
    compound = u(z, r, t) + (t - r) * dudt
    return adaptive(((compound - v) ** 2).mean())


def unweighted(u: Any, z: Tensor, t: float, v: Tensor) -> Tensor:
    return ((u(z, t, t) - v) ** 2).mean()


def flow(u: Any, z: Tensor, t: float, v: Tensor) -> Tensor:
    return adaptive(((u(z, t, t) - v) ** 2).mean())


def anchor(u: Any, z: Tensor, t: float, v: Tensor) -> Tensor:
    prediction = u(z, t, t)
    a, b = prediction[0], v[0]  # (channels, length)
    lengths = [max(a[:, i].norm(), 0.1) * max(b[:, i].norm(), 0.1) for i in range(a.shape[1])]
    cosines = [a[:, i] @ b[:, i] / lengths[i] for i in range(a.shape[1])]
    return ((prediction - v) ** 2).mean() + 1 - sum(cosines) / len(cosines)  # type: ignore[no-any-return]


FAMILY = {
    "shortcut": (af.Shortcut(fm_share=0.25), shortcut, unweighted),
    "split": (af.SplitMeanFlow(fm_share=0.25), split, unweighted),
    "consistency": (af.ConsistencyTraining(fm_share=0.25, intervals=12), consistency, flow),
    "continuous": (af.ContinuousConsistency(fm_share=0.25, warmup=40), continuous, flow),
    "facm": (af.FACM(fm_share=0.25), facm, anchor),
    "improved": (af.ImprovedMeanFlow(fm_share=0.25), improved, flow),
}
GUIDANCE = {
    "plain": None,
    "guided": af.Guidance(omega=0.5, kappa=0.6, interval=(0.1, 0.9), label_drop=0.4),
}


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE)
@pytest.mark.parametrize("name", FAMILY)
def test_value_and_gradient_equal_the_reference(name: str, guidance: Any, model: Any, batch: Any, grad: Any) -> None:
    made, few_step, rest = FAMILY[name]
    objective = replace(made, guidance=guidance)
    if objective.network is not None:
        torch.nn.init.normal_(objective.network.double().weight, std=0.3)
    loss = call(objective, model, batch)
    generator = torch.Generator().manual_seed(7)
    draw = objective.draw(model, *batch, STEP, generator)
    assert draw.few == 6
    alphas = torch.rand(6, dtype=torch.float64, generator=generator)
    losses = []
    for i in range(8):
        z, v, y = draw.z[i : i + 1], draw.v[i : i + 1], draw.cond[i : i + 1]

        def u(z: Tensor, r: Any, t: Any, y: af.Cond = y) -> Tensor:
            r, t = (torch.as_tensor(time, dtype=torch.float64).reshape(1) for time in (r, t))
            return model(z, r, t, y)

        r, t = float(draw.r[i]), float(draw.t[i])
        if i < 6:
            assert r < t
            losses.append(few_step(u, z, r, t, v, objective, float(alphas[i])))
        else:
            assert r == t
            losses.append(rest(u, z, t, v))
    expected: Tensor = sum(losses) / 8  # type: ignore[assignment]
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-11)
    assert relative(grad(model, loss.total), grad(model, expected)) < 1e-11
    if objective.network is not None:
        assert relative(grad(objective.network, loss.total), grad(objective.network, expected)) < 1e-11


@pytest.mark.parametrize("name", FAMILY)
def test_targets_carry_no_gradient(name: str, model: Any, batch: Any, grad: Any) -> None:
    """A frozen copy of the network inside the target changes nothing, bit for bit in value, in gradient to rounding."""
    objective = replace(FAMILY[name][0], fm_share=0.0)
    loss = call(objective, model, batch)
    frozen = copy.deepcopy(model).requires_grad_(False)
    draw = objective.draw(frozen, *batch, STEP, torch.Generator().manual_seed(7))
    target = objective.target(frozen, draw.few_step(), STEP)
    assert not target.u.requires_grad
    assert not target.alpha.requires_grad
    u = model(draw.z, draw.r, draw.t, draw.cond)
    if objective.network is not None:  # replace() made another network: zero weights, like a new one
        assert float(objective.network(draw.t).detach().abs().max()) == 0
    by_hand = objective.few_step_loss(u, target, draw).mean()
    assert relative(grad(model, loss.total), grad(model, by_hand)) < 1e-14


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("guidance", [GUIDANCE["guided"], af.GuidanceInputs(label_drop=0.4)], ids=["one", "inputs"])
def test_nothing_passed_in_changes_and_same_seed_same_bits(name: str, guidance: Any, model: Any, batch: Any) -> None:
    objective = replace(FAMILY[name][0], guidance=guidance)
    x, cond = batch
    before = x.clone(), cond.labels.clone(), torch.get_rng_state()
    first, again, other = (call(objective, model, batch, seed) for seed in (1, 1, 2))
    assert torch.equal(first.per_sample, again.per_sample)
    assert not torch.equal(first.per_sample, other.per_sample)
    assert torch.equal(x, before[0])
    assert torch.equal(cond.labels, before[1])
    assert set(cond.tensors) == {"labels"}
    assert torch.equal(torch.get_rng_state(), before[2])


def test_half_alpha_with_the_networks_own_velocity_is_shortcut(model: Any, batch: Any, grad: Any) -> None:
    """α-Flow at α = ½ with ṽ = u⁻(z_t, s, t): the same target and weight, so the same gradient."""
    draw = af.Shortcut(fm_share=0.0).draw(model, *batch, 0, torch.Generator().manual_seed(3))
    s = (draw.r + draw.t) / 2
    with torch.no_grad():
        own = model(draw.z, s, draw.t, draw.cond)
    by_alpha_flow = af.AlphaFlow(alpha=0.5).target(model, replace(draw, v=own), 0)
    shortcut = af.Shortcut().target(model, draw, 0)
    assert relative(shortcut.u, by_alpha_flow.u) < 1e-14
    assert torch.equal(shortcut.alpha, by_alpha_flow.alpha)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_split_mean_flow_is_alpha_flow_with_its_own_velocity(alpha: float, model: Any, batch: Any) -> None:
    from alphaflow.objectives.shortcut import two_jumps as library

    draw = af.SplitMeanFlow(fm_share=0.0).draw(model, *batch, 0, torch.Generator().manual_seed(3))
    s = alpha * draw.r + (1 - alpha) * draw.t
    with torch.no_grad():
        own = model(draw.z, s, draw.t, draw.cond)
    expected = af.AlphaFlow(alpha=alpha).target(model, replace(draw, v=own), 0)
    each = torch.full_like(draw.t, alpha)
    found = af.SplitMeanFlow().between(*library(model, draw, each), each)
    assert relative(found.u, expected.u) < 1e-14


@pytest.mark.parametrize("alpha", [0.5, 0.1])
def test_alpha_flow_at_r_zero_is_consistency_training(alpha: float, model: Any, batch: Any, grad: Any) -> None:
    """α⁻¹‖u − T‖² has the gradient of ‖f(z_t, t) − f⁻(z_s, s)‖² / (α·t²), f(z, t) = z − t·u(z, 0, t), s = (1 − α)·t."""
    times = af.TimePairs(af.LogitNormal(), pairing="zero")
    objective = af.AlphaFlow(alpha=alpha, fm_share=0.0, times=times, weighting=af.InverseAlphaWeighting())
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    zero, t = torch.zeros_like(draw.t), draw.t
    s = (1 - alpha) * t
    gap = (t - s)[:, None, None]
    f = draw.z - t[:, None, None] * model(draw.z, zero, t, draw.cond)
    z_s = draw.z - gap * draw.v
    f_s = (z_s - s[:, None, None] * model(z_s, zero, s, draw.cond)).detach()
    expected = (((f - f_s) ** 2).mean((1, 2)) / (alpha * t**2)).mean()
    assert relative(grad(model, loss.total), grad(model, expected)) < 1e-12


def test_shortcuts_shortest_jumps_use_the_instantaneous_velocity(model: Any) -> None:
    """On the dyadic grid a jump of 2/steps is two of 1/steps, which are taken at r = t."""
    objective = af.Shortcut(times=af.DyadicPairs(8))
    z = torch.randn(2, *SHAPE, dtype=torch.float64)
    r, t = torch.tensor([0.25, 0.5], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    found = objective.target(model, af.TrainingDraw(z, r, t, z, af.Cond(), 2), 0).u
    for i, finest in enumerate((True, False)):
        one, middle = z[i : i + 1], (r + t)[i : i + 1] / 2
        start, end = t[i : i + 1], r[i : i + 1]
        first = model(one, start if finest else middle, start, af.Cond())
        half = one - (start - middle)[:, None, None] * first
        second = model(half, middle if finest else end, middle, af.Cond())
        assert relative(found[i : i + 1], (first + second) / 2) < 1e-14


@pytest.mark.parametrize("name", ["shortcut", "split", "consistency", "improved"])
def test_ema_target(name: str, smooth: Any, model: Any, batch: Any) -> None:
    """With ema_target every u⁻ is the averaged network's; without one it is refused."""
    average = smooth(math.prod(SHAPE), CLASSES)
    objective = replace(FAMILY[name][0], ema_target=True)
    loss = call(objective, model, batch, ema=average)
    generator = torch.Generator().manual_seed(7)
    draw = objective.draw(average, *batch, STEP, generator)
    target = objective.target(average, draw.few_step(), STEP)
    u = model(draw.z, draw.r, draw.t, draw.cond)
    expected = objective.few_step_loss(u[: draw.few], target, draw.few_step())
    assert torch.equal(loss.per_sample[: draw.few], expected)
    assert not torch.allclose(loss.per_sample[:6], call(FAMILY[name][0], model, batch).per_sample[:6])
    with pytest.raises(ValueError, match="ema_target: pass the averaged network"):
        call(objective, model, batch)


@pytest.mark.parametrize("make", [af.ContinuousConsistency, af.FACM])
def test_no_ema_target_where_the_target_starts_at_u(make: Any) -> None:
    with pytest.raises(ValueError, match="no ema_target"):
        make(ema_target=True)


def test_teacher(smooth: Any, model: Any, batch: Any, grad: Any) -> None:
    """The teacher's velocity at r = t stands in place of ε − x, under the sample's condition, without gradient."""
    teacher = smooth(math.prod(SHAPE), CLASSES)
    objective = af.FlowMatching(
        teacher=teacher, weighting=af.InverseAlphaWeighting(), guidance=af.Guidance(label_drop=0.5)
    )
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    assert (draw.cond.labels == af.NO_CLASS).any()
    velocity = teacher(draw.z, draw.t, draw.t, draw.cond).detach()
    assert torch.equal(draw.v, velocity)
    expected = ((model(draw.z, draw.t, draw.t, draw.cond) - velocity) ** 2).mean()
    assert relative(grad(model, loss.total), grad(model, expected)) < 1e-13
    torch.autograd.backward(loss.total)
    assert all(weight.grad is None for weight in teacher.parameters())


class Guided(af.Network):
    """A network with guidance as an input and, if asked, a velocity head. float64."""

    takes_guidance = True

    def __init__(self, inner: Any, velocity_head: bool) -> None:
        super().__init__()
        self.u, self.v = inner(math.prod(SHAPE) + 3, CLASSES), inner(math.prod(SHAPE) + 3, CLASSES)
        self.velocity_head = velocity_head

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond, velocity: bool = False) -> Any:
        joined = torch.cat([z.flatten(1), cond.guidance.to(z.dtype)], dim=1)
        u, v = (net(joined, r, t, cond)[:, :-3].view_as(z) for net in (self.u, self.v))
        return (u, v) if velocity else u


@pytest.mark.parametrize("head", [False, True], ids=["boundary", "head"])
def test_improved_mean_flow_with_guidance_inputs(head: bool, smooth: Any, batch: Any, grad: Any) -> None:
    """v_g = v + (1 − 1/ω)(v_c − v_u) inside the interval; the derivative along v_c; the head's own loss."""
    model = Guided(smooth, head)
    objective = af.ImprovedMeanFlow(
        fm_share=0.5, guidance=af.GuidanceInputs(label_drop=0.3), weighting=af.InverseAlphaWeighting()
    )
    loss = call(objective, model, batch, seed=2)
    x, _ = batch
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(2))
    settings, labels = draw.cond.guidance, draw.cond.labels
    noise = (draw.z - (1 - draw.t)[:, None, None] * x) / draw.t[:, None, None]
    losses, guided, plain = [], 0, 0
    for i in range(8):
        z, v = draw.z[i : i + 1], (noise - x)[i : i + 1]
        r, t, y = draw.r[i : i + 1], draw.t[i : i + 1], int(labels[i])
        omega, t_min, t_max = settings[i].tolist()

        def net(z: Tensor, r: Tensor, t: Tensor, y: int, scale: float, low: float, high: float, which: int) -> Tensor:
            row = torch.tensor([[scale, low, high]], dtype=torch.float64)
            return model(z, r, t, af.Cond(labels=torch.tensor([y]), guidance=row), velocity=True)[which]

        if i >= 4:
            assert (t_min, t_max) == (0, 1)
        scale = omega if t_min <= float(t) <= t_max else 1.0
        v_c = net(z, t, t, y, scale, 0.0, 1.0, int(head)).detach()
        v_u = net(z, t, t, -1, 1.0, 0.0, 1.0, int(head)).detach()
        target = v if y == -1 else v + (1 - 1 / scale) * (v_c - v_u)
        guided, plain = guided + (y != -1 and scale != 1), plain + (y == -1 or scale == 1)
        u = net(z, r, t, y, omega, t_min, t_max, 0)
        compound = u
        if i < 4:
            args = (r, y, omega, t_min, t_max)
            dudt = derivative(lambda z, t, a=args: net(z, a[0], t, *a[1:], 0), z, t, v_c)
            compound = u + (t - r)[:, None, None] * dudt
        error = ((compound - target) ** 2).mean()
        if head:
            error = error + ((net(z, r, t, y, omega, t_min, t_max, 1) - target) ** 2).mean()
        losses.append(error)
    assert guided >= 2
    assert plain >= 2
    expected: Tensor = sum(losses) / 8  # type: ignore[assignment]
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-11)
    found = torch.autograd.grad(loss.total, list(model.parameters()), allow_unused=True, retain_graph=True)
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None) or float((a if b is None else b).abs().max()) == 0  # type: ignore[union-attr]
        assert a is None or b is None or float((a - b).norm()) < 1e-11 * (1 + float(b.norm()))


def test_guidance_inputs_are_drawn_as_stated() -> None:
    guidance = af.GuidanceInputs(scales=(1.0, 8.0), starts=(0.0, 0.5), ends=(0.5, 1.0), label_drop=0.25)
    t = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    r = torch.where(torch.arange(20_000) < 10_000, t / 2, t)
    cond, mask = guidance.drop(af.Cond(labels=torch.ones(20_000, dtype=torch.long)), r, t, torch.Generator())
    omega, low, high = cond.guidance.unbind(1)
    from scipy import stats

    assert stats.kstest((omega.log() / math.log(8)).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((low[:10_000] * 2).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((high[:10_000] * 2 - 1).numpy(), "uniform").pvalue > 1e-3
    assert (low[10_000:] == 0).all()
    assert (high[10_000:] == 1).all()
    assert mask.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(cond.labels == af.NO_CLASS, mask)


def test_guided_velocity_is_the_cfg_velocity_in_expectation() -> None:
    """Where v_c = v_u + ω(E[v] − v_u), v_g's expectation is v_c: the fixed point of training is CFG at scale ω."""
    omega, mean, free = 3.0, 0.7, -0.2
    fixed = free + omega * (mean - free)

    def model(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        value = torch.where(cond.labels == af.NO_CLASS, free, fixed)
        return value.to(z.dtype)[:, None].expand_as(z)

    z, t = torch.zeros(1, 2), torch.tensor([0.5])
    cond = af.Cond(labels=torch.tensor([1]), guidance=guidance_setting(1, omega))
    v = torch.full((1, 2), mean)
    found = guided_velocity(af.GuidanceInputs(), model, z, t, cond, v, torch.tensor([False])).v
    assert torch.allclose(found, torch.full((1, 2), fixed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.FACM(p=0.0), "p > 0"),
        (lambda: af.ConsistencyTraining(intervals=0), "intervals >= 1"),
        (lambda: af.ContinuousConsistency(warmup=-1), "warmup >= 0"),
        (lambda: af.DoublingIntervals(end=0), "end >= 1"),
        (lambda: af.DyadicPairs(100), "power of two"),
        (lambda: af.FACM(times=af.TimePairs()), "needs r = 0"),
        (lambda: af.TimePairs(af.BetaTimes(2, 2), pairing="truncated"), "cdf and quantile"),
        (lambda: af.TruncatedLogitNormal(low=0.5, high=0.5), "low < high"),
        (lambda: af.LogitNormal(std=0.0), "must be positive"),
        (lambda: af.BetaTimes(0.0, 1.0), "a > 0"),
        (lambda: af.GuidanceInputs(scales=(0.5, 2.0)), "1 <= low"),
        (lambda: af.GuidanceInputs(starts=(0.0, 0.7), ends=(0.5, 1.0)), "starts <= ends"),
        (lambda: af.Shortcut(fm_share=1.2), "fm_share"),
        (lambda: af.MeanFlow(times=af.UniformTimes), "times is a distribution"),
        (lambda: af.MeanFlow(guidance=af.CFG(2.0)), "guidance is Guidance"),
        (lambda: af.AlphaFlow(alpha="x"), "alpha must lie"),
    ],
)
def test_wrong_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_anchor_has_a_moderate_gradient_where_new_networks_begin(batch: Any, grad: Any) -> None:
    """At u = 0 the cosine itself has none that is finite; a DiT begins there."""
    torch.manual_seed(0)
    model = af.DiT((4, 8, 8), patch=2, depth=1, width=32, heads=2)
    loss = af.FACM()(model, torch.randn(16, 4, 8, 8), None, 0, torch.Generator().manual_seed(1))
    norm = grad(model.final, loss.total).norm()
    plain = af.FlowMatching(weighting=af.InverseAlphaWeighting())(
        model, torch.randn(16, 4, 8, 8), None, 0, torch.Generator().manual_seed(1)
    )
    assert norm < 20 * grad(model.final, plain.total).norm()


def test_half_precision_samples_train_in_float32(smooth: Any) -> None:
    """Times in bfloat16 would round t − 1/N to t."""
    x = torch.randn(8, 6).to(torch.bfloat16)
    objective = af.ConsistencyTraining(intervals=1280)
    model = smooth(6, 0).float()
    half = objective(model, x, None, 0, torch.Generator().manual_seed(1)).total
    assert half.isfinite()
    assert torch.equal(half, objective(model, x.float(), None, 0, torch.Generator().manual_seed(1)).total)


def test_only_improved_mean_flow_reads_the_velocity_head(smooth: Any, batch: Any) -> None:
    """Guidance of other objectives takes u⁻(z, t, t), not a head that they don't train."""
    model = Guided(smooth, velocity_head=True)
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.v.outer.weight)
    settings = guidance_setting(8, 1.0).double()
    with_settings = (batch[0], batch[1].replace(guidance=settings))
    objective = af.AlphaFlow(guidance=af.Guidance(omega=1.0, kappa=0.5))
    assert torch.equal(call(objective, model, with_settings).total, call(objective, other, with_settings).total)
    improved = af.ImprovedMeanFlow(guidance=af.Guidance(omega=1.0, kappa=0.5))
    assert not torch.equal(call(improved, model, with_settings).total, call(improved, other, with_settings).total)


def test_a_network_sees_the_instants_own_guidance() -> None:
    """Where r = t only the scale at that instant counts, as in training."""
    settings = torch.tensor([[3.0, 0.2, 0.6]] * 3)
    r, t = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.5, 0.5, 0.9])
    seen = torch.stack(af.guidance_at(af.Cond(guidance=settings), r, t), 1)
    assert torch.allclose(seen, torch.tensor([[3.0, 0.2, 0.6], [3.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))
    assert torch.equal(torch.stack(af.guidance_at(af.Cond(), r, t), 1), torch.tensor([[1.0, 0.0, 1.0]] * 3))


def test_a_teacher_is_not_guided_twice(smooth: Any, batch: Any) -> None:
    """It sees the labels but not the student's guidance settings."""
    seen: list[Any] = []
    inner = smooth(math.prod(SHAPE), CLASSES)

    def teacher(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        seen.append(cond)
        return inner(z, r, t, cond)

    call(af.MeanFlow(teacher=teacher, guidance=af.GuidanceInputs()), inner, batch)
    assert [set(cond.tensors) for cond in seen] == [{"labels"}]


@pytest.mark.parametrize("name", FAMILY)
def test_wrong_output_shape(name: str, batch: Any) -> None:
    with pytest.raises(ValueError, match="model must return u with z's shape"):
        call(FAMILY[name][0], lambda z, r, t, cond: z.flatten(1), batch)


class Reversed:
    """Pairs with r and t exchanged."""

    def sample(self, b: int, device: Any = None, generator: Any = None) -> Tensor:
        return torch.full((b,), 0.5)

    def pairs(self, b: int, device: Any = None, generator: Any = None) -> tuple[Tensor, Tensor]:
        return torch.full((b,), 0.9), torch.full((b,), 0.1)


def test_r_above_t_is_refused(model: Any, batch: Any) -> None:
    with pytest.raises(ValueError, match="drew r > t"):
        call(af.MeanFlow(times=Reversed()), model, batch)
    with pytest.raises(ValueError, match="needs r = 0"):
        af.FACM(times=Reversed())


def test_printing_shows_how_to_build_it_again() -> None:
    for objective, _, _ in FAMILY.values():
        assert eval(repr(objective), {name: getattr(af, name) for name in dir(af)}) == objective
        guided = replace(
            objective, guidance=af.GuidanceInputs(), times=af.TimePairs(af.BetaTimes(2, 1), pairing="zero")
        )
        assert rebuild(describe(guided), {name: getattr(af, name) for name in dir(af)}) == guided
    assert repr(af.Shortcut(times=af.DyadicPairs(64))) == "Shortcut(times=DyadicPairs(steps=64))"
