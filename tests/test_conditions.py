"""What a DiT is conditioned on: vectors, tokens, images; sequences; what is dropped, masked, missing or wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.derivatives import _forward_ad
from alphaflow.objectives.guided import guided_velocity

B = 4
SHAPES = {"image": (2, 4, 6), "video": (2, 2, 4, 4), "sequence": (3, 8)}
KINDS: dict[str, dict[str, Any]] = {
    "vector": {"vector": 5},
    "features": {"tokens": 3},
    "indices": {"vocabulary": 11},
    "image": {"image": 3},
    "all": {"classes": 4, "vector": 5, "tokens": 3, "image": 1},
}


def network(shape: tuple[int, ...], **options: Any) -> af.DiT:
    torch.manual_seed(0)
    model = af.DiT(shape, **{"patch": 2, "depth": 2, "width": 16, "heads": 2, **options}).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def condition(shape: tuple[int, ...], options: dict[str, Any], b: int = B, seed: int = 1) -> af.Cond:
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(b, *size, dtype=torch.float64, generator=generator)

    found: dict[str, Tensor] = {}
    if "classes" in options:
        found["labels"] = torch.randint(options["classes"], (b,), generator=generator)
    if "vector" in options:
        found["vector"] = noise(options["vector"])
    if "tokens" in options or "vocabulary" in options:
        found["mask"] = torch.arange(7) < torch.randint(1, 8, (b, 1), generator=generator)
        found["tokens"] = noise(7, options["tokens"]) if "tokens" in options else noise(7).abs().mul(3).long()
    if "image" in options:
        found["image"] = noise(options["image"], *shape[1:])
    return af.Cond(**found)


def inputs(shape: tuple[int, ...], b: int = B) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(b, *shape, dtype=torch.float64, generator=generator)
    r, t = torch.rand(2, b, dtype=torch.float64, generator=generator).sort(0).values
    return z, r, t


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


CASES = [(shape, options) for shape in SHAPES.values() for options in KINDS.values()]


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_tangents(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    model, cond, (z, r, t) = network(shape, **options), condition(shape, options), inputs(shape)
    along = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(3))
    value, wanted = _forward_ad(model, z, r, t, cond, af.Direction.of(along, t))
    for n in (B, 2):  # of all samples, or of the first ones
        u, dudt = model(z, r, t, cond, along=af.Direction.of(along[:n], t))
        assert distance(u, value) < 1e-12
        assert distance(dudt, wanted[:n]) < 1e-12
    model.recompute = True
    again, tangent = model(z, r, t, cond, along=af.Direction.of(along, t))
    assert distance(again, value) < 1e-12
    assert distance(tangent, wanted) < 1e-12
    weights = list(model.parameters())
    kept = torch.autograd.grad(again.square().sum(), weights)
    model.recompute = False
    fresh = torch.autograd.grad(model(z, r, t, cond).square().sum(), weights)
    assert all(distance(a, b) < 1e-12 for a, b in zip(kept, fresh, strict=True))


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_each_sample_has_its_own_condition(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    model, cond, (z, r, t) = network(shape, **options), condition(shape, options), inputs(shape)
    u, order = model(z, r, t, cond), torch.tensor([2, 0, 3, 1])
    assert distance(model(z[order], r[order], t[order], cond[order]), u[order]) < 1e-13
    for name in cond.tensors:
        if name != "mask":
            swapped = cond.replace(**{name: cond.tensors[name].roll(1, 0)})
            assert distance(model(z, r, t, swapped), u) > 1e-4, name
    one = slice(1, 2)
    assert distance(model(z[one], r[one], t[one], cond[one]), u[one]) < 1e-13


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_what_is_dropped_counts_as_absent(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    model, cond, (z, r, t) = network(shape, **options), condition(shape, options), inputs(shape)
    free = model(z, r, t, af.Cond())
    assert torch.equal(model(z, r, t), free)
    assert distance(model(z, r, t, cond.null()), free) < 1e-13
    some = torch.tensor([True, False, True, False])
    half = model(z, r, t, cond.drop(some))
    assert distance(half[some], free[some]) < 1e-13
    assert distance(half[~some], model(z, r, t, cond)[~some]) < 1e-13
    assert distance(half[~some], free[~some]) > 1e-3


@pytest.mark.parametrize("options", [{"tokens": 3}, {"vocabulary": 11}])
def test_masked_tokens_change_nothing(options: dict[str, Any]) -> None:
    shape = SHAPES["image"]
    model, cond, (z, r, t) = network(shape, **options), condition(shape, options), inputs(shape)
    u = model(z, r, t, cond)
    absent = ~cond.mask if cond.tokens.ndim == 2 else ~cond.mask[..., None]
    anything: Any = -5 if cond.tokens.ndim == 2 else float("nan")
    other = af.Cond(tokens=cond.tokens.masked_fill(absent, anything), mask=cond.mask)
    assert torch.equal(model(z, r, t, other), u)
    long = torch.nn.functional.pad(cond.tokens.movedim(1, -1), (0, 3)).movedim(-1, 1)
    padded = af.Cond(tokens=long, mask=torch.nn.functional.pad(cond.mask, (0, 3)))
    assert distance(model(z, r, t, padded), u) < 1e-13
    for i in range(B):  # without a mask, all are there
        n = int(cond.mask[i].sum())
        alone = model(z[i : i + 1], r[i : i + 1], t[i : i + 1], af.Cond(tokens=cond.tokens[i : i + 1, :n]))
        assert distance(alone, u[i : i + 1]) < 1e-13


def test_an_image_is_concatenated() -> None:
    """One matrix over both samples' patches is what the two embeddings add up to."""
    shape, options = SHAPES["image"], {"image": 3}
    model, cond, (z, r, t) = network(shape, **options), condition(shape, options), inputs(shape)
    wide = network((5, 4, 6))
    own, image = model.patches.proj, model.image_patches
    assert image is not None
    with torch.no_grad():
        for name, weight in wide.named_parameters():
            if name in dict(model.named_parameters()) and not name.startswith(("patches", "final.out")):
                weight.copy_(dict(model.named_parameters())[name])
        wide.patches.proj.weight.copy_(torch.cat([own.weight, image.proj.weight], 1))
        wide.patches.proj.bias.copy_(own.bias)
        wide.final.out.weight.zero_()[:8] = model.final.out.weight
        wide.final.out.bias.zero_()[:8] = model.final.out.bias
    both = wide(torch.cat([z, cond.image], 1), r, t)
    assert distance(model(z, r, t, cond), both[:, :2]) < 1e-13


