"""Lagrangian, terminal velocity, Align Your Flow, transition models, decoupled MeanFlow, SoFlow; directions, balance.

Values and gradients against a slow reference, one sample at a time, written from the formulas; derivatives there are by
double backward differentiation. Only the random draw is shared with the code under test.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow.objectives import align_your_flow
from alphaflow.objectives.eulerian import tangent

SHAPE, CLASSES, STEP, ELEMENTS = (2, 3), 4, 30, 6


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture
def model(smooth: Any) -> nn.Module:
    return smooth(ELEMENTS, CLASSES)


def call(objective: af.Objective, model: Any, batch: Any, seed: int = 7, **options: Any) -> af.Loss:
    return objective(model, *batch, STEP, torch.Generator().manual_seed(seed), **options)


def slope(u: Callable[..., Tensor], at: tuple[Any, ...], along: tuple[Any, ...], graph: bool = False) -> Tensor:
    """The derivative of u(z, r, t) in a direction (dz, dr, dt)."""
    z, *times = at
    points = (z, *(torch.tensor([time], dtype=torch.float64) for time in times))
    moves = (along[0] + torch.zeros_like(z), *(torch.tensor([m], dtype=torch.float64) for m in along[1:]))
    _, found = torch.autograd.functional.jvp(u, points, moves, create_graph=graph)
    return found if graph else found.detach()


def square(a: Tensor) -> Tensor:
    return sum(value**2 for value in a.flatten()) / ELEMENTS  # type: ignore[return-value]


def adaptive(e: Tensor) -> Tensor:
    return e / (e.item() + 1e-3)


# One few-step sample's loss from u, z, r, t, ṽ, its own path's velocity, and the objective.


def lagrangian(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    end = (z - (t - r) * u(z, r, t)).detach()
    target = u(end, r, r).detach() + (t - r) * slope(u, (z, r, t), (0, 1, 0))
    return square(u(z, r, t) - target)


def terminal(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    end = (z - (t - r) * u(z, r, t)).detach()
    moving = u(z, r, t) - (t - r) * slope(u, (z, r, t), (0, 1, 0), graph=True)
    return square(moving - u(end, r, r).detach())


def align(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    kappa = 0.99 * STEP / 40
    g = v - u(z, r, t).detach() - kappa * (t - r) * slope(u, (z, r, t), (v, 0, 1))
    g = g / (math.sqrt(sum(float(value) ** 2 for value in g.flatten())) + 0.1)
    end, moved = z - (t - r) * u(z, r, t), (z - (t - r) * u(z, r, t)).detach() - g
    return square(end - moved)


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    a, b = prediction[0], target[0]  # (channels, length)
    lengths = [max(a[:, i].norm(), 0.1) * max(b[:, i].norm(), 0.1) for i in range(a.shape[1])]
    cosines = [a[:, i] @ b[:, i] / lengths[i] for i in range(a.shape[1])]
    e = square(prediction - target) + 1 - sum(cosines) / len(cosines)
    return e / (e.item() + 1e-5)  # type: ignore[no-any-return]


def transition(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    high, low = min(t + 0.005, 1), max(t - 0.005, min(r, 1 - 0.005))
    change = u(z + (high - t) * path, r, high) - u(z + (low - t) * path, r, low)
    target = v - (t - r) * change.detach() / (high - low)
    return cosine_loss(u(z, r, t), target) / math.sqrt(math.tan(t) - math.tan(r) + 1)


def cauchy(e: Tensor, r: float, t: float, objective: Any) -> Tensor:
    w, lam = objective.network.weight, objective.network.bias
    for k, rate in enumerate(objective.network.rates.tolist()):  # π, 2π, … 16π in float32
        assert rate == pytest.approx((k + 1) * math.pi, rel=1e-6)
        lam = lam + w[k] * math.sin(rate * r) + w[16 + k] * math.sin(rate * t)
        lam = lam + w[32 + k] * math.cos(rate * r) + w[48 + k] * math.cos(rate * t)
    return torch.log(e * torch.exp(-lam) + 0.01) + lam


def decoupled(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    target = v - (t - r) * slope(u, (z, r, t), (v, 0, 1))
    return cauchy(square(u(z, r, t) - target), r, t, objective)


def soflow(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    alpha = 0.1 * (0.002 / 0.1) ** (STEP / 100)
    s = alpha * r + (1 - alpha) * t
    target = alpha * v + (1 - alpha) * u(z - (t - s) * v, r, s).detach()
    e = square(u(z, r, t) - target)
    return e * alpha / (e.item() + 0.01 * alpha**2)


def between(u: Any, z: Tensor, r: float, t: float, v: Tensor, path: Tensor, objective: Any) -> Tensor:
    direction = 0.7 * v + 0.3 * u(z, t, t).detach()
    target = v - (t - r) * slope(u, (z, r, t), (direction, 0, 1))
    return adaptive(square(u(z, r, t) - target))


def plain_flow(u: Any, z: Tensor, t: float, v: Tensor, objective: Any) -> Tensor:
    return square(u(z, t, t) - v)


def adaptive_flow(u: Any, z: Tensor, t: float, v: Tensor, objective: Any) -> Tensor:
    e = square(u(z, t, t) - v)
    return e / (e.item() + objective.weighting.c)


def cosine_flow(u: Any, z: Tensor, t: float, v: Tensor, objective: Any) -> Tensor:
    return cosine_loss(u(z, t, t), v)


def cauchy_flow(u: Any, z: Tensor, t: float, v: Tensor, objective: Any) -> Tensor:
    return cauchy(square(u(z, t, t) - v), t, t, objective)


NONE = af.Constant(0.0)
"""No sample with r = t, as a schedule: a number is refused where nothing else would hold a network to the data."""
FALLING = af.Exponential(end=100, first=0.1, last=0.002, clamp=0.0)
MAPS: dict[str, tuple[Any, Any, Any]] = {
    "lagrangian": (af.Lagrangian(fm_share=0.25), lagrangian, plain_flow),
    "terminal": (af.TerminalVelocity(fm_share=0.25), terminal, plain_flow),
    "align": (af.AlignYourFlow(fm_share=0.25, warmup=40), align, adaptive_flow),
    "transition": (af.TransitionModel(fm_share=0.25, zero_share=0.25), transition, cosine_flow),
    "decoupled": (af.DecoupledMeanFlow(fm_share=0.25), decoupled, cauchy_flow),
    "soflow": (af.SoFlow(fm_share=0.25, alpha=FALLING), soflow, adaptive_flow),
    "direction": (af.MeanFlow(fm_share=0.25, direction=0.3), between, adaptive_flow),
}
GUIDED = af.Guidance(omega=0.5, kappa=0.6, interval=(0.1, 0.9), label_drop=0.4)


@pytest.mark.parametrize("guidance", [None, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("name", MAPS)
def test_value_and_gradient_equal_the_reference(name: str, guidance: Any, model: Any, batch: Any, grad: Any) -> None:
    made, few_step, rest = MAPS[name]
    objective = replace(made, guidance=guidance)
    if objective.network is not None:
        nn.init.normal_(objective.network.double().weight, std=0.3)
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    assert draw.few == 6
    assert int((draw.r == 0).sum()) == (2 if name == "transition" else 0)
    losses = []
    for i in range(8):
        z, v, y = draw.z[i : i + 1], draw.v[i : i + 1], draw.cond[i : i + 1]
        r, t = float(draw.r[i]), float(draw.t[i])
        path = (z - batch[0][i]) / t  # z_t = x + t·(ε − x)

        def u(z: Tensor, r: Any, t: Any, y: af.Cond = y) -> Tensor:
            r, t = (torch.as_tensor(time, dtype=torch.float64).reshape(1) for time in (r, t))
            return model(z, r, t, y)

        if i < 6:
            assert r < t
            losses.append(few_step(u, z, r, t, v, path, objective))
        else:
            assert r == t
            losses.append(rest(u, z, t, v, objective))
    expected: Tensor = sum(losses) / 8  # type: ignore[assignment]
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert relative(grad(model, loss.total), grad(model, expected)) < 1e-9
    if objective.network is not None:
        assert relative(grad(objective.network, loss.total), grad(objective.network, expected)) < 1e-9
    assert all(term.shape == (8,) and not term.requires_grad for term in loss.terms.values())


class Target(nn.Module):
    """The network in training where gradients are on, a frozen one where they are off."""

    def __init__(self, live: nn.Module, frozen: nn.Module) -> None:
        super().__init__()
        self.live, self.frozen = live, frozen

    def forward(self, *arguments: Any) -> Tensor:
        out: Tensor = (self.live if torch.is_grad_enabled() else self.frozen)(*arguments)
        return out


@pytest.mark.parametrize("name", MAPS)
def test_targets_carry_no_gradient(name: str, model: Any, batch: Any, grad: Any) -> None:
    """With a frozen twin in every target the gradient is the same; where the twin is moved, it is another."""
    objective = MAPS[name][0]
    exact, twin = grad(model, call(objective, model, batch).total), copy.deepcopy(model).requires_grad_(False)
    both = Target(model, twin)
    assert relative(grad(model, call(objective, both, batch).total), exact) < 1e-13
    twin.outer.weight.mul_(1.01)
    assert relative(grad(model, call(objective, both, batch).total), exact) > 1e-5


def test_terminal_velocity_has_the_gradient_through_its_derivative(model: Any, batch: Any, grad: Any) -> None:
    """Its values are the Lagrangian's, its gradient isn't; the difference is what −2(t − r)·residual makes of ∂_r u."""
    terminal, lagrangian = af.TerminalVelocity(fm_share=NONE), af.Lagrangian(fm_share=NONE, times=af.GapPairs())
    losses = [call(each, model, batch) for each in (terminal, lagrangian)]
    assert torch.allclose(losses[0].per_sample, losses[1].per_sample, rtol=1e-12)
    whole, without = (grad(model, loss.total) for loss in losses)
    draw = terminal.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    gap = (draw.t - draw.r)[:, None, None]
    residual = model(draw.z, draw.r, draw.t, draw.cond) - lagrangian.target(model, draw, STEP).u
    _, change = torch.autograd.functional.jvp(
        lambda r: model(draw.z, r, draw.t, draw.cond), draw.r, torch.ones_like(draw.r), create_graph=True
    )
    unused = 0 * model(draw.z, draw.r, draw.t, draw.cond)  # the last bias has no part in ∂_r u
    expected = grad(model, (-2 * gap * residual.detach() * change + unused).mean())
    assert relative(whole - without, expected) < 1e-12
    assert relative(whole, without) > 0.05


def test_terminal_velocitys_average_gives_the_velocity_only(smooth: Any, model: Any, batch: Any, grad: Any) -> None:
    """With ema_target the derivative stays the network's own, as transition models' does; others' is the average's."""
    average = smooth(ELEMENTS, CLASSES)
    for made in (af.TerminalVelocity(fm_share=NONE), af.TransitionModel(fm_share=0.0)):
        objective = replace(made, ema_target=True)
        loss = call(objective, model, batch, ema=average)
        draw = objective.draw(average, *batch, STEP, torch.Generator().manual_seed(7))
        if isinstance(made, af.TransitionModel):
            assert torch.equal(loss.per_sample, call(made, model, batch).per_sample)
            continue
        u, change = af.total_derivative(model, draw.z, draw.r, draw.t, draw.cond, objective.along(draw, STEP))
        end = af.jump(draw.z, u, draw.t, draw.r)
        moving = u - (draw.t - draw.r)[:, None, None] * change
        expected = ((moving - average(end, draw.r, draw.r, draw.cond)) ** 2).mean()
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)


class Scaled(af.Network):
    """u = ω·F(z, r, t, y, ω), float64."""

    takes_guidance = True

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner(ELEMENTS + 1, CLASSES)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        omega = af.guidance_at(cond, r, t)[0]
        out = self.inner(torch.cat([z.flatten(1), omega[:, None]], dim=1), r, t, cond.without("guidance"))
        return omega[:, None, None] * out[:, :ELEMENTS].view_as(z)


def test_guidance_as_terminal_velocity_has_it(smooth: Any, batch: Any, grad: Any) -> None:
    """ω·v + (1 − ω)·u⁻(z, t, t, ∅), both losses ÷ ω²; samples without a label have ω = 1 and v."""
    model = Scaled(smooth)
    guidance = af.GuidanceInputs(scales=(1.5, 4.0), starts=(0.0, 0.0), ends=(1.0, 1.0), label_drop=0.6, own=False)
    objective = af.TerminalVelocity(guidance=guidance)
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    omegas = draw.cond.guidance[:, 0]
    assert 0 < int((omegas == 1).sum()) < 8
    assert torch.equal(omegas == 1, draw.cond.labels == af.NO_CLASS)
    for i in range(8):
        z, t, y = draw.z[i : i + 1], draw.t[i : i + 1], draw.cond[i : i + 1]
        omega, v = float(omegas[i]), draw.path[i]
        free = model(z, t, t, af.Cond(labels=torch.tensor([af.NO_CLASS])))[0].detach()
        guided = omega * v + (1 - omega) * free
        assert torch.allclose(draw.v[i], guided if i >= draw.few else v, rtol=1e-12)
        if i >= draw.few:
            expected = square(model(z, t, t, y)[0] - guided) / omega**2
            assert float(loss.per_sample[i]) == pytest.approx(float(expected), rel=1e-12)
    unscaled = replace(objective, guidance=None)
    assert torch.equal(unscaled.few_step_loss(draw.z, *plain_parts(draw)), (draw.z**2).mean((1, 2)))


def plain_parts(draw: af.TrainingDraw) -> tuple[af.RegressionTarget, af.TrainingDraw]:
    """A target of 0, and a draw without guidance whose derivative is 0."""
    zero = torch.zeros_like(draw.z)
    return af.RegressionTarget(zero, draw.t), replace(draw, cond=af.Cond(), derived=(zero, zero))


def test_few_step_losses_are_balanced(model: Any, batch: Any, grad: Any) -> None:
    """Each is scaled to the mean loss at r = t; the gradient is that of m·log of each, but for the 1e-5."""
    objective = af.MeanFlow(fm_share=0.5)
    loss, balanced = call(objective, model, batch), call(replace(objective, balance=True), model, batch)
    few, flow = loss.per_sample[:4].detach(), loss.per_sample[4:]
    scale = [float(flow.mean()) / (float(each) + 1e-5) for each in few]
    expected = (sum(s * each for s, each in zip(scale, loss.per_sample[:4], strict=True)) + flow.sum()) / 8
    assert balanced.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert relative(grad(model, balanced.total), grad(model, expected)) < 1e-12
    none = af.MeanFlow(fm_share=NONE, balance=True)  # nothing to balance with
    assert torch.equal(call(none, model, batch).per_sample, call(replace(none, balance=False), model, batch).per_sample)


def test_the_ends_of_the_direction_are_meanflow_and_improved_meanflow(model: Any, batch: Any, grad: Any) -> None:
    options: dict[str, Any] = {"fm_share": 0.5, "guidance": GUIDED}
    pairs = [
        (af.MeanFlow(direction=0.0, **options), af.MeanFlow(**options)),
        (af.MeanFlow(direction=1.0, **options), af.ImprovedMeanFlow(**options)),
    ]
    gradients = []
    for ours, theirs in pairs:
        found, expected = (grad(model, call(each, model, batch).total) for each in (ours, theirs))
        assert relative(found, expected) < 1e-14
        gradients.append(expected)
    assert relative(*gradients) > 1e-3


def test_a_teacher_is_align_your_flows_velocity(smooth: Any, model: Any, batch: Any, grad: Any) -> None:
    teacher = smooth(ELEMENTS, CLASSES)
    objective = replace(MAPS["align"][0], teacher=teacher, fm_share=0.0)
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    assert torch.equal(draw.v, teacher(draw.z, draw.t, draw.t, draw.cond))
    losses = []
    for i in range(8):

        def u(z: Tensor, r: Any, t: Any, y: af.Cond = draw.cond[i : i + 1]) -> Tensor:
            return model(z, *(torch.as_tensor(time, dtype=torch.float64).reshape(1) for time in (r, t)), y)

        z, v = draw.z[i : i + 1], draw.v[i : i + 1].detach()
        losses.append(align(u, z, float(draw.r[i]), float(draw.t[i]), v, v, objective))
    assert relative(grad(model, loss.total), grad(model, sum(losses) / 8)) < 1e-10


class Offset(nn.Module):
    """The exact mean velocity of a Gaussian, and what is linear in (1, r, t, z) beside it, float64."""

    def __init__(self, exact: Any, size: float) -> None:
        super().__init__()
        self.exact = exact
        self.theta = nn.Parameter(torch.full((4, 3), size, dtype=torch.float64))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        more = self.theta[0] + self.theta[1] * r[:, None] + self.theta[2] * t[:, None] + self.theta[3] * z
        return self.exact.u(z, r, t) + more


def test_the_exact_mean_velocity_has_no_gradient(gaussian: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the Lagrangian loss, terminal velocity matching, and Align Your Flow with the marginal velocity, at κ = 1."""
    monkeypatch.setattr(align_your_flow, "LAST", 1.0)
    x = gaussian.sample(64, torch.Generator().manual_seed(1))
    objectives = (
        af.Lagrangian(fm_share=NONE),
        af.TerminalVelocity(fm_share=NONE),
        af.AlignYourFlow(warmup=0, teacher=lambda z, r, t, cond: gaussian.velocity(z, t)),
    )
    for objective in objectives:
        sizes = []
        for size in (0.0, 0.05):
            model = Offset(gaussian, size)
            torch.autograd.backward(call(objective, model, (x, None)).total)
            assert model.theta.grad is not None
            sizes.append(float(model.theta.grad.norm()))
        assert sizes[0] < 1e-9 < 1e-3 < sizes[1], (objective, sizes)


