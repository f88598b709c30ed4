"""Each rule against torch.func.jvp in float64; whole networks and objectives; what is evaluated, and what is kept."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch.nn.attention import SDPBackend, sdpa_kernel

import alphaflow as af
from alphaflow import tangents
from alphaflow.tangents import Dual
from alphaflow.tangents.chunked import chunked_tangent

B, N, TOKENS, WIDTH, HEADS = 5, 3, 6, 8, 2
"""A batch, and how many of it have a tangent."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def dual(*shape: int, seed: int = 0) -> Dual:
    return Dual(random(B, *shape, seed=seed).requires_grad_(), random(N, *shape, seed=seed + 1000))


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


def layer(kind: type[nn.Module], *arguments: Any, **options: Any) -> Any:
    made = kind(*arguments, **options, dtype=torch.float64)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


class Adapted(nn.Linear):
    """A linear layer that does more than its weight says."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tanh(x)


TOKEN = (TOKENS, WIDTH)
HEAD = (HEADS, TOKENS, WIDTH // HEADS)
RULES: dict[str, tuple[Callable[..., Any], Callable[..., Tensor], list[tuple[int, ...]]]] = {}
"""The rule, the same by PyTorch's own functions, and the shapes of its arguments."""


def rule(name: str, shapes: list[tuple[int, ...]], ours: Callable[..., Any], plain: Callable[..., Tensor]) -> None:
    RULES[name] = ours, plain, shapes


torch.manual_seed(0)
linear, adapted = layer(nn.Linear, WIDTH, 5), layer(Adapted, WIDTH, WIDTH)
norm, affine = layer(nn.LayerNorm, WIDTH, elementwise_affine=False), layer(nn.LayerNorm, WIDTH)