@pytest.mark.parametrize("options", KINDS.values())
def test_trained_guidance_drops_all_of_them(options: dict[str, Any]) -> None:
    shape, n = SHAPES["sequence"], 24
    model, cond, (z, _, t) = network(shape, **options), condition(shape, options, n), inputs(shape, n)
    v = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(5))
    guidance = af.Guidance(omega=0.3, kappa=0.5, label_drop=0.4)
    after, mask = guidance.drop(cond, t, t, torch.Generator().manual_seed(6))
    assert 0 < mask.sum() < n
    found = guided_velocity(guidance, model, z, t, after, v, mask).v
    for i in range(n):
        one = slice(i, i + 1)
        free = model(z[one], t[one], t[one])
        own = free if mask[i] else model(z[one], t[one], t[one], cond[one])
        assert distance(found[one], 0.3 * v[one] + 0.5 * own + 0.2 * free) < 1e-12


@pytest.mark.parametrize("options", KINDS.values())
def test_guidance_while_sampling(options: dict[str, Any]) -> None:
    shape = SHAPES["image"]
    model, cond, (z, _, _) = network(shape, **options), condition(shape, options), inputs(shape)
    found = af.ODE(1, cfg=af.CFG(3.0))(model, z, cond)
    zero, one = torch.zeros(B, dtype=z.dtype), torch.ones(B, dtype=z.dtype)
    own, free = model(z, zero, one, cond), model(z, zero, one)
    assert distance(found, z - free - 3 * (own - free)) < 1e-12


@pytest.mark.parametrize(
    "objective", [af.MeanFlow(), af.AlphaFlow(guidance=af.GuidanceInputs()), af.ImprovedMeanFlow()]
)
def test_objectives_train_with_conditions(objective: Any) -> None:
    shape, options = SHAPES["image"], {**KINDS["all"], "guidance": objective.guidance is not None}
    model, cond = network(shape, **options), condition(shape, options)
    x = inputs(shape)[0]
    losses = [objective(model, x, cond, 0, torch.Generator().manual_seed(0)).total for _ in range(2)]
    assert torch.equal(*losses)
    gradients = torch.autograd.grad(losses[0], list(model.parameters()))
    assert all(gradient.isfinite().all() and gradient.norm() > 0 for gradient in gradients)


