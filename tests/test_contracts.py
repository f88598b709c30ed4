"""What networks, objectives and times say of themselves, and what is made of those that say nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow.network import Network, Upcast, Wrapped, known
from alphaflow.objectives.loss_function import LossFunction
from alphaflow.pairs import Pairs
from alphaflow.runs.pipeline import InTraining


class Plain(nn.Module):
    """A network that says nothing of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        out: Tensor = self.layer(z.flatten(1)).view_as(z)
        return out


class Guided(Plain, af.Network):
    takes_guidance = True
    classes = 10


def recipe(**parts: Any) -> af.Recipe:
    given: dict[str, Any] = {
        "model": Plain(), "objective": af.MeanFlow(), "dataset": af.Digits(8, seed=0), "steps": 1, "samplers": (),
    }  # fmt: skip
    return af.Recipe(**(given | parts))


def test_a_network_is_known_through_what_stands_for_it() -> None:
    model = Guided()
    for standing in (model, Upcast(model), Wrapped(model), Upcast(Wrapped(model)), torch.compile(model)):
        assert known(standing) is model
    for silent in (Plain(), Upcast(Plain()), lambda z, r, t, cond: z):
        assert known(silent) is Network
    assert known(Plain()).takes_guidance is None
    assert not known(Plain()).offers_tangent


@pytest.mark.parametrize("fact", ["takes_guidance", "velocity_head", "offers_tangent"])
@pytest.mark.parametrize("on_the_class", [True, False])
def test_a_fact_that_nobody_would_hear_is_refused(fact: str, on_the_class: bool) -> None:
    """A network of another base that sets one would train without it, and nothing would tell."""
    model = type("Deaf", (Plain,), {fact: 1})() if on_the_class else Plain()
    if not on_the_class:
        setattr(model, fact, 1)
    with pytest.raises(af.UserError, match=rf"sets {fact}.*\(af\.Network\)"):
        recipe(model=model)


def test_what_a_network_says_is_compared() -> None:
    guided = af.MeanFlow(guidance=af.GuidanceInputs())
    recipe(model=Guided(), objective=guided)
    recipe(model=Plain(), objective=guided)  # it doesn't say
    with pytest.raises(af.UserError, match="both sides"):
        recipe(model=Guided())
    few = Guided()
    few.classes = 3
    with pytest.raises(af.UserError, match="3 classes and the data 10"):
        recipe(model=few, objective=guided)


def test_other_libraries_configurations_are_their_own() -> None:
    """A network whose ``config`` is no mapping of ours, as other libraries' networks have."""
    model = Plain()
    model.config = SimpleNamespace(classes=3)  # type: ignore[assignment]
    assert recipe(model=model).model is model


def test_all_of_a_teacher_is_frozen() -> None:
    """One with a part called ``model`` is no guided model: all of it is frozen, in evaluation mode."""

    class Teacher(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.dropout = nn.Linear(2, 2), nn.Dropout()

    teacher = Teacher()
    af.MeanFlow(teacher=teacher).prepare(torch.device("cpu"))
    assert not any(module.training for module in teacher.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    inner = Plain()
    af.MeanFlow(teacher=af.CFG(2.0).wrap(inner)).prepare(torch.device("cpu"))
    assert not inner.training
    assert not inner.layer.weight.requires_grad


def test_a_function_is_an_objective() -> None:
    def objective(model: Any, x: Tensor, cond: af.Cond, step: int, generator: torch.Generator | None) -> af.Loss:
        z, time = x, torch.ones(len(x))
        per_sample = (model(z, time, time, cond) - x).square().flatten(1).mean(1)
        return af.Loss(per_sample.mean(), per_sample, {"step": torch.full((len(x),), float(step))})

    made = recipe(objective=objective).objective
    assert isinstance(made, LossFunction)
    assert LossFunction.of(made) is made
    assert (made.scalars(3), made.guidance, made.network) == ({}, None, None)
    x, model = torch.randn(4, 1, 8, 8), Plain()
    loss = made(model, x, af.Cond(), 3, None, ema=model, start=2)
    assert torch.equal(loss.total, objective(model, x, af.Cond(), 3, None).total)
    assert loss.terms["step"].tolist() == [3.0] * 4


def test_times_of_ones_own_are_paired_and_looked_at() -> None:
    class Wrong:
        def sample(self, b: int, device: Any = None, generator: Any = None) -> Tensor:
            return torch.rand(b, generator=generator)

        def pairs(self, b: int, device: Any = None, generator: Any = None) -> tuple[Tensor, Tensor]:
            return torch.ones(b), torch.zeros(b)

    with pytest.raises(ValueError, match="drew r > t"):
        Pairs.of(Wrong(), "sorted").pairs(3)
    assert Pairs.of(af.DyadicPairs(8), "sorted").finest == 1 / 8
    assert Pairs.of(af.LogitNormal(), "zero").zero
    assert not Pairs.of(af.LogitNormal(), "min").zero


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_run_is_guided_by_a_positive_scale(scale: float) -> None:
    made = recipe(samplers=(af.ODE(1), af.ODE(2)))
    pipeline = InTraining(made, made.model, torch.device("cpu"))
    with pytest.raises(af.UserError, match="positive"):
        pipeline.sampler(2, af.CFG(scale))
