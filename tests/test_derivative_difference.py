"""du/dt by central differences: its order, its ends, its precision, and training where forward mode can't go."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

import alphaflow as af
from alphaflow.derivatives import STEP, _difference, derivative_of, with_derivative
from alphaflow.training.display import Display

DERIVED = (
    af.MeanFlow(fm_share=0.5, derivative="difference"),
    af.ImprovedMeanFlow(derivative="difference"),
    af.FACM(derivative="difference"),
    af.ContinuousConsistency(warmup=0, derivative="difference"),
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


def curved(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
    """sin(3z)·e^t + r·t³."""
    r, t = r[:, None], t[:, None]
    return (3 * z).sin() * t.exp() + r * t**3


def slope(z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """Its du/dt along v, by hand."""
    r, t = r[:, None], t[:, None]
    return 3 * v * (3 * z).cos() * t.exp() + (3 * z).sin() * t.exp() + 3 * r * t**2


class Recurrent(nn.Module):
    """Has an nn.LSTM, which PyTorch can't differentiate forward on a CPU: the rows of an image are its sequence."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(width + 2, 16), nn.LSTM(16, 16, batch_first=True)])
        self.out = nn.Linear(16, width)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        times = torch.stack([t, t - r], 1)[:, None].expand(-1, z.shape[2], -1)
        hidden = torch.tanh(self.blocks[0](torch.cat([z[:, 0], times], dim=2)))
        out: Tensor = self.out(self.blocks[1](hidden)[0])
        return out[:, None]


def recipe(objective: af.Objective, model: nn.Module | None = None, **options: Any) -> af.Recipe:
    torch.manual_seed(0)
    options = {"samplers": (af.ODE(1),), "steps": 6, "lr": 1e-3, "ema": 0.9, **options}
    return af.Recipe(
        model=Recurrent() if model is None else model, objective=objective, dataset=af.Digits(16, seed=1), **options
    )


def test_the_error_falls_with_the_square_of_h() -> None:
    """Against a network whose derivative is known, and against torch.func.jvp; inside 0 ≤ r ≤ t ≤ 1."""
    z, v, r, t = random(64, 3), random(64, 3, seed=1), torch.full((64,), 0.2).double(), torch.full((64,), 0.6).double()
    wanted = slope(z, r, t, v)
    errors = [
        distance(_difference(curved, z, r, t, af.Cond(), af.Direction.of(v, t), h), wanted) for h in (0.02, 0.01, 0.005)
    ]
    for coarse, fine in pairwise(errors):
        assert 3.9 < coarse / fine < 4.1
    u, exact = af.total_derivative(curved, z, r, t, af.Cond(), v)
    same, difference = af.total_derivative(curved, z, r, t, af.Cond(), v, derivative="difference")
    assert torch.equal(u, same)
    assert distance(exact, wanted) < 1e-12
    assert distance(difference, exact) == pytest.approx(errors[2], rel=1e-6)
    assert not difference.requires_grad