def test_sequences() -> None:
    model, (z, r, t) = network((3, 8), patch=2), inputs((3, 8))
    video = network((3, 8, 1, 1), patch=(2, 1, 1))
    assert torch.equal(video(z[..., None, None], r, t)[..., 0, 0], model(z, r, t))
    assert model(inputs((3, 12))[0], r, t).shape == (B, 3, 12)  # of another length
    assert repr(network((3, 8), patch=2, vector=5)).endswith("vector=5, mlp_ratio=4.0)")
    with pytest.raises(ValueError, match="doesn't divide"):
        network((3, 8), patch=3)
    with pytest.raises(ValueError, match="samples of shape"):
        model(inputs((3, 8, 1))[0], r, t)


def test_new_conditions_leave_a_network_as_it_was() -> None:
    """At initialisation tokens and images change nothing, and weights of a network without them start one with."""
    torch.manual_seed(0)
    plain = af.DiT((2, 4, 6), patch=2, depth=2, width=16, heads=2, classes=3)
    torch.manual_seed(0)
    again = af.DiT((2, 4, 6), patch=2, depth=2, width=16, heads=2, classes=3)
    assert all(map(torch.equal, plain.parameters(), again.parameters()))
    torch.nn.init.normal_(plain.final.out.weight)
    more = af.DiT((2, 4, 6), patch=2, depth=2, width=16, heads=2, classes=3, tokens=3)
    more.load_state_dict(plain.state_dict(), strict=False)
    (z, r, t), cond = inputs((2, 4, 6)), condition((2, 4, 6), {"classes": 3, "tokens": 3})
    z, r, t, cond = z.float(), r.float(), t.float(), cond.replace(tokens=cond.tokens.float())
    assert torch.equal(more(z, r, t, cond), plain(z, r, t, cond.without("tokens")))


@pytest.mark.parametrize(
    ("options", "wrong", "message"),
    [
        ({"vector": 5}, {"vector": torch.zeros(B, 4)}, r"takes cond.vector \(b, 5\), got \(4, 4\)"),
        ({"vector": 5}, {"vector": torch.zeros(B, 5), "pose": torch.zeros(B)}, "takes vector, not 'pose'"),
        ({"tokens": 3}, {"tokens": torch.zeros(B, 7, 2)}, r"cond.tokens \(b, n, 3\), got \(4, 7, 2\)"),
        ({"vocabulary": 9}, {"tokens": torch.zeros(B, 7, 2)}, "indices below 9"),
        ({"vocabulary": 9}, {"tokens": torch.full((B, 7), 9)}, "token 9 of sample 0, at place 0, is out of range"),
        ({"image": 1}, {"image": torch.zeros(B, 1, 4, 4)}, r"size \(4, 6\), got \(4, 1, 4, 4\)"),
        ({"image": 1}, {"image": torch.zeros(B, 2, 4, 6)}, "takes cond.image"),
        ({}, {"vector": torch.zeros(B, 4)}, "no condition, not"),
    ],
)
def test_wrong_conditions(options: dict[str, Any], wrong: dict[str, Tensor], message: str) -> None:
    model, (z, r, t) = network((2, 4, 6), **options), inputs((2, 4, 6))
    with pytest.raises(ValueError, match=message):
        model(z, r, t, af.Cond(**wrong))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"tokens": torch.zeros(B, 7, 2), "mask": torch.ones(B, 6, dtype=torch.bool)}, "is boolean"),
        ({"tokens": torch.zeros(B, 7, 2), "mask": torch.ones(B, 7)}, "is boolean"),
        ({"mask": torch.ones(B, 7, dtype=torch.bool)}, "got none"),
        ({"tokens": torch.zeros(B)}, "tokens are features"),
        ({"vector": torch.zeros(B, 3), "image": torch.zeros(3, 1, 4, 4)}, "same batch size"),
    ],
)
def test_wrong_cond(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        af.Cond(**tensors)


@pytest.mark.parametrize("options", [{"vector": 0}, {"image": -1}, {"tokens": 3, "vocabulary": 4}])
def test_wrong_sizes(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not both"):
        network((2, 4, 6), **options)