class Tripled(nn.LayerNorm):
    """A norm that does more than LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x) + x.square()


other, hooked, hooked_linear = layer(Tripled, WIDTH), layer(nn.LayerNorm, WIDTH), layer(nn.Linear, WIDTH, 5)
for each in (hooked, hooked_linear):
    each.register_forward_hook(lambda _, inputs, out: out.square())
rates = random(4, seed=9)
rule("linear", [TOKEN], lambda x: tangents.linear(linear, x), linear)
rule("adapted", [TOKEN], lambda x: tangents.linear(adapted, x), adapted)
rule("norm", [TOKEN], lambda x: tangents.layer_norm(norm, x), norm)
rule("affine norm", [TOKEN], lambda x: tangents.layer_norm(affine, x), affine)
rule("a norm of another class", [TOKEN], lambda x: tangents.layer_norm(other, x), other)
rule("a norm with a hook", [TOKEN], lambda x: tangents.layer_norm(hooked, x), hooked)
rule("a layer with a hook", [TOKEN], lambda x: tangents.linear(hooked_linear, x), hooked_linear)
rms = layer(nn.RMSNorm, WIDTH, eps=1e-6)
rule("rms norm", [TOKEN], lambda x: tangents.rms_norm(rms, x), rms)
rule("product", [TOKEN, TOKEN], tangents.product, torch.mul)
rule("gelu", [TOKEN], tangents.gelu, lambda x: F.gelu(x, approximate="tanh"))
rule("silu", [TOKEN], tangents.silu, F.silu)
rule("modulate", [TOKEN, (WIDTH,), (WIDTH,)], tangents.modulate, lambda x, b, s: x * (1 + s[:, None]) + b[:, None])
rule("gated", [TOKEN, (WIDTH,), TOKEN], tangents.gated, lambda x, g, y: x + g[:, None] * y)
rule("add", [TOKEN, TOKEN], tangents.add, lambda x, y: x + y)
rule(
    "waves",
    [()],
    lambda t: tangents.waves(t, rates),
    lambda t: torch.cat([torch.cos(t[:, None] * rates), torch.sin(t[:, None] * rates)], 1),
)
rule("linearly", [TOKEN], lambda x: tangents.linearly(lambda y: y.mT, x), lambda x: x.mT)
rule("chunk", [TOKEN], lambda x: tangents.chunk(x, 2, dim=2)[1], lambda x: x[:, :, WIDTH // 2 :])
rule("through", [TOKEN], lambda x: tangents.through(torch.sin, x), torch.sin)
rule("attention", [HEAD, HEAD, HEAD], tangents.attention, F.scaled_dot_product_attention)


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    ours, plain, shapes = RULES[name]
    given = [dual(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = ours(*given)
    values = tuple(x.value.detach() for x in given)
    with sdpa_kernel(SDPBackend.MATH):
        value, tangent = torch.func.jvp(
            plain, tuple(v[:N] for v in values), tuple(x.tangent for x in given)
        )  # fmt: skip
    assert distance(found.tangent, tangent) < 1e-12
    assert not found.tangent.requires_grad
    # values as without tangents, bit for bit, with their gradient
    again = ours(*(x.value for x in given))
    assert torch.equal(found.value, again)
    assert distance(again[:N], value) < 1e-12
    weight = random(*found.value.shape, seed=77)
    for mine, own in zip(
        torch.autograd.grad((found.value * weight).sum(), [x.value for x in given]),
        torch.autograd.grad((plain(*(x.value for x in given)) * weight).sum(), [x.value for x in given]),
        strict=True,
    ):
        assert distance(mine, own) < 1e-12


def test_a_sum_keeps_its_tangent() -> None:
    x, plain = dual(*TOKEN), random(B, *TOKEN)
    found = tangents.add(x, plain)
    assert torch.equal(found.value, x.value + plain)
    assert torch.equal(found.tangent, x.tangent)
    with pytest.raises(AssertionError, match="tangent would be lost"):
        tangents.add(plain, x)


@pytest.mark.parametrize("tokens", [1, 7, 64])
@pytest.mark.parametrize("bytes_at_once", [1, 700, 10_000, 1 << 30])
def test_attention_in_chunks(tokens: int, bytes_at_once: int) -> None:
    """A query at a time, some, a head at a time, all at once: the same."""
    q, k, v, dq, dk, dv = (random(3, 2, tokens, 4, seed=i) for i in range(6))
    with sdpa_kernel(SDPBackend.MATH):
        out, wanted = torch.func.jvp(F.scaled_dot_product_attention, (q, k, v), (dq, dk, dv))
    found = chunked_tangent(q, k, v, out, dq, dk, dv, bytes_at_once)
    assert distance(found, wanted) < 1e-12 or (tokens == 1 and distance(found, wanted) < 1e-11)


def test_attention_in_chunks_holds_little() -> None:
    """1,500 tokens: one (tokens × tokens) matrix a head is 9 MB; in chunks of 1 MB none of them appears."""
    q, k, v, dq, dk, dv = (random(1, 2, 1500, 8, seed=i).float() for i in range(6))
    out = F.scaled_dot_product_attention(q, k, v)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                largest = max(largest, made.untyped_storage().nbytes())
            return made

    with Largest():
        chunked_tangent(q, k, v, out, dq, dk, dv, 1 << 20)
    assert largest <= 1 << 20


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_half_precision_is_close(size: float) -> None:
    """Scores and sums in fp32: the error is that of the operands, also where the scores are large."""
    q, k, v, dq, dk, dv = ((random(2, 2, 50, 16, seed=i) * size).bfloat16() for i in range(6))
    exact = [x.double() for x in (q, k, v, dq, dk, dv)]
    with sdpa_kernel(SDPBackend.MATH):
        out, wanted = torch.func.jvp(F.scaled_dot_product_attention, tuple(exact[:3]), tuple(exact[3:]))
    found = chunked_tangent(q, k, v, out.bfloat16(), dq, dk, dv)
    assert found.dtype == torch.bfloat16
    assert distance(found.double(), wanted) < 0.015


def made(shape: tuple[int, ...] = (2, 4, 4), depth: int = 3, **options: Any) -> af.DiT:
    torch.manual_seed(3)
    model = af.DiT(shape, patch=2, depth=depth, width=16, heads=2, classes=4, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


class Hidden(af.Network):
    """A network that offers no tangent: torch.func.jvp is taken."""

    def __init__(self, inner: af.DiT) -> None:
        super().__init__()
        self.inner = inner
        self.velocity_head = inner.velocity_head

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.inner(*arguments, **options)


def inputs(shape: tuple[int, ...], b: int = B) -> tuple[Tensor, Tensor, Tensor, af.Cond, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z, v = torch.randn(2, b, *shape, dtype=torch.float64, generator=generator)
    r, t = torch.rand(2, b, dtype=torch.float64, generator=generator).sort(dim=0).values
    return z, r, t, af.Cond(labels=torch.arange(b) % 4), v


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 4, 4), {}),
        ((2, 3, 4, 4), {"late": 1}),
        ((2, 4, 4), {"guidance": True, "velocity_head": 1}),
        ((2, 4, 4), {"guidance": "scaled", "velocity_head": 2, "late": 2}),
        ((2, 3, 4, 4), {"rms_norm": True, "swiglu": True, "qk_norm": True, "rope": True, "factorised": True}),
        ((2, 3, 4, 4), {"qk_norm": True, "rope": True}),
    ],
    ids=["image", "video, late", "guided, velocity head", "scaled, late, velocity head", "LightningDiT's", "qk-norm"],
)
def test_networks(shape: tuple[int, ...], options: dict[str, Any], recompute: bool, grad: Any) -> None:
    model = made(shape, **options)
    z, r, t, cond, v = inputs(shape)
    guided = "guidance" in options
    if guided:
        cond = cond.replace(guidance=torch.tensor([[3.0, 0.1, 0.8]], dtype=torch.float64).repeat(B, 1))
    plain = model(z, r, t, cond)
    gradient = grad(model, plain.square().sum()) if not guided else None
    assert af.derivative_of(model) == "its own tangent"
    assert af.derivative_of(Hidden(model)) == "torch.func.jvp"
    assert isinstance(model, af.Network)
    assert model.offers_tangent
    model.recompute = recompute
    for along in (af.Direction(v, t - 1.5, 2 * r - 1), af.Direction(0 * v, torch.ones_like(r), 0 * t)):
        _, wanted = af.total_derivative(Hidden(model), z, r, t, cond, along)
        _, found = model(z, r, t, cond, along=af.Direction(*(move[:N] for move in along)))
        assert distance(found, wanted[:N]) < 1e-12
    _, wanted = af.total_derivative(Hidden(model), z, r, t, cond, v)
    u, dudt = model(z, r, t, cond, along=af.Direction.of(v[:N], t))
    assert distance(dudt, wanted[:N]) < 1e-12
    assert torch.equal(u, plain)
    assert not dudt.requires_grad
    if gradient is not None:
        assert distance(grad(model, u.square().sum()), gradient) < 1e-12
    if guided:
        (both, head), again = model(z, r, t, cond, velocity=True, along=af.Direction.of(v[:N], t))
        assert torch.equal(again, dudt)
        assert torch.equal(both, u)
        assert torch.equal(head, model(z, r, t, cond, velocity=True)[1])


def test_recomputation_takes_no_tangent_again() -> None:
    model = made()
    model.recompute = True
    z, r, t, cond, v = inputs((2, 4, 4))
    counts: list[bool] = []
    own = model.blocks[1].forward
    model.blocks[1].forward = lambda x, *more: (counts.append(isinstance(x, Dual)), own(x, *more))[1]  # type: ignore[method-assign, assignment]
    u, _ = model(z, r, t, cond, along=af.Direction.of(v, t))
    u.square().sum().backward()
    assert counts == [True, False]


class Noisy(nn.Linear):
    """A linear layer with dropout, as adapters have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.3))