@pytest.mark.parametrize(
    ("r", "t", "lower", "upper"),
    [
        (0.2, 0.6, 0.595, 0.605), (0.0, 0.003, 0.0, 0.008), (0.599, 0.6, 0.599, 0.605), (0.2, 1.0, 0.995, 1.0),
        (0.2, 0.998, 0.993, 1.0), (1.0, 1.0, 0.995, 1.0), (0.999, 1.0, 0.995, 1.0), (0.0, 0.0, 0.0, 0.005),
    ],
)  # fmt: skip
def test_it_stays_between_r_and_one(r: float, t: float, lower: float, upper: float) -> None:
    """And on the path: z moves along v with t. Of what is linear in both it is exact, one-sided or not."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def linear(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        seen.append((z, r, t))
        return 2 * z + t[:, None]

    z, v, zeros = random(4, 3), random(4, 3, seed=1), torch.zeros(4, dtype=torch.float64)
    found = _difference(linear, z, zeros + r, zeros + t, af.Cond(), af.Direction.of(v, zeros))
    assert [float(times[0]) for _, _, times in seen] == pytest.approx([upper, lower], abs=1e-5)
    for moved, same, times in seen:
        assert torch.allclose(moved, z + (times - t)[:, None] * v)
        assert torch.equal(same, zeros + r)
    assert torch.allclose(found, 2 * v + 1)


DIRECTIONS = [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (1.0, 0.3, -1.0), (0.5, 1.0, 1.0), (1.0, 0.0, 0.0)]


@pytest.mark.parametrize("way", DIRECTIONS, ids=str)
def test_in_any_direction(way: tuple[float, float, float]) -> None:
    """dz·∂_z u + dr·∂_r u + dt·∂_t u, by torch.func.jvp and by differences, which stay in 0 ≤ r ≤ t ≤ 1."""
    z, v = random(64, 3), random(64, 3, seed=1)
    t = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.1
    r = t * torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.9
    t[:4], r[:4] = torch.tensor([1.0, 0.9999, 0.5, 0.306]), torch.tensor([0.3, 0.3, 0.0, 0.3])
    direction = af.Direction(way[0] * v, torch.full_like(r, way[1]), torch.full_like(t, way[2]))
    in_z = 3 * (3 * z).cos() * t[:, None].exp() * direction.z
    in_r = t[:, None] ** 3 * way[1]
    in_t = ((3 * z).sin() * t[:, None].exp() + 3 * (r * t**2)[:, None]) * way[2]
    _, exact = af.total_derivative(curved, z, r, t, af.Cond(), direction)
    assert distance(exact, in_z + in_r + in_t) < 1e-12
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        seen.append((r, t))
        return curved(z, r, t, cond)

    found = _difference(watched, z, r, t, af.Cond(), direction)
    assert distance(found, exact) < 1e-2
    roomy = (t - r > 0.01) & (r > 0.01) & (t < 0.99)
    assert distance(found[roomy], exact[roomy]) < 5e-4
    for r_seen, t_seen in seen:
        assert (r_seen > -1e-12).all()
        assert (r_seen < t_seen).all()
        assert (t_seen < 1 + 1e-12).all()


@pytest.mark.parametrize("derivative", ["exact", "difference"])
def test_a_derivative_with_gradient(derivative: Any) -> None:
    """∂_r u of a DiT, of the first samples, and its own gradient: against fine differences in float64."""
    torch.manual_seed(0)
    network = af.DiT((1, 8, 8), patch=4, depth=2, width=16, heads=2, classes=10).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    cond, z, t = af.Cond(labels=torch.arange(6)), random(6, 1, 8, 8), torch.linspace(0.3, 0.9, 6).double()
    r, probe = t / 2, random(4, 1, 8, 8, seed=2)
    ahead, behind = (network(z[:4], r[:4] + h, t[:4], cond[:4]) for h in (1e-5, -1e-5))
    wanted = (ahead - behind) / 2e-5
    along = af.Direction(torch.zeros_like(z[:4]), torch.ones(4).double(), torch.zeros(4).double())
    for recompute in (False, True):
        network.recompute = recompute
        if recompute and derivative == "exact":
            with pytest.raises(af.UserError, match="recomputes keeps no graph"):
                with_derivative(network, z, r, t, cond, along, graph=True)
            continue
        u, found = with_derivative(network, z, r, t, cond, along, derivative=derivative, graph=True)
        assert distance(u, network(z, r, t, cond)) < 1e-14
        tolerance = 1e-7 if derivative == "exact" else 1e-2
        assert distance(found, wanted) < tolerance
        gradients = []
        for each in (found, wanted):
            parts = torch.autograd.grad((each * probe).sum(), list(network.parameters()), retain_graph=True,
                                        allow_unused=True, materialize_grads=True)  # fmt: skip
            gradients.append(torch.cat([part.flatten() for part in parts]))
        assert distance(*gradients) < tolerance


class Normed(nn.Module):
    """(z, r) through a norm and on, float64."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.inside, self.norm, self.out = nn.Linear(5, 6), norm, nn.Linear(6, 4)
        self.double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        out: Tensor = self.out(self.norm(self.inside(torch.cat([z, r[:, None]], dim=1))))
        return out


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False), nn.GroupNorm(2, 6), nn.RMSNorm(6),
     nn.Sequential(nn.GELU(), nn.Softmax(1)), nn.BatchNorm1d(6, track_running_stats=False),
     nn.Sequential(nn.Linear(6, 12), nn.GLU())],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_norms_have_the_right_gradient_of_a_derivative(norm: nn.Module) -> None:
    """Where PyTorch's rule would be silently wrong, or the layer is refused: against differences in float64."""
    torch.manual_seed(0)
    network = Normed(norm)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    z, probe, r = random(8, 4), random(8, 4, seed=1), torch.linspace(0.1, 0.4, 8).double()
    t, cond = r + 0.5, af.Cond()
    along = af.Direction(torch.zeros_like(z), torch.ones_like(r), torch.zeros_like(t))
    refused = {nn.BatchNorm1d: "batch_norm", nn.GLU: "glu"}.get(
        type(norm[-1] if isinstance(norm, nn.Sequential) else norm)
    )
    if refused is not None:
        with pytest.raises(af.UserError, match=f"{refused}'s derivative has no right gradient.*difference"):
            with_derivative(network, z, r, t, cond, along, graph=True)
        return
    u, du = with_derivative(network, z, r, t, cond, along, graph=True)
    assert distance(u, network(z, r, t, cond)) < 1e-13
    wanted = (network(z, r + 1e-5, t, cond) - network(z, r - 1e-5, t, cond)) / 2e-5
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(
            (each * probe).sum(), list(network.parameters()), allow_unused=True, materialize_grads=True)])
        for each in (du, wanted)
    ]  # fmt: skip
    assert distance(du, wanted) < 1e-8
    assert distance(*gradients) < 1e-7


