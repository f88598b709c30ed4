"""Objectives in float64: against a slow reference written from the formulas, and the theorems of the paper."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af

SHAPE = (2, 3)
CLASSES = 4


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture
def model(smooth: Any) -> torch.nn.Module:
    return smooth(math.prod(SHAPE), CLASSES)


def call(objective: af.Objective, model: Any, batch: tuple[Tensor, af.Cond], step: int = 0, seed: int = 7) -> af.Loss:
    return objective(model, *batch, step, torch.Generator().manual_seed(seed))


def reference(objective: Any, model: Any, batch: tuple[Tensor, af.Cond], alpha: float, seed: int = 7) -> Tensor:
    """The loss, sample by sample, from the formulas; du/dt by central differences of the path itself.

    Shares only the random draw with the code under test.
    """
    x, cond = batch
    draw = objective.draw(model, x, cond, 0, torch.Generator().manual_seed(seed))
    losses = []
    for i in range(len(x)):
        z, r, t, v = draw.z[i : i + 1], draw.r[i : i + 1], draw.t[i : i + 1], draw.v[i : i + 1]
        y = draw.cond[i : i + 1]

        def u(z: Tensor, t: Tensor, r: Tensor = r, y: af.Cond = y) -> Tensor:
            return model(z, r, t, y)

        factor = 1.0
        with torch.no_grad():
            if float(r) == float(t) or alpha == 1:
                target = v
            elif alpha == 0:
                h = 1e-5
                dudt = (u(z + h * v, t + h) - u(z - h * v, t - h)) / (2 * h)
                target = v - float(t - r) * dudt
            else:
                s = alpha * float(r) + (1 - alpha) * float(t)
                z_s = z - (float(t) - s) * v
                target = alpha * v + (1 - alpha) * u(z_s, torch.full_like(t, s))
                factor = alpha
            if objective.clamp is not None and alpha > 0 and float(r) < float(t):
                target = target.clip(-objective.clamp, objective.clamp)
        error = ((u(z, t) - target) ** 2).sum() / x[i].numel()
        adaptive = isinstance(objective.weighting, af.AdaptiveWeighting)
        losses.append(error * (factor / (error.item() + 1e-3) if adaptive else 1 / factor))
    return sum(losses) / len(x)  # type: ignore[return-value]


@pytest.mark.parametrize("weighting", [af.AdaptiveWeighting(), af.InverseAlphaWeighting()], ids=["adaptive", "plain"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_value_and_gradient_equal_the_reference(
    alpha: float, weighting: Any, clamp: float | None, model: Any, batch: Any, grad: Any
) -> None:
    objective = af.AlphaFlow(alpha=alpha, fm_share=0.25, weighting=weighting, clamp=clamp)
    loss, expected = call(objective, model, batch).total, reference(objective, model, batch, alpha)
    tolerance = 1e-7 if alpha == 0 else 1e-12  # central differences are good to 1e-9 or so
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert relative(grad(model, loss), grad(model, expected)) < tolerance


def test_flow_matching_is_the_plain_regression(model: Any, batch: Any, grad: Any) -> None:
    x, cond = batch
    generator = torch.Generator().manual_seed(7)
    objective = af.FlowMatching(weighting=af.InverseAlphaWeighting())
    loss = objective(model, x, cond, 0, generator)
    draw = objective.draw(model, x, cond, 0, torch.Generator().manual_seed(7))
    assert draw.few == 0
    assert torch.equal(draw.r, draw.t)
    expected = ((model(draw.z, draw.t, draw.t, cond) - draw.v) ** 2).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-13)
    assert relative(grad(model, loss.total), grad(model, expected)) < 1e-13


def test_alpha_one_is_trajectory_flow_matching_exactly(model: Any, batch: Any, grad: Any) -> None:
    """Target ṽ at r < t: the same numbers from the α-Flow formula's limit, from TFM, and written out."""
    one = call(af.AlphaFlow(alpha=1.0, weighting=af.InverseAlphaWeighting()), model, batch)
    tfm = call(af.TrajectoryFlowMatching(weighting=af.InverseAlphaWeighting()), model, batch)
    assert torch.equal(one.per_sample, tfm.per_sample)
    draw = tfm_draw = af.TrajectoryFlowMatching().draw(model, *batch, 0, torch.Generator().manual_seed(7))
    assert (draw.r[: draw.few] < draw.t[: draw.few]).all()
    expected = ((model(draw.z, draw.r, draw.t, draw.cond) - tfm_draw.v) ** 2).mean()
    assert relative(grad(model, one.total), grad(model, expected)) < 1e-13
    nearly = call(
        af.AlphaFlow(alpha=1 - 1e-9, weighting=af.InverseAlphaWeighting()), model, batch
    )  # the two-point branch
    assert relative(grad(model, nearly.total), grad(model, one.total)) < 1e-7


