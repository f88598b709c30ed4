"""The plain DiT: published sizes, initialisation, symmetries, and an independent forward pass."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alphaflow as af


@pytest.mark.parametrize(("name", "published"), [("B", 131e6), ("L", 459e6), ("XL", 676e6)])
def test_published_sizes(name: str, published: float) -> None:
    with torch.device("meta"):
        model = getattr(af.DiT, name)((4, 32, 32), patch=2, classes=1000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(published, rel=0.005)


def test_small_size_is_the_published_shape() -> None:
    with torch.device("meta"):
        model = af.DiT.S((4, 32, 32), patch=2, classes=1000)
    assert {name: model.config[name] for name in ("depth", "width", "heads")} == {"depth": 12, "width": 384, "heads": 6}


@pytest.fixture
def model() -> af.DiT:
    """Small, float64, with weights away from their zero initialisation."""
    torch.manual_seed(1)
    model = af.DiT((3, 6, 4), patch=2, depth=2, width=24, heads=3, classes=5).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(n: int, shape: tuple[int, ...] = (3, 6, 4)) -> tuple[Tensor, Tensor, Tensor, af.Cond]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(n, *shape, dtype=torch.float64, generator=generator)
    r, t = torch.rand(2, n, dtype=torch.float64, generator=generator).sort(dim=0).values
    return z, r, t, af.Cond(labels=torch.arange(n) % 5)


def test_zero_at_initialisation() -> None:
    model = af.DiT((3, 6, 4), patch=2, depth=2, width=24, heads=3, classes=5).double()
    assert torch.equal(model(*inputs(4)), torch.zeros(4, 3, 6, 4, dtype=torch.float64))
    assert all(block.modulation.weight.abs().sum() == 0 for block in model.blocks)
    assert model.embed_class is not None
    assert model.embed_class.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_initialisation_of_linears() -> None:
    torch.manual_seed(0)
    model = af.DiT.S((4, 8, 8), patch=2, classes=10)
    qkv = model.blocks[0].attention.qkv
    assert qkv.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (384 + 3 * 384)), rel=0.01)
    assert model.embed_t.hidden.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.embed_jump.out.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_only_late_blocks_see_the_length_of_the_jump() -> None:
    """The others' tokens don't change with r; at r = t it is the usual network, as one is whose blocks are all late."""
    torch.manual_seed(1)
    options = {"patch": 2, "depth": 3, "width": 24, "heads": 3, "classes": 5}
    plain = af.DiT((3, 6, 4), **options).double()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    late, whole = (af.DiT((3, 6, 4), late=count, **options).double() for count in (1, 3))
    for each in (late, whole):
        each.load_state_dict(plain.state_dict())
    z, r, t, cond = inputs(4)
    assert torch.equal(whole(z, r, t, cond), plain(z, r, t, cond))
    assert torch.equal(late(z, t, t, cond), plain(z, t, t, cond))
    assert not torch.allclose(late(z, r, t, cond), plain(z, r, t, cond))
    tokens: list[Tensor] = []
    for block in late.blocks:
        block.register_forward_hook(lambda *given: tokens.append(given[2]))
    outs = [late(z, r / divisor, t, cond) for divisor in (1, 2)]
    assert torch.equal(tokens[0], tokens[3])
    assert torch.equal(tokens[1], tokens[4])
    assert not torch.allclose(tokens[2], tokens[5])
    assert not torch.allclose(*outs)
    assert eval(repr(late), {"DiT": af.DiT}).config == late.config
    assert "late" not in repr(plain)


def test_a_scaled_network_is_multiplied_by_its_guidance() -> None:
    """By the scale that counts: ω inside its interval at r = t, and ω for jumps; without guidance by 1."""
    torch.manual_seed(1)
    options = {"patch": 2, "depth": 2, "width": 24, "heads": 3, "classes": 5}
    scaled, plain = (af.DiT((3, 6, 4), guidance=how, **options).double() for how in ("scaled", True))
    assert eval(repr(scaled), {"DiT": af.DiT}).config == scaled.config
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scaled.load_state_dict(plain.state_dict())
    z, r, t, cond = inputs(4)
    guided = cond.replace(guidance=torch.tensor([[3.0, 0.0, 0.05]], dtype=torch.float64).repeat(4, 1))
    assert torch.allclose(scaled(z, r, t, guided), 3 * plain(z, r, t, guided), rtol=1e-13)
    assert torch.allclose(scaled(z, t, t, guided), plain(z, t, t, guided), rtol=1e-13)
    assert torch.equal(scaled(z, r, t, cond), plain(z, r, t, cond))


def test_forward_equals_an_independent_one(model: af.DiT) -> None:
    """Written out with a strided convolution, explicit softmax attention, and loops over heads and patches."""
    z, r, t, cond = inputs(3)
    weights = dict(model.named_parameters())

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def time(name: str, times: Tensor) -> Tensor:
        rows = []
        for value in times.tolist():
            angles = [value * math.exp(-math.log(10_000) * i / 128) for i in range(128)]
            rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        hidden = linear(f"{name}.hidden", torch.tensor(rows, dtype=torch.float64))
        return linear(f"{name}.out", hidden * torch.sigmoid(hidden))

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def positions() -> Tensor:
        rows = []
        for row in range(3):
            for column in range(2):
                waves = [place / 10_000 ** (i / 6) for place in (column, row) for i in range(6)]
                rows.append(
                    [math.sin(w) for w in waves[:6]] + [math.cos(w) for w in waves[:6]]
                    + [math.sin(w) for w in waves[6:]] + [math.cos(w) for w in waves[6:]]
                )  # fmt: skip
        return torch.tensor(rows, dtype=torch.float64)

    kernel = weights["patches.proj.weight"].view(24, 3, 2, 2)
    tokens = F.conv2d(z, kernel, weights["patches.proj.bias"], stride=2).flatten(2).transpose(1, 2) + positions()
    labels = weights["embed_class.weight"][torch.arange(3)]
    c = time("embed_t", t) + time("embed_jump", t - r) + labels
    c = c * torch.sigmoid(c)
    for i in range(2):
        parts = linear(f"blocks.{i}.modulation", c).view(3, 6, 1, 24).unbind(1)
        h = norm(tokens) * (1 + parts[1]) + parts[0]
        q, k, v = linear(f"blocks.{i}.attention.qkv", h).view(3, 6, 3, 3, 8).unbind(2)
        heads = [
            torch.softmax(q[:, :, j] @ k[:, :, j].transpose(1, 2) / math.sqrt(8), dim=-1) @ v[:, :, j] for j in range(3)
        ]
        tokens = tokens + parts[2] * linear(f"blocks.{i}.attention.out", torch.cat(heads, dim=-1))
        h = linear(f"blocks.{i}.mlp.hidden", norm(tokens) * (1 + parts[4]) + parts[3])
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        tokens = tokens + parts[5] * linear(f"blocks.{i}.mlp.out", h)
    shift, scale = linear("final.modulation", c).view(3, 2, 1, 24).unbind(1)
    out = linear("final.out", norm(tokens) * (1 + scale) + shift)
    expected = torch.zeros_like(z)
    for patch in range(6):
        row, column = divmod(patch, 2)
        expected[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = out[:, patch].view(3, 3, 2, 2)
    found = model(z, r, t, cond)
    assert (found - expected).norm() / expected.norm() < 1e-6  # position embeddings are kept in float32
    assert expected.norm() > 1


def test_permuting_the_batch_permutes_the_output(model: af.DiT) -> None:
    z, r, t, cond = inputs(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = model(z, r, t, cond)
    assert (model(z[order], r[order], t[order], cond[order]) - straight[order]).norm() < 1e-12 * straight.norm()


def test_every_input_matters(model: af.DiT) -> None:
    z, r, t, cond = inputs(4)
    base = model(z, r, t, cond)
    changed = {
        "r": model(z, r * 0.5, t, cond),
        "t": model(z, r, (t + 1) / 2, cond),
        "label": model(z, r, t, cond.null()),
        "z": model(z + 0.1, r, t, cond),
    }
    for name, output in changed.items():
        assert (output - base).norm() / base.norm() > 1e-3, name
    assert not torch.allclose(model(z, r, t, cond), model(z, t, r, cond))  # r and t have embeddings of their own


@pytest.mark.slow
def test_r_and_t_both_matter_after_training() -> None:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=64, seed=0)
    model = af.DiT(digits.shape, patch=4, depth=2, width=48, heads=4, classes=10)
    recipe = af.Recipe(model=model, objective=af.MeanFlow(fm_share=0.5), dataset=digits, steps=60, samplers=(), lr=2e-3)
    af.Trainer(recipe).fit()
    x = digits.all().x[:32]
    times = torch.full((32,), 0.8)
    with torch.no_grad():
        base = model(x, times * 0.5, times, af.Cond())
        other_r, other_t = model(x, times * 0, times, af.Cond()), model(x, times * 0.5, times * 0.7, af.Cond())
    assert (other_r - base).norm() / base.norm() > 1e-3
    assert (other_t - base).norm() / base.norm() > 1e-3


def test_video_tokens_all_attend() -> None:
    torch.manual_seed(1)
    model = af.DiT((2, 4, 4, 4), patch=(2, 2, 2), depth=1, width=24, heads=2).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, r, t, _ = inputs(1, (2, 4, 4, 4))
    base = model(z, r, t)
    assert base.shape == z.shape
    moved = z.clone()
    moved[:, :, 0] += 1  # the first frame reaches the last one
    assert (model(moved, r, t) - base)[:, :, -1].norm() > 1e-6
    swapped = model(z.flip(2), r, t).flip(2)  # frames have places: time isn't symmetric
    assert (swapped - base).norm() / base.norm() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 5, 4)}, "doesn't divide"),
        ({"shape": (3,)}, "shape is"),
        ({"heads": 5}, "heads must divide"),
        ({"width": 30, "heads": 5}, "multiple of 4"),
        ({"patch": (1, 2, 2, 2)}, "a patch is"),
        ({"patch": (2, 0)}, "at least 1"),
    ],
)
def test_wrong_settings(options: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"shape": (3, 4, 4), "patch": 2, "width": 24, "heads": 4, "depth": 1, **options}
    with pytest.raises(ValueError, match=message):
        af.DiT(settings.pop("shape"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 6, 4), (3, 6, 5), (3, 0, 4), (3, 6), (3, 1, 6, 4)])
def test_wrong_sample_shape(model: af.DiT, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"samples of shape \(3, 6, 4\), or of other lengths"):
        model(torch.zeros(2, *shape), torch.zeros(2), torch.ones(2))


def test_printing_and_config_build_it_again(model: af.DiT) -> None:
    assert repr(model) == "DiT((3, 6, 4), patch=2, depth=2, width=24, heads=3, classes=5, mlp_ratio=4.0)"
    again = eval(repr(model), {"DiT": af.DiT})
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