def test_recomputation_with_dropout() -> None:
    """The backward pass draws what the forward pass drew, though it computes no tangent."""
    gradients = []
    for recompute in (False, True):
        model = made()
        for block in model.blocks:
            noisy = Noisy(16, 64).double()
            noisy.load_state_dict(block.mlp.hidden.state_dict())  # type: ignore[union-attr]
            block.mlp.hidden = noisy  # type: ignore[union-attr]
        model.recompute = recompute
        z, r, t, cond, v = inputs((2, 4, 4))
        torch.manual_seed(7)
        u, _ = model(z, r, t, cond, along=af.Direction.of(v[:N], t))
        u.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert distance(gradients[1], gradients[0]) < 1e-12


def test_recomputation_keeps_no_tangents() -> None:
    model = made()
    model.recompute = True
    alive: list[weakref.ref[Tensor]] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, out: alive.append(weakref.ref(out.tangent)))
    z, r, t, cond, v = inputs((2, 4, 4))
    u, _ = model(z, r, t, cond, along=af.Direction.of(v, t))
    assert len(alive) == 3
    assert not [each for each in alive if each() is not None]
    assert u.requires_grad


def test_a_subclass_with_a_forward_of_its_own_offers_none() -> None:
    class Mine(af.DiT):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: Any = None) -> Tensor:  # type: ignore[override]
            return super().forward(z, r, t, cond) * 2

    class Named(af.DiT):
        pass

    mine = Mine((2, 4, 4), depth=1, width=16, heads=2, classes=4).double()
    assert af.derivative_of(mine) == "torch.func.jvp"
    assert af.derivative_of(Named((2, 4, 4), depth=1, width=16, heads=2)) == "its own tangent"
    loss = af.MeanFlow(fm_share=0.5)(mine, random(4, 2, 4, 4), af.Cond(labels=torch.arange(4)), 0)
    assert math.isfinite(loss.total.item())