def test_a_network_in_bfloat16_has_a_derivative_with_gradient() -> None:
    """Its norms keep their precision, in which the next layer's weights are."""
    network, z = Normed(nn.LayerNorm(6)).bfloat16(), torch.ones(4, 4, dtype=torch.bfloat16)
    r = torch.full((4,), 0.5, dtype=torch.bfloat16)
    along = af.Direction(torch.zeros_like(z), torch.ones_like(r), torch.zeros_like(r))
    _, du = with_derivative(network, z, r, r, af.Cond(), along, graph=True)
    torch.autograd.backward(du.sum())
    assert network.inside.weight.grad is not None
    assert network.inside.weight.grad.isfinite().all()


def test_a_dit_gives_the_same_both_ways() -> None:
    """By its own tangent and by differences, with classes, at the beginning of a batch that goes on."""
    torch.manual_seed(0)
    network = af.DiT((1, 8, 8), patch=4, depth=2, width=16, heads=2, classes=10).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    cond = af.Cond(labels=torch.arange(6))
    z, v, t = random(6, 1, 8, 8), random(4, 1, 8, 8, seed=1), torch.linspace(0.3, 0.9, 6).double()
    u, exact = with_derivative(network, z, t / 2, t, cond, v)
    same, difference = with_derivative(network, z, t / 2, t, cond, v, derivative="difference")
    assert torch.equal(u, same)
    assert same.requires_grad
    assert distance(difference, exact) < 1e-3
    assert derivative_of(network, "difference") == "central differences"


@pytest.mark.parametrize("objective", DERIVED, ids=lambda objective: type(objective).__name__)
def test_every_objective_takes_it(objective: af.Objective, smooth: type[nn.Module]) -> None:
    """Two evaluations more than the prediction, and nearly the exact gradient."""
    exact = type(objective)(fm_share=objective.fm_share, **({"warmup": 0} if hasattr(objective, "warmup") else {}))
    gradients, calls = [], []
    network = smooth(4).double()
    network.register_forward_hook(lambda *_: calls.append(1))
    for each in (objective, exact):
        network.zero_grad()
        calls.clear()
        each(network, random(16, 4), af.Cond(), 0, torch.Generator().manual_seed(4)).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert len(calls) == (3 if each is objective else 2) + isinstance(each, af.ImprovedMeanFlow)
    assert 0 < distance(*gradients) < 0.02


