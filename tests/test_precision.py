"""Autocast: a network's answers are rounded once, by itself, and nothing that is made of them is rounded again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow.diagnosis.decomposition import decompose
from alphaflow.network import Upcast
from alphaflow.objectives.learned_weight import LogWeight
from alphaflow.types import Batch


class Rounded(nn.Module):
    """A network that answers in bfloat16, as under autocast; or with the same values in its samples' precision."""

    def __init__(self, inner: nn.Module, low: bool) -> None:
        super().__init__()
        self.inner, self.low = inner, low

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        u: Tensor = self.inner(z, r, t, cond).bfloat16()
        return u if self.low else u.to(z.dtype)


GUIDED: dict[str, Any] = {"guidance": af.Guidance(omega=0.3, kappa=0.5, label_drop=0.3)}
OBJECTIVES = {
    "fm": af.FlowMatching(),
    "alpha": af.AlphaFlow(alpha=0.05, fm_share=0.25),
    "alpha, guided": af.AlphaFlow(alpha=0.3, **GUIDED),
    "mean flow": af.MeanFlow(fm_share=0.25, **GUIDED),
    "shortcut": af.Shortcut(fm_share=0.25),
    "split": af.SplitMeanFlow(),
    "consistency": af.ConsistencyTraining(),
    "continuous": af.ContinuousConsistency(warmup=0),
    "FACM": af.FACM(),
    "iMF": af.ImprovedMeanFlow(),
}


@pytest.fixture
def pair(smooth: Any) -> Callable[[], list[Rounded]]:
    inner = smooth(6, 4)
    return lambda: [Rounded(inner, low) for low in (True, False)]


