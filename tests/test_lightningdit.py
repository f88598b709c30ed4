"""LightningDiT's parts in `DiT`, and its checkpoints, against a forward pass written out from what was published."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alphaflow as af
from alphaflow.weights.layouts import LAYOUTS

WIDTH, DEPTH, HEADS, CHANNELS, PATCH, SIDE = 48, 2, 4, 4, 2, 4
PARTS = ("rms", "swiglu", "rope", "qk_norm", "without_shift")
State = dict[str, Tensor]


def published(*parts: str) -> State:
    """Random weights with the names and shapes that a network with these parts has, float64."""
    generator, found = torch.Generator().manual_seed(0), State()

    def draw(name: str, *shape: int, centre: float = 0.0) -> None:
        scale = 0.3 / math.sqrt(math.prod(shape[1:]) / 8)
        found[name] = centre + scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    def layer(name: str, *shape: int) -> None:
        draw(f"{name}.weight", *shape)
        draw(f"{name}.bias", shape[0])

    layer("x_embedder.proj", WIDTH, CHANNELS, PATCH, PATCH)
    layer("t_embedder.mlp.0", WIDTH, 256)
    layer("t_embedder.mlp.2", WIDTH, WIDTH)
    draw("y_embedder.embedding_table.weight", 11, WIDTH)
    inner = int(2 / 3 * 4 * WIDTH)
    mlp = {"w12": (2 * inner, WIDTH), "w3": (WIDTH, inner)} if "swiglu" in parts else {}
    mlp = mlp or {"fc1": (4 * WIDTH, WIDTH), "fc2": (WIDTH, 4 * WIDTH)}
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        layer(f"{block}.attn.proj", WIDTH, WIDTH)
        layer(f"{block}.adaLN_modulation.1", (4 if "without_shift" in parts else 6) * WIDTH, WIDTH)
        for name, shape in mlp.items():
            layer(f"{block}.mlp.{name}", *shape)
        for name in ("norm1", "norm2") if "rms" in parts else ():
            draw(f"{block}.{name}.weight", WIDTH, centre=1)
        for name in ("q_norm", "k_norm") if "qk_norm" in parts else ():
            draw(f"{block}.attn.{name}.weight", WIDTH // HEADS, centre=1)
            if "rms" not in parts:
                draw(f"{block}.attn.{name}.bias", WIDTH // HEADS)
    layer("final_layer.linear", PATCH * PATCH * CHANNELS, WIDTH)
    layer("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    if "rms" in parts:
        draw("final_layer.norm_final.weight", WIDTH, centre=1)
    if "rope" in parts:
        found["feat_rope.freqs_cos"] = found["feat_rope.freqs_sin"] = torch.zeros(SIDE * SIDE, WIDTH // HEADS)
    index, rates = torch.arange(SIDE), 10_000 ** (-torch.arange(WIDTH // 4, dtype=torch.float64) / (WIDTH / 4))
    column, row = (place[:, None] * rates for place in (index.repeat(SIDE), index.repeat_interleave(SIDE)))
    found["pos_embed"] = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], 1)[None].float()
    return found


def forward(weights: State, z: Tensor, t: Tensor, labels: Tensor, *parts: str) -> Tensor:
    """The published network's forward pass, of t from noise to data."""
    size, b = WIDTH // HEADS, len(z)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def rms(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def normed(name: str, x: Tensor) -> Tensor:
        return rms(name, x) if "rms" in parts else F.layer_norm(x, (WIDTH,), eps=1e-6)

    def head(name: str, x: Tensor) -> Tensor:
        if "qk_norm" in parts:
            bias = weights.get(f"{name}.bias")
            x = rms(name, x) if "rms" in parts else F.layer_norm(x, (size,), weights[f"{name}.weight"], bias, 1e-5)
        if "rope" not in parts:
            return x
        rates = 10_000 ** -(torch.arange(0, size // 2, 2, dtype=torch.float64) / (size // 2))
        line = (torch.arange(SIDE)[:, None] * rates).repeat_interleave(2, 1)
        angles = torch.cat([line.repeat_interleave(SIDE, 0), line.repeat(SIDE, 1)], 1)
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * angles.cos().float() + turned * angles.sin().float()  # the tables are kept in float32

    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    c = F.silu(time + weights["y_embedder.embedding_table.weight"][labels])
    x = F.conv2d(z, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=PATCH).flatten(2).mT
    x = x + weights["pos_embed"]
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        part = list(linear(f"{block}.adaLN_modulation.1", c)[:, None].split(WIDTH, -1))
        if "without_shift" in parts:
            part = [torch.zeros_like(part[0]), *part[:2], torch.zeros_like(part[0]), *part[2:]]
        still = normed(f"{block}.norm1", x) * (1 + part[1]) + part[0]
        q, k, v = linear(f"{block}.attn.qkv", still).reshape(b, -1, 3, HEADS, size).permute(2, 0, 3, 1, 4)
        q, k = head(f"{block}.attn.q_norm", q), head(f"{block}.attn.k_norm", k)
        mixed = ((q @ k.mT / math.sqrt(size)).softmax(-1) @ v).transpose(1, 2).reshape(b, -1, WIDTH)
        x = x + part[2] * linear(f"{block}.attn.proj", mixed)
        still = normed(f"{block}.norm2", x) * (1 + part[4]) + part[3]
        if "swiglu" in parts:
            gate, value = linear(f"{block}.mlp.w12", still).chunk(2, -1)
            x = x + part[5] * linear(f"{block}.mlp.w3", F.silu(gate) * value)
        else:
            x = x + part[5] * linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", still), approximate="tanh"))
    shift, scale = linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, -1)
    x = linear("final_layer.linear", normed("final_layer.norm_final", x) * (1 + scale) + shift)
    x = x.reshape(b, SIDE, SIDE, PATCH, PATCH, CHANNELS)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(b, CHANNELS, SIDE * PATCH, SIDE * PATCH)


@pytest.mark.parametrize("count", range(len(PARTS) + 1))
def test_every_combination(count: int) -> None:
    for parts in itertools.combinations(PARTS, count):
        described, weights = LAYOUTS["lightningdit"].network(published(*parts), heads=HEADS)
        model = af.DiT(**described.config).double()
        model.load_state_dict(weights)
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(3, CHANNELS, SIDE * PATCH, SIDE * PATCH, generator=generator, dtype=torch.float64)
        r, t = torch.rand(2, 3, generator=generator, dtype=torch.float64).sort(dim=0).values
        wanted = -forward(published(*parts), z, 1 - t, torch.tensor([0, 3, 10]), *parts)
        found = model(z, r, t, af.Cond(labels=torch.tensor([0, 3, -1])))
        assert (found - wanted).norm() / wanted.norm() < 1e-12, parts


def test_heads_come_of_the_norms_and_wrong_ones_are_refused() -> None:
    described, _ = LAYOUTS["lightningdit"].network(published("qk_norm"))
    assert described.config["heads"] == HEADS
    with pytest.raises(ValueError, match="width that is a multiple of 4"):
        af.DiT((4, 8, 8), width=48, heads=8, depth=1, rope=True)


def test_other_sizes_see_the_same_picture() -> None:
    """Rotations are those of the trained grid where a patch's centre lies there."""
    torch.manual_seed(0)
    model = af.DiT((1, 8, 8), patch=2, width=16, heads=2, depth=1, rope=True)
    small, large = model._turns_of((1, 4, 4)), model._turns_of((1, 12, 12))
    assert small is not None
    assert large is not None
    assert torch.equal(small, model.turns)
    centres = large.view(2, 12, 12, -1)[:, 1::3, 1::3].flatten(1, 2)
    assert torch.allclose(centres, small, atol=1e-6)
    z, t = torch.randn(2, 1, 24, 24), torch.ones(2)
    assert model(z, t, t).shape == z.shape
