"""The video DiT: positions, factorised attention, other lengths and sizes, tangents, starting from an image network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import alphaflow as af
from alphaflow.models.embeddings import position_embedding

VIDEO = (2, 4, 4, 6)


def network(shape: tuple[int, ...] = VIDEO, seed: int = 1, **options: Any) -> af.DiT:
    """Small, float64, with weights away from their zero initialisation."""
    torch.manual_seed(seed)
    model = af.DiT(shape, **{"patch": 2, "depth": 2, "width": 24, "heads": 3, "classes": 5, **options}).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(n: int, shape: tuple[int, ...] = VIDEO) -> tuple[Tensor, Tensor, Tensor, af.Cond]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(n, *shape, dtype=torch.float64, generator=generator)
    r, t = torch.rand(2, n, dtype=torch.float64, generator=generator).sort(dim=0).values
    return z, r, t, af.Cond(labels=torch.arange(n) % 5)


def waves(places: list[float], width: int) -> np.ndarray[Any, Any]:
    """Sines then cosines of places, frequencies 10,000^(−i ÷ (width/2)), by a loop."""
    rows = []
    for place in places:
        angles = [place / 10_000 ** (i / (width // 2)) for i in range(width // 2)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return np.array(rows)


def embedding(frames: list[float], rows: list[float], columns: list[float], width: int) -> np.ndarray[Any, Any]:
    """METHODS: the 2-D embedding, columns before rows, plus the 1-D one of the frame."""
    out = []
    for frame in waves(frames, width):
        for row in waves(rows, width // 2):
            for column in waves(columns, width // 2):
                out.append(np.concatenate([column, row]) + frame)
    return np.array(out)


def test_positions_are_the_methods_formula() -> None:
    expected = embedding([0, 1, 2], [0, 1], [0, 1, 2, 3], 24)
    found = position_embedding((3, 2, 4), 24).numpy()
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("grid", "frames", "rows", "columns"),
    [
        ((3, 2, 4), [0, 1, 2], [0, 1], [0, 1, 2, 3]),
        ((5, 2, 4), [0, 0.5, 1, 1.5, 2], [0, 1], [0, 1, 2, 3]),  # longer: the same time, in finer steps
        ((2, 2, 4), [0, 1], [0, 1], [0, 1, 2, 3]),  # shorter: the first frames
        ((1, 2, 4), [0], [0, 1], [0, 1, 2, 3]),
        ((3, 4, 2), [0, 1, 2], [-0.25, 0.25, 0.75, 1.25], [0.5, 2.5]),  # patches' centres over the same picture
    ],
)
def test_positions_of_other_grids_are_interpolated(
    grid: tuple[int, int, int], frames: list[float], rows: list[float], columns: list[float]
) -> None:
    found = position_embedding(grid, 24, (3, 2, 4)).numpy()
    assert np.abs(found - embedding(frames, rows, columns, 24)).max() < 1e-6


@pytest.mark.parametrize("factorised", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 4, 6), (2, 2, 4, 6), (2, 4, 8, 4), (2, 6, 2, 2)])
def test_other_lengths_and_sizes(shape: tuple[int, ...], factorised: bool) -> None:
    """As a network that was made for them, with the interpolated positions in place of its own."""
    trained = network(patch=(2, 2, 2), factorised=factorised)
    made = network(shape, seed=3, patch=(2, 2, 2), factorised=factorised)
    made.load_state_dict(trained.state_dict())
    made.positions = position_embedding(made.grid, 24, trained.grid).double()
    found = trained(*inputs(3, shape))
    assert found.shape == (3, *shape)
    assert torch.allclose(found, made(*inputs(3, shape)), atol=1e-12)


@pytest.mark.parametrize("factorised", [False, True])
def test_an_image_is_one_frame(factorised: bool) -> None:
    """A network of clips on images: as on clips of one frame, and as the image network of the same weights."""
    model = network(factorised=factorised)
    z, r, t, cond = inputs(3, (2, 4, 6))
    found = model(z, r, t, cond)
    assert torch.equal(found, model(z[:, :, None], r, t, cond)[:, :, 0])
    of_images = network((2, 4, 6), seed=3)
    of_images.load_state_dict({k: v for k, v in model.state_dict().items() if "time_" not in k})
    of_images.positions = of_images.positions + torch.from_numpy(waves([0], 24))
    assert torch.allclose(found, of_images(z, r, t, cond), atol=1e-6)


def test_factorised_attention_by_loops() -> None:
    """A block written out: attention frame by frame, then place by place, each token's heads one after another."""
    model = network(factorised=True, depth=1)
    block = model.blocks[0]
    frames, places, width, heads = 4, 6, 24, 3
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, frames * places, width, dtype=torch.float64, generator=generator)
    c = torch.randn(2, width, dtype=torch.float64, generator=generator)

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attended(layer: Any, group: Tensor) -> Tensor:
        q, k, v = (group @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=-1)
        d, out = width // heads, []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            out.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(d), -1) @ v[:, part])
        return torch.cat(out, -1) @ layer.out.weight.T + layer.out.bias

    expected = tokens.clone()
    for b in range(2):
        m = (c[b] @ block.modulation.weight.T + block.modulation.bias).view(6, width)
        mt = (c[b] @ block.time_modulation.weight.T + block.time_modulation.bias).view(3, width)
        x = tokens[b].view(frames, places, width)
        h = norm(x) * (1 + m[1]) + m[0]
        x = x + m[2] * torch.stack([attended(block.attention, h[f]) for f in range(frames)])
        h = norm(x) * (1 + mt[1]) + mt[0]
        x = x + mt[2] * torch.stack([attended(block.time_attention, h[:, n]) for n in range(places)], dim=1)
        h = (norm(x) * (1 + m[4]) + m[3]) @ block.mlp.hidden.weight.T + block.mlp.hidden.bias
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        expected[b] = (x + m[5] * (h @ block.mlp.out.weight.T + block.mlp.out.bias)).flatten(0, 1)
    found = block(tokens, c, frames)
    assert (found - expected).norm() / expected.norm() < 1e-12