GUIDED = {"guidance": af.Guidance(omega=0.6, kappa=0.3, interval=(0.1, 0.9), label_drop=0.3)}
OBJECTIVES = {
    "MeanFlow": (af.MeanFlow(fm_share=0.4), {}),
    "guided, clipped": (af.MeanFlow(fm_share=0.4, clamp=2.0, **GUIDED), {}),
    "iMF": (af.ImprovedMeanFlow(), {}),
    "iMF, guided": (af.ImprovedMeanFlow(guidance=af.GuidanceInputs()), {"guidance": True, "velocity_head": 1}),
    "iMF, one scale": (af.ImprovedMeanFlow(**GUIDED), {"velocity_head": 2}),
    "FACM": (af.FACM(**GUIDED), {}),
    "sCM": (af.ContinuousConsistency(warmup=0, fm_share=0.2), {}),
    "averaged": (af.MeanFlow(ema_target=True, fm_share=0.4, **GUIDED), {}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str, grad: Any) -> None:
    """Loss, target and gradient of all parameters, against torch.func.jvp through the same network."""
    objective, options = OBJECTIVES[name]
    model, average = made(**options), made(**options)
    for parameter in average.parameters():
        parameter.data.mul_(0.9)
    found = []
    for network, mean in ((model, average), (Hidden(model), Hidden(average))):
        x, cond = random(10, 2, 4, 4), af.Cond(labels=torch.arange(10) % 4)
        loss = objective(network, x, cond, 5, torch.Generator().manual_seed(4), ema=mean)
        found.append((loss, grad(model, loss.total)))
    (ours, gradient), (theirs, wanted) = found
    assert distance(gradient, wanted) < 1e-10
    assert distance(ours.per_sample, theirs.per_sample) < 1e-10
    for term in ours.terms:
        assert distance(ours.terms[term], theirs.terms[term]) < 1e-9


class Counting(af.Network):
    """Counts samples: of evaluations with a graph, without one, and of tangents."""

    def __init__(self, inner: af.DiT) -> None:
        super().__init__()
        self.inner = inner
        self.offers_tangent = True
        self.graph = self.constant = self.tangent = self.calls = 0

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond, **options: Any) -> Any:
        self.calls += 1
        if torch.is_grad_enabled():
            self.graph += len(z)
        else:
            self.constant += len(z)
        self.tangent += len(options["along"].t) if options.get("along") is not None else 0
        return self.inner(z, r, t, cond, **options)