def test_dropout_drops_the_same_in_both_values() -> None:
    """A network of dropout alone has a derivative then; its randomness goes on as without a derivative."""
    network = nn.Dropout(0.5)
    z, v = torch.randn(8, 32), torch.randn(8, 32)
    zeros = torch.zeros(8)

    def dropped(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        out: Tensor = network(z)
        return out

    torch.manual_seed(3)
    u, dudt = with_derivative(dropped, z, zeros, zeros + 0.5, af.Cond(), v, derivative="difference")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(u, network(z))
    assert torch.equal(after, torch.rand(1))
    assert torch.allclose(dudt, torch.where(u == 0, 0.0, 2.0) * v, atol=1e-3)


def test_values_keep_their_digits_under_autocast(smooth: type[nn.Module]) -> None:
    """Differences of bfloat16's 8 bits over 2h = 0.01 would be noise."""
    torch.manual_seed(0)
    network = smooth(4).float()
    z, v, t = random(32, 4).float(), random(32, 4, seed=1).float(), torch.linspace(0.3, 0.9, 32)
    _, wanted = af.total_derivative(network, z, t / 2, t, af.Cond(), v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u, found = af.total_derivative(network, z, t / 2, t, af.Cond(), v, derivative="difference")
        noisy = network(z + STEP * v, t / 2, t + STEP, af.Cond()) - network(z - STEP * v, t / 2, t - STEP, af.Cond())
        assert distance(u, network(z, t / 2, t, af.Cond())) < 1e-6
    assert distance(found, wanted) < 1e-3
    assert distance(noisy.float() / (2 * STEP), wanted) > 0.03


def test_a_layer_without_a_rule_is_named_and_trains_by_differences(tmp_path: Path) -> None:
    """nn.LSTM; resumed bit for bit; run.json and the printed objective say it."""
    with pytest.raises(
        af.UserError, match=r'^blocks\.1 \(LSTM\) can\'t be differentiated forward .*`derivative="difference"`'
    ) as caught:
        af.Trainer(recipe(af.MeanFlow()), display=None).train_step()
    assert "\n" not in str(caught.value)
    objective = af.MeanFlow(derivative="difference")
    assert repr(objective) == "MeanFlow(derivative='difference')"
    af.Trainer(recipe(objective), out=tmp_path / "straight", checkpoint_every=3).fit()
    af.Trainer(recipe(objective, steps=3), out=tmp_path / "resumed", checkpoint_every=3).fit()
    resumed = af.Trainer(recipe(objective), out=tmp_path / "resumed", checkpoint_every=3, resume=True)
    assert resumed.step == 3
    resumed.fit()
    files = [tmp_path / run / "checkpoints/step-00000006/model.safetensors" for run in ("straight", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert json.loads((tmp_path / "resumed/run.json").read_text())["objective"]["derivative"] == "difference"


class NoJvp(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class Custom(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor, *_: Any) -> Tensor:
        out: Tensor = self.function(z)
        return out


@pytest.mark.parametrize("function", [NoJvp, OldStyle], ids=["without jvp", "without setup_context"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_custom_functions_are_named_by_their_module(function: Any, wrapped: bool) -> None:
    network: Any = Custom(function.apply)
    if wrapped:
        network = nn.Sequential(nn.Identity(), network)
    arguments = random(4, 3), torch.zeros(4).double(), torch.full((4,), 0.5).double(), af.Cond(), random(4, 3, seed=1)

    def model(z: Tensor, *_: Any) -> Tensor:
        out: Tensor = network(z)
        return out

    called = network if not wrapped else _Outer(network)
    with pytest.raises(af.UserError, match=r"network\.1 \(Custom\)" if wrapped else r"the network \(Custom\)"):
        af.total_derivative(called, *arguments)
    with pytest.raises(af.UserError, match=r"^the network can't be differentiated"):
        af.total_derivative(model, *arguments)
    assert not [hooks for m in network.modules() for hooks in (m._forward_pre_hooks, m._forward_hooks) if hooks]
    _, found = af.total_derivative(called, *arguments, derivative="difference")
    assert distance(found, arguments[0].cos() * arguments[4]) < 1e-3


class _Outer(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, *_: Any) -> Tensor:
        out: Tensor = self.network(z)
        return out


def test_other_errors_pass_through() -> None:
    def broken(z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        raise RuntimeError("out of something")

    zeros = torch.zeros(2)
    with pytest.raises(RuntimeError, match=r"^out of something$") as caught:
        af.total_derivative(broken, torch.zeros(2, 3), zeros, zeros, af.Cond(), torch.zeros(2, 3))
    assert not isinstance(caught.value, af.UserError)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(af.UserError, match=r"^derivative is exact or difference, got 'central'$"):
        af.MeanFlow(derivative="central")  # type: ignore[arg-type]


class Listening(Display):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (af.MeanFlow(), True), (af.AlphaFlow(alpha=af.Sigmoid(end=4)), True), (af.FACM(), True),
        (af.MeanFlow(derivative="difference"), False), (af.FlowMatching(), False), (af.AlphaFlow(alpha=0.5), False),
    ],
    ids=repr,
)  # fmt: skip
def test_compiling_says_that_the_derivative_is_not_compiled(objective: af.Objective, said: bool) -> None:
    """Where torch.func.jvp takes it, which sees the network as it was written. A DiT's own tangent is compiled."""
    heard = Listening()
    af.Trainer(recipe(objective, Plain()), setup=af.MachineSetup(compile=True), display=heard)
    wanted = "the derivative of Plain is taken by torch.func.jvp as written, uncompiled"
    assert [wanted in line for line in heard.lines] == [True] * said
    heard = Listening()
    af.Trainer(recipe(objective, Plain()), display=heard)
    dit = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2)
    af.Trainer(recipe(objective, dit), setup=af.MachineSetup(compile=True), display=heard)
    assert heard.lines == []


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        out: Tensor = self.layer(z) * (1 + t - r)[:, None, None, None]
        return out


@pytest.mark.parametrize(
    ("objective", "share"), [(af.MeanFlow(fm_share=0.5), 1), (DERIVED[0], 3)], ids=["jvp", "difference"]
)
def test_what_is_compiled_in_a_step(objective: af.Objective, share: int) -> None:
    """Of torch.func.jvp the prediction, in every step; of differences all three evaluations."""
    graphs: list[int] = []
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        called = lookup_backend("aot_eager")(graph, example)
        graphs.append(1)

        def run(*arguments: Any) -> Any:
            runs.append(1)
            return called(*arguments)

        return run

    torch._dynamo.reset()
    model = Plain()
    model.compile(backend=backend)
    trainer = af.Trainer(recipe(objective, model), display=None)
    for step in range(1, 4):
        trainer.train_step()
        assert len(runs) == share * step
    assert len(graphs) <= 3