def test_transition_models_target_is_the_mean_velocity_up_to_h_squared(gaussian: Any) -> None:
    """On average over paths: u is linear in z, so that the mean target is that of the mean path."""
    model, generator = Offset(gaussian, 0.0), torch.Generator().manual_seed(1)
    z = gaussian.sample(64, generator)
    r, t = torch.rand(2, 64, dtype=torch.float64, generator=generator).sort(dim=0).values * 0.98
    mean = gaussian.velocity(z, t)
    draw = af.TrainingDraw(z, r, t, mean, af.Cond(), 64, path=mean, how="difference")
    inside = (t - r > 0.005)[:, None]
    found = af.TransitionModel().target(model, draw, 0).u
    exact = af.MeanFlow().target(model, replace(draw, how="exact"), 0).u
    wanted = gaussian.u(z, r, t)
    assert relative(exact, wanted) < 1e-12
    assert 1e-9 < relative(found * inside, wanted * inside) < 1e-4


def test_the_three_corners_agree_on_a_linear_flow(gaussian: Any) -> None:
    """Eulerian, Lagrangian and progressive targets at the exact mean velocity are that."""
    model, generator = Offset(gaussian, 0.0), torch.Generator().manual_seed(1)
    z = gaussian.sample(64, generator)
    r, t = torch.rand(2, 64, dtype=torch.float64, generator=generator).sort(dim=0).values
    draw = af.TrainingDraw(z, r, t, gaussian.velocity(z, t), af.Cond(), 64, generator)
    for objective in (af.MeanFlow(), af.Lagrangian(), af.SplitMeanFlow(), af.Shortcut()):
        assert relative(objective.target(model, draw, 0).u, gaussian.u(z, r, t)) < 1e-10, objective
    _, g = tangent(model, draw, 1.0)
    assert float(g.norm() / draw.v.norm()) < 1e-12