KAPPA = af.Guidance(omega=1.0, kappa=0.5, label_drop=0.0)
ONE = af.Guidance(omega=0.5, kappa=0.5, label_drop=0.0)
DROPPED = af.Guidance(omega=1.0, kappa=0.5, label_drop=1.0)
FLOORS = [
    # objective, evaluations beside the prediction's, and tangents, of a batch of 16 with half of it few-step
    (af.FlowMatching(), 0, 0),
    (af.TrajectoryFlowMatching(), 0, 0),  # α = 1: no second evaluation
    (af.TrajectoryFlowMatching(guidance=KAPPA), 16 + 8, 0),  # ∅ for all; y where r < t, the prediction has the others
    (af.AlphaFlow(alpha=0.5), 8, 0),
    (af.AlphaFlow(alpha=0.5, guidance=KAPPA), 16 + 8 + 8, 0),
    (af.MeanFlow(fm_share=0.5), 0, 8),
    (af.MeanFlow(fm_share=0.5, guidance=KAPPA), 16 + 8, 8),
    (af.MeanFlow(fm_share=0.5, guidance=ONE), 8, 8),  # ∅ has no coefficient
    (af.MeanFlow(fm_share=0.5, guidance=DROPPED), 0, 8),  # y is ∅: κ + (1 − ω − κ) = 0
    (af.MeanFlow(fm_share=0.5, guidance=af.Guidance(label_drop=0.1)), 0, 8),  # dropped labels only
    (af.FACM(), 0, 8),
    (af.ContinuousConsistency(), 0, 16),
    (af.ImprovedMeanFlow(), 8, 8),
    (af.Shortcut(), 4 + 4, 0),
    (af.Lagrangian(), 8, 8),
    (af.Lagrangian(guidance=KAPPA), 8 + 8, 8),  # ∅ where r = t; there the prediction has y
    (af.AlignYourFlow(), 0, 16),
    (af.TransitionModel(derivative="exact"), 0, 8),
    (af.TransitionModel(), 8 + 8, 0),
    (af.DecoupledMeanFlow(), 0, 8),
    (af.SoFlow(), 4, 0),
    (af.MeanFlow(fm_share=0.5, direction=0.3), 8, 8),
]


@pytest.mark.parametrize(("objective", "constant", "tangent"), FLOORS, ids=[repr(row[0]) for row in FLOORS])
def test_no_evaluation_is_wasted(objective: af.Objective, constant: int, tangent: int) -> None:
    model = Counting(made())
    x, cond = random(16, 2, 4, 4), af.Cond(labels=torch.arange(16) % 4)
    objective(model, x, cond, 5, torch.Generator().manual_seed(4))
    assert (model.graph, model.constant, model.tangent) == (16, constant, tangent)
    assert model.calls <= 3


def test_only_inside_the_interval() -> None:
    guidance = af.Guidance(omega=1.0, kappa=0.5, interval=(0.25, 0.75), label_drop=0.0)
    objective = af.MeanFlow(fm_share=0.5, guidance=guidance)
    model = Counting(made())
    x, cond = random(64, 2, 4, 4), af.Cond(labels=torch.arange(64) % 4)
    draw = objective.draw(model.inner, x, cond, 0, torch.Generator().manual_seed(4))
    inside = (draw.t > 0.25) & (draw.t < 0.75)
    objective(model, x, cond, 0, torch.Generator().manual_seed(4))
    assert model.constant == int(inside.sum()) + int(inside[:32].sum())
    assert 0 < inside.sum() < 64