def batch() -> tuple[Tensor, af.Cond]:
    x = torch.randn(16, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, af.Cond(labels=torch.arange(16) % 4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_rounds_nothing_again(name: str, pair: Any, grad: Any) -> None:
    """The loss of a network that answers in bfloat16 is, to the bit, that of one with the same values in float64."""
    objective = OBJECTIVES[name]
    x, cond = batch()
    found = []
    for model in pair():
        average = {"ema": model} if objective.ema_target else {}
        loss = objective(model, x, cond, 0, torch.Generator().manual_seed(4), **average)
        found.append((loss.per_sample, grad(model, loss.total), torch.stack(list(loss.terms.values()))))
    for low, high in zip(*found, strict=True):
        assert low.dtype == high.dtype == torch.float64
        assert torch.equal(low, high)


def test_teachers_averages_and_guides_as_well(pair: Any) -> None:
    x, cond = batch()
    found = []
    for model in pair():
        taught = af.AlphaFlow(alpha=0.5, teacher=af.CFG(2.5).wrap(model), ema_target=True)
        found.append(taught(model, x, cond, 0, torch.Generator().manual_seed(4), ema=model).per_sample)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "sampler",
    [
        af.ODE(3), af.ODE(3, solver="euler", cfg=af.CFG(4.0, (0.2, 0.9))), af.ODE(2, solver="heun"), af.Consistency(3),
    ],
    ids=str,
)  # fmt: skip
def test_samplers_as_well(sampler: Any, pair: Any) -> None:
    x, cond = batch()
    low, high = (sampler(model, x, cond, torch.Generator().manual_seed(2)) for model in pair())
    assert low.dtype == torch.float64
    assert torch.equal(low, high)


def test_derivatives_and_diagnosis_as_well(pair: Any) -> None:
    x, cond = batch()
    r, t = torch.rand(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).sort(0).values
    found = [torch.stack(af.total_derivative(model, x, r, t, cond, x)) for model in pair()]
    assert torch.equal(*found)
    parts = [decompose(model, af.MeanFlow(), Batch(x, cond), 0, torch.Generator().manual_seed(6)) for model in pair()]
    for name in ("tfm", "tc", "fm", "meanflow"):
        assert torch.equal(*(getattr(part, name) for part in parts)), name


@pytest.mark.parametrize("alpha", [0.05, 0.006])
def test_a_two_point_target_under_autocast_is_as_exact_as_the_network(alpha: float) -> None:
    """Against float64 it is wrong by (1 − α) of what the network's own answer is wrong by, and no more."""
    torch.manual_seed(1)
    model = af.DiT((2, 8, 8), patch=2, depth=2, width=64, heads=2, classes=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.08)
    x = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    objective = af.AlphaFlow(alpha=alpha, fm_share=0.0)
    draw = objective.draw(model, x, af.Cond(labels=torch.arange(32) % 4), 0, torch.Generator().manual_seed(3))
    s = alpha * draw.r + (1 - alpha) * draw.t
    z_s = af.jump(draw.z, draw.v, draw.t, s)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        target = objective.target(Upcast(model), draw, 0).u
        answer = model(z_s, draw.r, s, draw.cond)
    assert (target.dtype, answer.dtype) == (torch.float32, torch.bfloat16)
    whole = copy.deepcopy(model).double()
    times = (draw.r.double(), s.double(), draw.cond)
    exact = whole(z_s.double(), *times).detach()
    wrong = (answer - exact).norm()
    expected = alpha * draw.v.double() + (1 - alpha) * exact
    assert float((target - expected).norm()) == pytest.approx((1 - alpha) * float(wrong), rel=1e-4)
    assert 1e-3 < float(wrong / exact.norm()) < 0.05
    again = alpha * draw.v.double() + (1 - alpha) * answer.double()
    assert float((target - again).norm() / again.norm()) < 1e-7


def test_what_a_network_may_give_and_take(smooth: Any) -> None:
    """Keywords, things that are no tensors, a higher precision than its samples': all as it gives them."""
    inner = smooth(6, 4)

    class Own(nn.Module):
        model = "a name of its own"

        def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond, more: bool = False) -> Any:
            u = inner(z.double(), r.double(), t.double(), cond)
            return (u, {"notes": 1}, torch.arange(3), None) if more else u

    x, cond = batch()
    network, r = Upcast(Own()), torch.rand(16)
    assert network.model == "a name of its own"
    assert network(x.bfloat16(), r, r, cond=cond).dtype == torch.float64
    u, notes, order, nothing = network(x.float(), r, r, cond, more=True)
    assert (u.dtype, notes, order.dtype, nothing) == (torch.float64, {"notes": 1}, torch.int64, None)
    assert af.ODE(2)(Own(), x.float(), cond).dtype == torch.float64


def test_a_prediction_of_another_shape_or_precision(smooth: Any) -> None:
    """An objective's own `predict` is held to the same."""

    class Halved(af.FlowMatching):
        def predict(self, model: Any, draw: Any, along: Any = None) -> Any:
            return af.Prediction(smooth(6, 4)(draw.z, draw.r, draw.t, draw.cond)[:, :1])

    class Low(af.FlowMatching):
        def predict(self, model: Any, draw: Any, along: Any = None) -> Any:
            return af.Prediction(model(draw.z, draw.r, draw.t, draw.cond).bfloat16())

    with pytest.raises(ValueError, match="z's shape"):
        Halved()(smooth(6, 4), *batch(), 0, torch.Generator())
    assert Low()(smooth(6, 4), *batch(), 0, torch.Generator()).per_sample.dtype == torch.float64


def test_consistencys_learned_weight_is_not_rounded() -> None:
    weight = LogWeight(1)
    nn.init.normal_(weight.weight)
    t = torch.rand(64, generator=torch.Generator().manual_seed(0))
    plain = weight(t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(weight(t), plain)


def test_an_output_of_another_shape_is_refused_wherever_networks_are_called() -> None:
    def wrong(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        return z[:, :1]

    x = torch.randn(4, 2, 3)
    for call in (
        lambda: af.FlowMatching()(wrong, x, None, 0, torch.Generator()),
        lambda: af.ODE(1)(wrong, x),
        lambda: af.Consistency(2)(wrong, x),
    ):
        with pytest.raises(ValueError, match=r"z's shape \(4, 2, 3\), got \(4, 1, 3\)"):
            call()
