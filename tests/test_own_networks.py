"""The networks of docs/your-own-network.md: their derivative, their training, and what is said of forward mode."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af

PAGE = Path(__file__).resolve().parent.parent / "docs" / "your-own-network.md"
BLOCKS = {
    name: next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if name in block
    )
    for name in ("class MLP", "class SeriesNet", "class UNet")
}


def module(block: str, folder: Path) -> ModuleType:
    (folder / "mine.py").write_text(BLOCKS[block], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    found = sys.modules["mine"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Exact(nn.Module):
    """diffusers' features of a time, which computes them in float32, in float64."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, t: Tensor) -> Tensor:
        half = self.size // 2
        angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half)
        return torch.cat([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_derivative_is_the_difference(block: str, tmp_path: Path) -> None:
    """In float64, along the path, where r < t and where r = t."""
    torch.manual_seed(1)
    made = module(block, tmp_path).recipe()
    batch = next(iter(made.dataset))[:6]
    network = made.model.double()
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)  # no layer is zero
    if block == "class UNet":
        exact = Exact(32)
        times = torch.rand(6)
        assert (exact(times.double()) - network.unet.time_proj(times)).abs().max() < 1e-6
        network.unet.time_proj = exact
    cond = af.Cond(**{name: t.double() if t.is_floating_point() else t for name, t in batch.cond.tensors.items()})
    z, v = torch.randn(2, *batch.x.shape, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    r, h = t * torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0, 1.0]), 1e-5
    u, dudt = af.total_derivative(network, z, r, t, cond, v)
    with torch.no_grad():
        torch.testing.assert_close(u, network(z, r, t, cond), rtol=1e-12, atol=1e-12)
        ahead, behind = (network(z + s * v, r, t + s, cond) for s in (h, -h))
    assert dudt.abs().max() > 0.1
    assert (dudt - (ahead - behind) / (2 * h)).abs().max() < 1e-6
    with torch.no_grad():  # both times matter, and the condition does
        assert (network(z, r * 0.5, t, cond) - u)[1:].abs().flatten(1).amax(1).min() > 1e-4
        assert not cond.tensors or (network(z, r, t, cond.null()) - u).abs().flatten(1).amax(1).min() > 1e-4


@pytest.mark.parametrize("block", BLOCKS)
def test_it_trains_and_names_what_it_takes(block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = module(block, tmp_path).recipe(steps=3, batch_size=8)
    before = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    af.Trainer(made, device="cpu").fit()
    assert all(weight.isfinite().all() for weight in made.model.state_dict().values())
    assert any(not torch.equal(weight, before[name]) for name, weight in made.model.state_dict().items())
    strange = af.Arrays(torch.randn(8, *made.dataset.shape), pose=torch.zeros(8, 1), batch_size=8)
    other = module(block, tmp_path).recipe(steps=3, batch_size=8)
    object.__setattr__(other, "dataset", strange)
    with pytest.raises(af.UserError, match=r"the condition `pose`, which .* doesn't take"):
        af.Trainer(other, device="cpu").fit()


def test_the_mlp_learns_the_ring(tmp_path: Path) -> None:
    """One evaluation brings noise more than half of the way to it."""
    torch.manual_seed(0)
    made = module("class MLP", tmp_path)
    recipe = made.recipe(steps=300)
    trainer = af.Trainer(recipe, device="cpu")
    trainer.fit()
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        samples = af.ODE(1)(trainer.ema.model, noise, af.Cond(), torch.Generator())
    real = made.ring(2000)
    assert af.metrics.sliced_wasserstein(samples, real) < af.metrics.sliced_wasserstein(noise, real) / 2


class Doubled(torch.autograd.Function):
    """Without a forward-mode rule, as most custom functions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * grad


class Ruled(torch.autograd.Function):
    """The same with one."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * tangent


def derivative(inner: Any) -> Tensor:
    z, t = torch.linspace(-1, 1, 24).view(4, 6), torch.full((4,), 0.5)
    return af.total_derivative(lambda z, r, t, cond: inner(z) * t[:, None], z, t, t, af.Cond(), torch.ones_like(z))[1]


def test_what_the_page_says_of_forward_mode() -> None:
    expected = derivative(lambda x: 2 * x)
    assert torch.equal(derivative(Ruled.apply), expected)
    for inner, words in [
        (Doubled.apply, "can't be differentiated forward"),
        (nn.BatchNorm1d(6), "in-place"),
        (lambda x: nn.LSTM(6, 6)(x)[0], "can't be differentiated forward"),
    ]:
        with pytest.raises((RuntimeError, af.UserError), match=words):
            derivative(inner)
    assert derivative(nn.BatchNorm1d(6).eval()).shape == (4, 6)
    assert not torch.equal(derivative(lambda x: x.detach()), derivative(lambda x: x))