def test_guided_inputs_share_their_evaluations() -> None:
    """iMF: a few-step sample's v_c is guidance's and the derivative's direction; the prediction has the others'."""
    model = Counting(made(guidance=True, velocity_head=1))
    model.velocity_head = 1
    x, cond = random(16, 2, 4, 4), af.Cond(labels=torch.arange(16) % 4)
    guidance = af.GuidanceInputs(scales=(2.0, 8.0), starts=(0.0, 0.0), ends=(1.0, 1.0), label_drop=0.0)
    af.ImprovedMeanFlow(guidance=guidance)(model, x, cond, 0, torch.Generator().manual_seed(4))
    assert (model.graph, model.constant, model.tangent, model.calls) == (16, 16 + 8, 8, 2)


@pytest.mark.parametrize("objective", [af.MeanFlow(fm_share=0.5), af.AlphaFlow(alpha=0.5), af.MeanFlow(guidance=KAPPA)])
def test_no_graph_is_kept_for_targets(objective: af.Objective) -> None:
    """A step keeps for its backward pass what flow matching keeps, and the loss's own few bytes."""
    model, sizes = made(), []
    x, cond = random(16, 2, 4, 4), af.Cond(labels=torch.arange(16) % 4)
    for each in (af.FlowMatching(), objective):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = each(model, x, cond, 0, torch.Generator().manual_seed(4))
        sizes.append(sum(kept.values()))
        del loss
    assert sizes[1] <= sizes[0] + 8 * x.untyped_storage().nbytes()