def test_factorised_attention_begins_without_the_other_frames() -> None:
    """At initialisation the attention across frames adds nothing; once trained, frames see each other."""
    torch.manual_seed(0)
    fresh = af.DiT(VIDEO, patch=2, depth=1, width=24, heads=3, factorised=True).double()
    assert all(block.time_modulation.weight.abs().sum() == 0 for block in fresh.blocks)
    model = network(factorised=True)
    z, r, t, cond = inputs(1)
    moved = z.clone()
    moved[:, :, 0] += 1
    assert (model(moved, r, t, cond) - model(z, r, t, cond))[:, :, -1].norm() > 1e-6


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("options", [{}, {"factorised": True}, {"factorised": True, "velocity_head": 1}])
@pytest.mark.parametrize("shape", [VIDEO, (2, 6, 4, 4), (2, 4, 6)])
def test_tangents(shape: tuple[int, ...], options: dict[str, Any], recompute: bool) -> None:
    """du/dt of the first samples is torch.func.jvp's; the values are those without; for clips and for images."""
    model = network(**options)
    model.recompute = recompute
    z, r, t, cond = inputs(3, shape)
    along = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    u, tangent = model(z, r, t, cond, along=af.Direction.of(along, t))
    first = cond[slice(0, 2)]
    model.recompute = False  # a checkpoint has no forward derivative
    with sdpa_kernel(SDPBackend.MATH):
        expected: Any = torch.func.jvp(
            lambda z, t: model(z, r[:2], t, first), (z[:2], t[:2]), (along, torch.ones_like(t[:2]))
        )
    model.recompute = recompute
    assert torch.allclose(u, model(z, r, t, cond), atol=1e-12)
    assert (tangent - expected[1]).norm() / expected[1].norm() < 1e-9
    (gradient,) = torch.autograd.grad(u.square().sum(), model.blocks[0].attention.qkv.weight)
    (plain,) = torch.autograd.grad(model(z, r, t, cond).square().sum(), model.blocks[0].attention.qkv.weight)
    assert torch.allclose(gradient, plain)