def test_gradient_tends_to_meanflows_linearly(model: Any, batch: Any, grad: Any) -> None:
    mean_flow = call(af.MeanFlow(fm_share=0.0, weighting=af.InverseAlphaWeighting()), model, batch)
    exact = grad(model, mean_flow.total)
    errors = []
    for alpha in (0.04, 0.02, 0.01, 0.005):
        loss = call(af.AlphaFlow(alpha=alpha, fm_share=0.0, weighting=af.InverseAlphaWeighting()), model, batch)
        errors.append(relative(grad(model, loss.total), exact))
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert errors[-1] < 0.01
    assert all(1.9 < ratio < 2.1 for ratio in ratios), (errors, ratios)


def test_the_jvp_branch_is_never_clipped(model: Any, batch: Any, grad: Any) -> None:
    """At α = 0 a tiny clamp changes nothing, to the bit; at α > 0 it does."""
    for alpha, same in ((0.0, True), (0.1, False)):
        free, clipped = (call(af.AlphaFlow(alpha=alpha, clamp=clamp), model, batch) for clamp in (None, 1e-3))
        assert torch.equal(free.per_sample, clipped.per_sample) == same
        assert torch.equal(grad(model, free.total), grad(model, clipped.total)) == same
    assert not hasattr(af.ImprovedMeanFlow(), "clamp")  # what has no two-point target takes none
    with pytest.raises(TypeError, match="clamp"):
        af.FACM(clamp=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_adaptive_weights_equal_the_formula(p: float) -> None:
    """α^{2p−1}/(‖Δ‖² + c)^p: α⁻¹ at p = 0, and the published α/(‖Δ‖² + c) at p = 1."""
    error = torch.tensor([0.0, 1e-4, 0.3, 5.0], dtype=torch.float64)
    alpha = torch.tensor([1.0, 0.5, 0.006, 0.05], dtype=torch.float64)
    found = af.AdaptiveWeighting(c=0.02, p=p)(error, alpha).tolist()
    for weight, e, a in zip(found, error.tolist(), alpha.tolist(), strict=True):
        expected = {0.0: 1 / a, 0.5: 1 / math.sqrt(e + 0.02), 1.0: a / (e + 0.02)}[p]
        assert weight == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_weighted_gradient_tends_to_meanflows_linearly(p: float, model: Any, batch: Any, grad: Any) -> None:
    """With c·α² at any c: a fixed c does so as long as it falls faster than α²."""
    exact = grad(
        model, call(af.MeanFlow(fm_share=0.0, weighting=af.AdaptiveWeighting(c=0.01, p=p)), model, batch).total
    )
    errors = []
    for alpha in (0.04, 0.02, 0.01, 0.005):
        weighting = af.AdaptiveWeighting(c=0.01 * alpha**2, p=p)
        loss = call(af.AlphaFlow(alpha=alpha, fm_share=0.0, weighting=weighting), model, batch)
        errors.append(relative(grad(model, loss.total), exact))
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert errors[-1] < 0.02
    assert all(1.85 < ratio < 2.15 for ratio in ratios), (errors, ratios)


def test_meanflow_gradient_is_tfm_plus_consistency(model: Any, batch: Any, grad: Any) -> None:
    """∇L_MF = ∇L_TFM + ∇L_TC, with L_TC = 2(t − r)·uᵀ·du⁻/dt and du/dt from double backward."""
    objective = af.MeanFlow(fm_share=0.0, weighting=af.InverseAlphaWeighting())
    total = grad(model, call(objective, model, batch).total)
    draw = objective.draw(model, *batch, 0, torch.Generator().manual_seed(7))
    u = model(draw.z, draw.r, draw.t, draw.cond)
    _, dudt = torch.autograd.functional.jvp(
        lambda z, t: model(z, draw.r, t, draw.cond), (draw.z, draw.t), (draw.v, torch.ones_like(draw.t))
    )
    gap = (draw.t - draw.r)[:, None, None]
    tfm = grad(model, ((u - draw.v) ** 2).mean())
    consistency = grad(model, (2 * gap * u * dudt.detach()).mean())
    assert relative(tfm + consistency, total) < 1e-12
    assert relative(tfm, total) > 0.01  # the second part matters


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_logged_terms_are_the_decomposition(alpha: float, model: Any, batch: Any) -> None:
    """`tfm` and `tc` are values of the two parts, `mse` the unweighted error."""
    objective = af.AlphaFlow(alpha=alpha, fm_share=0.5, weighting=af.InverseAlphaWeighting())
    loss = call(objective, model, batch)
    draw = objective.draw(model, *batch, 0, torch.Generator().manual_seed(7))
    u = model(draw.z, draw.r, draw.t, draw.cond)
    expected_tfm = ((u - draw.v) ** 2).flatten(1).mean(1)
    assert relative(loss.terms["tfm"], expected_tfm) < 1e-12
    gap = (draw.t - draw.r)[:, None, None]
    if alpha == 0:
        _, dudt = torch.autograd.functional.jvp(
            lambda z, t: model(z, draw.r, t, draw.cond), (draw.z, draw.t), (draw.v, torch.ones_like(draw.t))
        )
        expected_tc = (2 * gap * u * dudt).flatten(1).mean(1)
    else:
        s = alpha * draw.r + (1 - alpha) * draw.t
        u_s = model(draw.z - (draw.t - s)[:, None, None] * draw.v, draw.r, s, draw.cond)
        expected_tc = (2 * (1 - alpha) / alpha * u * (u - u_s)).flatten(1).mean(1)
        expected_tc[draw.few :] = 0
    assert (loss.terms["tc"] - expected_tc).norm() < 1e-11 * (1 + expected_tc.norm())
    assert all(not term.requires_grad and term.shape == (8,) for term in loss.terms.values())


def test_targets_carry_no_gradient(smooth: Any, batch: Any, grad: Any) -> None:
    """Replacing the network inside the target by a frozen copy changes nothing."""
    torch.manual_seed(3)
    live = smooth(math.prod(SHAPE), CLASSES)
    frozen = smooth(math.prod(SHAPE), CLASSES)
    frozen.load_state_dict(live.state_dict())
    for alpha in (0.0, 0.5):
        objective = af.AlphaFlow(alpha=alpha, fm_share=0.0, weighting=af.InverseAlphaWeighting())
        loss = call(objective, live, batch)
        draw = objective.draw(live, *batch, 0, torch.Generator().manual_seed(7))
        target = objective.target(frozen, draw.few_step(), 0)
        factor = target.alpha[:, None, None]
        by_hand = ((live(draw.z, draw.r, draw.t, draw.cond) - target.u.detach()) ** 2 / factor).mean()
        assert relative(grad(live, loss.total), grad(live, by_hand)) < 1e-13


def test_jvp_equals_central_differences(model: Any, batch: Any) -> None:
    generator = torch.Generator().manual_seed(9)
    z, v = torch.randn(2, 8, *SHAPE, dtype=torch.float64, generator=generator)
    r, t = torch.rand(2, 8, dtype=torch.float64, generator=generator).sort(dim=0).values
    value, derivative = af.total_derivative(model, z, r, t, batch[1], v)
    h = 1e-5
    with torch.no_grad():
        ahead, behind = model(z + h * v, r, t + h, batch[1]), model(z - h * v, r, t - h, batch[1])
        assert torch.equal(value, model(z, r, t, batch[1]))
    assert relative(derivative, (ahead - behind) / (2 * h)) < 1e-8
    assert not derivative.requires_grad


def test_jvp_through_the_transformer() -> None:
    """Attention, modulation, embeddings: forward-mode AD against central differences along the path."""
    torch.manual_seed(4)
    model = af.DiT((1, 4, 4), patch=2, depth=2, width=16, heads=2, classes=3).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z, v = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    r, t = torch.rand(2, 5, dtype=torch.float64).sort(dim=0).values
    cond = af.Cond(labels=torch.tensor([0, 1, 2, 0, af.NO_CLASS]))
    _, derivative = af.total_derivative(model, z, r, t, cond, v)
    h = 1e-5
    with torch.no_grad():
        expected = (model(z + h * v, r, t + h, cond) - model(z - h * v, r, t - h, cond)) / (2 * h)
    assert expected.norm() > 1
    assert relative(derivative, expected) < 1e-8


@pytest.mark.parametrize(
    "objective",
    [
        af.FlowMatching(guidance=af.Guidance(omega=0.2, kappa=0.92, interval=(0.0, 0.75))),
        af.AlphaFlow(alpha=0.5, guidance=af.Guidance(omega=1.0, kappa=0.5, label_drop=0.5)),
        af.MeanFlow(fm_share=0.5, clamp=1.0, guidance=af.Guidance(omega=2.0, kappa=0.1, label_drop=0.5)),
    ],
    ids=["fm", "alpha", "meanflow"],
)
def test_nothing_passed_in_changes_and_same_seed_same_bits(objective: Any, model: Any, batch: Any) -> None:
    x, cond = batch
    x_before, labels_before = x.clone(), cond.labels.clone()
    weights_before = [p.clone() for p in model.parameters()]
    first, again, other = (call(objective, model, batch, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.per_sample, again.per_sample)
    assert not torch.equal(first.per_sample, other.per_sample)
    assert torch.equal(x, x_before)
    assert torch.equal(cond.labels, labels_before)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights_before, strict=True))