def test_soflow_is_alphaflow_with_its_settings(model: Any, batch: Any) -> None:
    times = af.TimePairs(
        af.LogitNormal(0.2, 0.8), "min", r_times=af.LogitNormal(-1.0, 0.8), fm_times=af.LogitNormal(-0.2, 1.0)
    )
    weighting = af.AdaptiveWeighting(c=0.01, scale_c=True)
    same = af.AlphaFlow(alpha=FALLING, fm_share=0.75, times=times, weighting=weighting)
    found, wanted = call(af.SoFlow(alpha=FALLING), model, batch), call(same, model, batch)
    assert torch.equal(found.per_sample, wanted.per_sample)
    assert not any(af.SoFlow().takes_derivative(step) for step in (0, 400_000, 10**6))


def test_decoupled_meanflows_loss_grows_with_its_weight(model: Any, batch: Any) -> None:
    """log(e^−λ·e + 0.01) + λ = log(e + 0.01·e^λ), for each sample; nor does a small λ overflow."""
    objective = af.DecoupledMeanFlow()
    assert objective.network is not None
    losses = []
    for bias in (-1000.0, -2.0, 0.0, 2.0):
        torch.nn.init.constant_(objective.network.double().bias, bias)
        losses.append(call(objective, model, batch).per_sample.detach())
    assert torch.stack(losses).isfinite().all()
    assert (torch.stack(losses).diff(dim=0) > 0).all()