def test_a_network_without_a_tangent_of_its_own_is_compiled(smooth: type[torch.nn.Module]) -> None:
    """Its predictions are, whatever comes first: the derivative is taken of it as it was written."""
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        called = lookup_backend("aot_eager")(graph, example)

        def run(*arguments: Any) -> Any:
            runs.append(1)
            return called(*arguments)

        return run

    torch._dynamo.reset()
    networks = [smooth(4).double() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[1].compile(backend=backend)
    x = random(8, 4)
    for objective in (af.MeanFlow(fm_share=0.5), af.FlowMatching(), af.FACM(), af.ContinuousConsistency()):
        before, gradients = len(runs), []
        for network in networks:
            network.zero_grad()
            objective(network, x, af.Cond(), 0, torch.Generator().manual_seed(4)).total.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert len(runs) > before, objective
        assert distance(gradients[1], gradients[0]) < 1e-10


def test_a_compiled_objective_is_traced(smooth: type[torch.nn.Module]) -> None:
    """A whole objective under torch.compile, with a network that has no tangent of its own."""
    torch._dynamo.reset()
    network, x = smooth(4).double(), random(8, 4)

    def loss(x: Tensor) -> Tensor:
        return af.MeanFlow(fm_share=0.5)(network, x, af.Cond(), 0, None).total

    torch.manual_seed(0)
    plain = loss(x)
    torch.manual_seed(0)
    assert torch.allclose(torch.compile(loss, backend="eager")(x), plain)


@pytest.mark.parametrize("recompute", [False, True])
def test_phases_compile_whole(recompute: bool) -> None:
    """Flow matching, two-point, MeanFlow, with guidance: one compiled network without a graph break, equal gradients.

    Traced and differentiated as for any backend; test_engine compiles to machine code.
    """
    model, compiled = made(depth=1), made(depth=1)
    model.recompute = compiled.recompute = recompute
    torch._dynamo.reset()
    compiled.compile(fullgraph=True, backend="aot_eager")
    x, cond = random(8, 2, 4, 4), af.Cond(labels=torch.arange(8) % 4)
    phases = [
        af.FlowMatching(),
        af.AlphaFlow(alpha=0.5),
        af.MeanFlow(fm_share=0.5),
        af.MeanFlow(fm_share=0.5, **GUIDED),
    ]
    for objective in phases[2:3] if recompute else phases:
        gradients = []
        for network in (model, compiled):
            network.zero_grad()
            objective(network, x, cond, 0, torch.Generator().manual_seed(4)).total.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert distance(gradients[1], gradients[0]) < 1e-10


def test_the_gpu_operation_is_well_formed() -> None:
    """As PyTorch's compiler takes it: its shapes and strides, no aliases. On the CPU it falls back, with a warning."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux")
    from alphaflow.tangents import triton_attention

    given = [random(2, 7, 3, 16, seed=i).float().transpose(1, 2).half() for i in range(7)]
    triton_attention.kernel_works.cache_clear()
    with pytest.warns(UserWarning, match="kernel is not used"):
        found = triton_attention.tangent_on_gpu(*given)
    assert distance(found.double(), chunked_tangent(*given).double()) < 1e-3
    torch.library.opcheck(torch.ops.alphaflow.attention_tangent, tuple(given))


def test_the_gpu_kernel_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux")
    worker = Path(__file__).parent / "workers" / "triton_tangent.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(af.__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, worker], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} >= {"64", "72"}
    for d, tokens, dtype, error in rows:
        assert float(error) < (1e-6 if dtype == "torch.float32" else 2e-3), (d, tokens, dtype, error)


def test_the_gpu_kernel_compiles_for_gpus() -> None:
    """To machine code for A100 and H100, without one: it fits into their shared memory."""
    triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alphaflow.tangents import triton_attention

    kernel: Any = triton_attention._kernel
    for capability, memory in ((80, 163 << 10), (90, 227 << 10)):
        for d in (64, 72):
            sizes, options = triton_attention.sizes_of(d)
            pointers = ("q", "k", "v", "dq", "dk", "dv", "o", "found")
            kinds = dict.fromkeys(pointers, "*bf16") | {"scale": "fp32"} | dict.fromkeys(sizes, "constexpr")
            source = ASTSource(
                fn=kernel,
                signature={name: kinds.get(name, "i32") for name in kernel.arg_names},
                constexprs={(kernel.arg_names.index(name),): value for name, value in sizes.items()},
            )
            built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert len(built.asm["cubin"]) > 1000
            assert built.metadata.shared < memory


def test_a_users_network_of_rules() -> None:
    """The guide's example: a small network that offers its tangent, against torch.func.jvp."""
    text = (Path(__file__).parent.parent / "docs" / "tangents.md").read_text(encoding="utf-8")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    scope: dict[str, Any] = {"__name__": "guide"}
    exec(compile(code, "docs/tangents.md", "exec", dont_inherit=True), scope)
    model = scope["Mixer"](size=6, width=16).double()
    assert af.derivative_of(model) == "its own tangent"
    z, r, t, cond, v = inputs((6,))
    u, dudt = model(z, r, t, cond, along=af.Direction.of(v[:N], t))
    _, wanted = af.total_derivative(lambda *arguments: model(*arguments), z, r, t, cond, v)
    assert distance(dudt, wanted[:N]) < 1e-12
    assert torch.equal(u, model(z, r, t, cond))
    loss = af.MeanFlow()(model, z, cond, 0, torch.Generator().manual_seed(0))
    assert math.isfinite(loss.total.item())


def test_the_guides_meanflow(grad: Any) -> None:
    """docs/your-own-objective.md's MeanFlow of two methods: the library's own, sample for sample."""
    text = (Path(__file__).parent.parent / "docs" / "your-own-objective.md").read_text(encoding="utf-8")
    (code,) = [part.split("```", 1)[0] for part in text.split("```python\n")[1:] if "class MyMeanFlow" in part]
    scope: dict[str, Any] = {}
    exec(code, scope)
    model, x, cond = Counting(made()), random(10, 2, 4, 4), af.Cond(labels=torch.arange(10) % 4)
    mine = scope["MyMeanFlow"]()(model, x, cond, 0, torch.Generator().manual_seed(4))
    assert (model.graph, model.constant, model.tangent) == (10, 0, 5)
    own = af.MeanFlow(fm_share=0.5)(model, x, cond, 0, torch.Generator().manual_seed(4))
    assert distance(grad(model, mine.total), grad(model, own.total)) < 1e-12