def test_global_randomness_is_not_touched(model: Any, batch: Any) -> None:
    before = torch.get_rng_state()
    call(af.MeanFlow(guidance=af.Guidance(kappa=0.5)), model, batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("share", "b", "few"), [(0.5, 8, 4), (0.25, 10, 8), (0.29, 100, 71), (1.0, 7, 0), (0.0, 7, 7)])
def test_fm_share_is_a_count(share: float, b: int, few: int, model: Any) -> None:
    x = torch.zeros(b, *SHAPE, dtype=torch.float64)
    draw = af.AlphaFlow(fm_share=share).draw(model, x, af.Cond(), 0, torch.Generator().manual_seed(1))
    assert draw.few == few
    assert int((draw.r < draw.t).sum()) == few


def test_scheduled_share_and_alpha(model: Any) -> None:
    objective = af.AlphaFlow(alpha=af.Linear(0, 100), fm_share=af.Linear(0, 100, first=1.0, last=0.5))
    assert objective.scalars(50) == {"alpha": 0.5, "fm_share": 0.75}
    x = torch.zeros(8, *SHAPE, dtype=torch.float64)
    counts = [objective.draw(model, x, af.Cond(), step, torch.Generator()).few for step in (0, 50, 100)]
    assert counts == [0, 2, 4]