def test_only_what_a_target_contains_is_guided(model: Any, batch: Any) -> None:
    """The Lagrangian's few-step target has no ṽ: guidance and the teacher see the samples with r = t only."""
    seen: list[int] = []

    def teacher(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        seen.append(len(z))
        return 2 * z

    objective = af.Lagrangian(fm_share=0.25, guidance=GUIDED, teacher=teacher)
    draw = objective.draw(model, *batch, STEP, torch.Generator().manual_seed(7))
    assert seen == [2]
    assert torch.equal(draw.v[:6], draw.path[:6])
    plain = af.MeanFlow(fm_share=0.25, guidance=GUIDED, teacher=lambda z, r, t, cond: 2 * z, times=objective.times)
    assert torch.allclose(draw.v[6:], plain.draw(model, *batch, STEP, torch.Generator().manual_seed(7)).v[6:])


def test_shares_by_schedule_may_meet(model: Any, batch: Any) -> None:
    """Where fm_share reaches 1 no sample is left for r = 0."""
    objective = af.TransitionModel(fm_share=af.Linear(end=40, first=1.0, last=0.0), zero_share=0.5)
    assert [(objective.few(8, step), objective.zeros(8, step)) for step in (0, 10, 20, 40)] == [
        (0, 0), (2, 2), (4, 4), (8, 4)
    ]  # fmt: skip
    assert objective(model, *batch, 0, torch.Generator().manual_seed(1)).total.isfinite()
    few = objective.draw(model, *batch, 40, torch.Generator().manual_seed(1), few=6)
    assert int((few.r == 0).sum()) == 3  # of so many, the same part


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.AlignYourFlow(warmup=-1), "warmup >= 0"),
        (lambda: af.AlignYourFlow(ema_target=True), "no ema_target"),
        (lambda: af.AlignYourFlow(c=math.nan), "c >= 0"),
        (lambda: af.TransitionModel(c=0.0), "c > 0"),
        (lambda: af.Lagrangian(fm_share=0.0), "knows the data by samples with r = t"),
        (lambda: af.TerminalVelocity(fm_share=0.0), "knows the data by samples with r = t"),
        (lambda: af.MeanFlow(alpha=0.5, direction=0.5), "which α = 0.5 doesn't have"),
        (lambda: af.FlowMatching(balance=True), "between 0 and 1"),
        (lambda: af.TransitionModel(fm_share=0.95), "shares of one batch"),
        (lambda: af.MeanFlow(direction=math.nan), "finite number"),
        (lambda: af.MeanFlow(zero_share=-0.1), "zero_share is a share"),
        (lambda: af.FlowMatching(zero_share=0.1), "shares of one batch"),
        (lambda: af.FACM(zero_share=0.1), "no part here"),
        (lambda: af.Shortcut(times=af.DyadicPairs(8), zero_share=0.1), "no part here"),
        (lambda: af.MeanFlow(fm_share=0.0, balance=True), "between 0 and 1"),
        (lambda: af.DecoupledMeanFlow(balance=True), "no balance"),
        (lambda: af.DiT((1, 8, 8), depth=2, width=16, heads=2, late=3), "1 to 2"),
        (lambda: af.DiT((1, 8, 8), depth=2, width=16, heads=2, late=1.5), "1 to 2"),  # type: ignore[arg-type]
        (lambda: af.DiT((1, 8, 8), depth=2, width=16, heads=2, guidance="x"), "guidance is an input"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
