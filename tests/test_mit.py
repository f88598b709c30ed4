"""Improved MeanFlow's network, and its checkpoints, against a forward pass written out from what was published."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import alphaflow as af
from alphaflow.weights.layouts import LAYOUTS

WIDTH, HEADS, CHANNELS, PATCH, SIZE = 32, 2, 4, 8, 32
BRANCHES = {"shared_blocks": 1, "u_heads": 2, "v_heads": 1}
EMBEDDERS = {"omega": "omega_embedder", "t_min": "cfg_t_start_embedder", "t_max": "cfg_t_end_embedder"}
State = dict[str, Tensor]


def published(branches: dict[str, int]) -> State:
    """Random weights with the names and shapes of its PyTorch port, float64."""
    generator, found = torch.Generator().manual_seed(0), State()

    def draw(name: str, *shape: int, centre: float = 0.0) -> None:
        scale = 2 / math.sqrt(max(4, math.prod(shape[1:])))
        found[name] = centre + scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    draw("x_embedder.proj.weight", WIDTH, CHANNELS, PATCH, PATCH)
    draw("x_embedder.proj.bias", WIDTH)
    for name in ("h_embedder", *EMBEDDERS.values()):
        for layer, inner in ((0, 256), (2, WIDTH)):
            draw(f"{name}.mlp.{layer}.weight", WIDTH, inner)
            draw(f"{name}.mlp.{layer}.bias", WIDTH)
    draw("y_embedder.embedding_table.weight", 11, WIDTH)
    for name, count in (("time", 4), ("class", 8), ("omega", 4), ("t_min", 2), ("t_max", 2)):
        draw(f"{name}_tokens", count, WIDTH)
    inner = int(WIDTH * 8 / 3)
    for block in (f"{branch}.{i}" for branch, count in branches.items() for i in range(count)):
        for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"):
            draw(f"{block}.{name}.weight", WIDTH, WIDTH)
        for name, width in (("norm1", WIDTH), ("norm2", WIDTH), ("attn.q_norm", 16), ("attn.k_norm", 16)):
            draw(f"{block}.{name}.weight", width, centre=1)
        for name, shape in (("w1", (inner, WIDTH)), ("w3", (inner, WIDTH)), ("w2", (WIDTH, inner))):
            draw(f"{block}.mlp.{name}.weight", *shape)
        draw(f"{block}.attn_scale", WIDTH)
        draw(f"{block}.mlp_scale", WIDTH)
    for final in ("u_final_layer", "v_final_layer"):
        draw(f"{final}.norm.weight", WIDTH, centre=1)
        draw(f"{final}.linear.weight", PATCH * PATCH * CHANNELS, WIDTH)
        draw(f"{final}.linear.bias", PATCH * PATCH * CHANNELS)
    return found


def filed(weights: State) -> State:
    """The same by the names that the port's files have, which are JAX's in part."""

    def named(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer.endswith(("_proj", "w1", "w2", "w3", "layer.linear", "mlp.0", "mlp.2")):
            return f"net.{layer}._flax_linear.{kind}"
        return f"net.{layer}._flax_embedding.{kind}" if layer.endswith("embedding_table") else f"net.{name}"

    return {named(name): weight for name, weight in weights.items()}


def forward(weights: State, z: Tensor, h: Tensor, labels: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
    """The published network's u and v; rotations by complex numbers."""
    b, size = len(z), WIDTH // HEADS

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def rms(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def embedded(name: str, value: Tensor) -> Tensor:
        angles = value[:, None] * torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        features = torch.cat([angles.cos(), angles.sin()], 1)
        return linear(f"{name}.mlp.2", F.silu(linear(f"{name}.mlp.0", features)))[:, None]

    omega, t_min, t_max = guidance.unbind(1)
    tokens = [weights["class_tokens"] + weights["y_embedder.embedding_table.weight"][labels][:, None]]
    for (name, embedder), value in zip(EMBEDDERS.items(), (1 - 1 / omega, t_min, t_max), strict=True):
        tokens.append(weights[f"{name}_tokens"] + embedded(embedder, value))
    tokens.append(weights["time_tokens"] + embedded("h_embedder", h))
    image = F.conv2d(z, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=PATCH)
    x = torch.cat([*tokens, image.flatten(2).mT], 1)
    n = x.shape[1]
    rates = 10_000 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(n, dtype=torch.float64), rates)
    turns = torch.complex(angles.cos().float(), angles.sin().float()).to(torch.complex128)[:, None]

    def turned(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)

    def block(name: str, x: Tensor) -> Tensor:
        still = rms(f"{name}.norm1", x)
        q, k, v = (linear(f"{name}.attn.{part}_proj", still).view(b, n, HEADS, size) for part in "qkv")
        q, k = turned(rms(f"{name}.attn.q_norm", q)), turned(rms(f"{name}.attn.k_norm", k))
        scores = torch.einsum("bqhd,bkhd->bhqk", q / math.sqrt(size), k).softmax(-1)
        mixed = linear(f"{name}.attn.out_proj", torch.einsum("bhqk,bkhd->bqhd", scores, v).reshape(b, n, WIDTH))
        x = x + mixed * weights[f"{name}.attn_scale"]
        still = rms(f"{name}.norm2", x)
        hidden = F.silu(linear(f"{name}.mlp.w1", still)) * linear(f"{name}.mlp.w3", still)
        return x + linear(f"{name}.mlp.w2", hidden) * weights[f"{name}.mlp_scale"]

    def image_of(name: str, x: Tensor) -> Tensor:
        side = SIZE // PATCH
        out = linear(f"{name}.linear", rms(f"{name}.norm", x[:, -side * side :]))
        out = out.reshape(b, side, side, PATCH, PATCH, CHANNELS)
        return torch.einsum("nhwpqc->nchpwq", out).reshape(b, CHANNELS, SIZE, SIZE)

    x = block("shared_blocks.0", x)
    u = block("u_heads.1", block("u_heads.0", x))
    return image_of("u_final_layer", u), image_of("v_final_layer", block("v_heads.0", x))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, CHANNELS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    r, t = torch.rand(2, 3, generator=generator, dtype=torch.float64).sort(dim=0).values
    return z, r, t, torch.tensor([[2.5, 0.1, 0.9]] * 3, dtype=torch.float64)