def test_closed_form_gaussian_has_no_meanflow_gradient(gaussian: Any) -> None:
    """At the true mean velocity the expected gradient of FM, MeanFlow and iMF is zero; TFM and α-Flow are biased there.

    The gradient is with respect to an offset added to u: its expectation over 400,000 draws, in standard errors.
    """
    n = 400_000
    x = gaussian.sample(n, torch.Generator().manual_seed(11))

    def deviation(objective: Any) -> Tensor:
        features = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
        first = [True]

        def model(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
            u = gaussian.u(z, r, t)
            # only the trained prediction gets the offset: the first call with gradients on the whole batch
            if torch.is_grad_enabled() and first[0]:
                first[0] = False
                return u + features
            return u

        loss = objective(model, x, af.Cond(), 0, torch.Generator().manual_seed(12))
        (g,) = torch.autograd.grad(loss.per_sample.sum(), features)
        # against functions of (z, r, t) as well: an offset constant, in t, and in z
        draw = objective.draw(model, x, af.Cond(), 0, torch.Generator().manual_seed(12))
        probes = torch.cat([g, g * draw.t[:, None], g * draw.r[:, None], g * draw.z], dim=1)
        return probes.mean(0) / (probes.std(0) / n**0.5)

    plain = af.InverseAlphaWeighting()
    assert deviation(af.FlowMatching(weighting=plain)).abs().max() < 4.5
    assert deviation(af.MeanFlow(fm_share=0.0, weighting=plain)).abs().max() < 4.5
    assert deviation(af.ImprovedMeanFlow(fm_share=0.0, weighting=plain)).abs().max() < 4.5
    assert deviation(af.TrajectoryFlowMatching(fm_share=0.0, weighting=plain)).abs().max() > 15
    half = deviation(af.AlphaFlow(alpha=0.5, fm_share=0.0, weighting=plain)).abs().max()
    tenth = deviation(af.AlphaFlow(alpha=0.05, fm_share=0.0, weighting=plain)).abs().max()
    assert half > 15
    assert tenth < half / 3  # the bias falls with α


@pytest.mark.parametrize("objective", [af.Shortcut(fm_share=0.0), af.SplitMeanFlow(fm_share=0.0)], ids=type)
def test_closed_form_gaussian_is_a_fixed_point_of_splitting(objective: Any, gaussian: Any) -> None:
    """At the true mean velocity the target of two jumps is that of one, for every sample: no gradient at all."""
    x = gaussian.sample(2000, torch.Generator().manual_seed(11))
    draw = objective.draw(gaussian.u, x, af.Cond(), 0, torch.Generator().manual_seed(12))
    target = objective.target(gaussian.u, draw, 0)
    u = gaussian.u(draw.z, draw.r, draw.t)
    # u divides by t − r: draws of nearly equal times lose digits
    apart = draw.t - draw.r > 1e-3
    assert apart.sum() > 1900
    assert relative(target.u[apart], u[apart]) < 1e-10


def test_closed_form_gaussian_under_continuous_consistency(gaussian: Any) -> None:
    """The tangent df⁻/dt of the true f has mean zero at every z: here over many draws of ε − x, in standard errors."""
    n = 400_000
    objective = af.ContinuousConsistency(warmup=0, c=1e6, adaptive=False)  # c ≫ ‖g‖: g/(‖g‖ + c) is g/c
    x = gaussian.sample(n, torch.Generator().manual_seed(11))
    draw = objective.draw(gaussian.u, x, af.Cond(), 0, torch.Generator().manual_seed(12))
    g = (objective.target(gaussian.u, draw, 0).u - gaussian.u(draw.z, draw.r, draw.t)) * 1e6
    probes = torch.cat([g, g * draw.t[:, None], g * draw.z], dim=1)
    assert g.std() > 0.1
    assert (probes.mean(0) / (probes.std(0) / n**0.5)).abs().max() < 4.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.AlphaFlow(alpha=1.5), "alpha"),
        (lambda: af.AlphaFlow(fm_share=-0.1), "fm_share"),
        (lambda: af.MeanFlow(clamp=0.0), "clamp must be positive"),
        (lambda: af.TimePairs(pairing="random"), "pairing"),
        (lambda: af.Guidance(dropped="x"), "dropped"),
        (lambda: af.Guidance(interval=(0.5, 0.2)), "interval"),
        (lambda: af.Guidance(label_drop=2.0), "label_drop"),
    ],
)
def test_wrong_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_inputs(model: Any, batch: Any) -> None:
    with pytest.raises(ValueError, match="model must return u with z's shape"):
        af.FlowMatching()(lambda z, r, t, cond: z[:, :1], *batch, 0, None)
    with pytest.raises(ValueError, match="floating point"):
        af.FlowMatching()(model, torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="fm_share"):
        call(af.AlphaFlow(fm_share=af.Constant(1.5)), model, batch)
    with pytest.raises(ValueError, match="stay inside"):
        call(af.AlphaFlow(alpha=af.Constant(-0.2)), model, batch)