@pytest.mark.parametrize(("frames", "rounding"), [(2, 1e-12), (6, 1e-6)])
def test_a_still_patch_starts_as_its_image(frames: int, rounding: float) -> None:
    """Patches of two frames from an image network's: where nothing moves in one u is the image's, in both frames.

    Positions are kept in float32, where adding a moment's embedding rounds; with one patch in time there is none.
    """
    of_images = network((2, 4, 6), velocity_head=1, image=3)
    of_clips = network((2, frames, 4, 6), seed=5, patch=(2, 2, 2), velocity_head=1, image=3)
    of_clips.load_state_dict(of_clips.adapt(of_images.state_dict(), of_images=True))
    z, r, t, cond = inputs(3, (2, 4, 6))
    image = inputs(3, (3, 4, 6))[0]

    def twice(x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, 2, -1, -1)

    expected = of_images(z, r, t, cond.replace(image=image), velocity=True)
    found = of_clips(twice(z), r, t, cond.replace(image=twice(image)), velocity=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours[:, :, 0], theirs, atol=rounding)
        assert torch.allclose(ours[:, :, 1], theirs, atol=rounding)


@pytest.mark.parametrize("factorised", [False, True])
def test_an_image_starts_as_it_was(factorised: bool) -> None:
    """A network of clips, from an image network's weights, makes the same of an image as that one."""
    of_images, of_clips = network((2, 4, 6)), network(seed=5, factorised=factorised)
    adapted = of_clips.adapt(of_images.state_dict(), of_images=True)
    of_clips.load_state_dict(adapted, strict=False)
    images = inputs(3, (2, 4, 6))
    assert torch.allclose(of_clips(*images), of_images(*images), atol=1e-6)
    of_clips.load_state_dict(of_clips.adapt(of_clips.state_dict()))  # of clips: as they are
    assert torch.allclose(of_clips(*images), of_images(*images), atol=1e-6)


def test_one_patch_in_time_tells_no_others_apart() -> None:
    with pytest.raises(ValueError, match="knows one patch in time only, of 2 frames, got 4"):
        network((2, 2, 4, 6), patch=(2, 2, 2))(*inputs(3, (2, 4, 4, 6)))


def test_other_classes_keep_no_class_only() -> None:
    there, here = network(classes=5), network(seed=7, classes=3)
    adapted = here.adapt(there.state_dict())["embed_class.weight"]
    assert torch.equal(adapted[:3], here.state_dict()["embed_class.weight"][:3])
    assert torch.equal(adapted[3], there.state_dict()["embed_class.weight"][5])
    same = here.adapt(network(seed=8, classes=3).state_dict())["embed_class.weight"]
    assert torch.equal(same, network(seed=8, classes=3).state_dict()["embed_class.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": (1, 2, 2)}, r"patch \(1, 2, 2\) is for videos"),
        ({"factorised": True}, "factorised attention is for videos"),
    ],
)
def test_what_is_for_videos_is_refused_for_images(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        af.DiT((2, 4, 4), width=24, heads=3, depth=1, **options)


@pytest.mark.parametrize("shape", [(3, 4, 4, 6), (2, 4, 4, 5), (2, 3, 4, 6), (2, 4, 6), (2, 4)])
def test_clips_that_do_not_fit(shape: tuple[int, ...]) -> None:
    model = network(patch=(2, 2, 2))
    with pytest.raises(ValueError, match="that its patch"):
        model(torch.zeros(1, *shape).double(), torch.zeros(1).double(), torch.ones(1).double())