def test_value_and_tangent() -> None:
    weights, (z, r, t, guidance) = published(BRANCHES), inputs()
    described, found = LAYOUTS["imf"].network(filed(weights))
    model = af.MiT(**described.config).double()
    model.load_state_dict(found)
    cond = af.Cond(labels=torch.tensor([0, 5, -1]), guidance=guidance)
    u, v = model(z, r, t, cond, velocity=True)
    for one, wanted in zip((u, v), forward(weights, z, t - r, torch.tensor([0, 5, 10]), guidance), strict=True):
        assert (one - wanted).norm() / wanted.norm() < 1e-12
    along = af.Direction(torch.randn_like(z), t - 2, torch.ones_like(t))
    (again, velocity), tangent = model(z, r, t, cond, velocity=True, along=along)
    with sdpa_kernel(SDPBackend.MATH):
        _, wanted = torch.func.jvp(lambda *point: model(*point, cond), (z, r, t), tuple(along))
    assert torch.equal(again, u)
    assert torch.equal(velocity, v)
    assert (tangent - wanted).norm() / wanted.norm() < 1e-12
    some = af.Direction(*(part[:1] for part in along))
    assert (model(z, r, t, cond, along=some)[1] - wanted[:1]).norm() / wanted[:1].norm() < 1e-12


def test_a_converted_run(tmp_path: Path) -> None:
    """Without v's branch, as checkpoints for inference are; sampled with guidance as an input."""
    weights = published({"shared_blocks": 1, "u_heads": 2})
    save_file({name: weight.float() for name, weight in filed(weights).items()}, tmp_path / "imf.safetensors")
    run = af.Run(af.convert(tmp_path / "imf.safetensors", tmp_path / "run", "imf"), device="cpu").undecoded()
    assert (run.model.config["velocity_head"], run.takes_guidance, run.classes) == (0, True, 10)
    labels, noise = torch.tensor([3, 4]), torch.randn(2, CHANNELS, SIZE, SIZE)
    found = run.sample(labels=labels, noise=noise, guidance=af.CFG(2.0, (0.2, 0.8)), dtype=torch.float32)
    more = published(BRANCHES) | weights
    wanted = (
        noise - forward(more, noise.double(), torch.ones(2), labels, torch.tensor([[2.0, 0.2, 0.8]] * 2).double())[0]
    )
    assert (found - wanted).norm() / wanted.norm() < 1e-5
    for state, says in (
        ({n: w for n, w in weights.items() if "u_heads.1.mlp.w3" not in n}, "lacks u_heads.1.mlp.w3.weight"),
        ({**weights, "more": torch.zeros(2)}, "has beside them more"),
        ({**weights, "u_heads.0.attn_scale": torch.zeros(2, 2)}, "u_heads.0.attn_scale"),
        ({"x": torch.zeros(2)}, "it has no x_embedder"),
    ):
        with pytest.raises(af.UserError, match=says):
            LAYOUTS["imf"].network(state)


def test_it_trains() -> None:
    """Zero at initialisation; improved MeanFlow moves every weight that u and v use."""
    torch.manual_seed(0)
    model = af.MiT((1, 8, 8), patch=4, depth=2, width=16, heads=2, classes=10, u_blocks=1, velocity_head=1)
    x, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    assert not model(x, t * 0, t).any()
    recipe = af.Recipe(
        model=model,
        objective=af.ImprovedMeanFlow(guidance=af.GuidanceInputs()),
        dataset=af.Digits(batch_size=16, seed=1),
        samplers=(af.ODE(1),),
        steps=4,
        lr=1e-2,
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    af.Trainer(recipe, display=None).fit()
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    with pytest.raises(ValueError, match="takes samples of shape"):
        model(torch.randn(2, 1, 4, 4), t, t)
    with pytest.raises(ValueError, match="has no velocity head"):
        af.MiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, u_blocks=1)(x, t * 0, t, velocity=True)
    wrong: list[tuple[dict[str, int], str]] = [
        ({"patch": 3}, "its patch 3 divides"), ({"heads": 0}, "an even width"), ({"width": 36, "heads": 4}, "even"),
        ({"depth": 4}, "of 4 blocks"), ({"velocity_head": -1}, "and v's -1"), ({"classes": -3}, "classes=-3"),
    ]  # fmt: skip
    for options, says in wrong:
        with pytest.raises(ValueError, match=says):
            af.MiT((1, 8, 8), **options)  # type: ignore[arg-type]
