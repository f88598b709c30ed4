"""Networks in half precision: samples and times stay in float32, and only the network's own arithmetic is rounded."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow.network import Upcast

HALVES = (torch.bfloat16, torch.float16)
X = np.random.default_rng(0).standard_normal((12, 2, 4, 4), np.float32)
LABELS, VECTOR = np.arange(12) % 3, np.random.default_rng(1).standard_normal((12, 5), np.float32)
TOKENS, MASK = np.random.default_rng(2).standard_normal((12, 6, 3), np.float32), np.tril(np.ones((12, 6))) > 0
DROPPED = af.MeanFlow(guidance=af.Guidance(label_drop=0.1))


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.double() - b.double()).norm() / b.double().norm())


class Watched(nn.Module):
    """The closed form for data N(0, 1/4·I), answered in this precision; it keeps what it was called with."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one, self.calls = nn.Parameter(torch.ones((), dtype=dtype), requires_grad=False), []

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond | None = None) -> Tensor:
        self.calls.append((z, r, t))
        spread = [((1 - s) ** 2 / 4 + s**2).sqrt() for s in (r.double(), t.double())]
        mean = (1 - spread[0] / spread[1]) / (t - r).double().clamp(min=1e-12)
        instant = (t.double() - (1 - t.double()) / 4) / spread[1] ** 2
        factor = torch.where(r == t, instant, mean).to(z.dtype)
        return self.one * factor[:, None] * z


def noise(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("steps", "solver"), [(1, "jump"), (250, "jump"), (250, "euler"), (125, "heun")])
def test_many_steps_are_as_good_as_one(dtype: torch.dtype, steps: int, solver: Any) -> None:
    """Against the exact flow, which ends at z/2; a loop that keeps z in bfloat16 is wrong by more than a tenth."""
    z, model = noise(), Watched(dtype)
    found = af.ODE(steps, solver=solver)(model, z)
    assert found.dtype == torch.float32
    exact = af.ODE(steps, solver=solver)(Watched(torch.float32), z)
    assert far(found, exact) < 0.01
    assert far(exact, z / 2) < 0.01
    assert {(z.dtype, r.dtype, t.dtype) for z, r, t in model.calls} == {(dtype, torch.float32, torch.float32)}
    if steps == 250 and dtype == torch.bfloat16 and solver == "jump":
        assert far(naive(model, z, steps, dtype), exact) > 0.1


def naive(model: nn.Module, z: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    z = z.to(dtype)
    grid = torch.linspace(1, 0, steps + 1)
    for t, r in itertools.pairwise(grid):
        z = z - ((t - r) * model(z, r.expand(len(z)), t.expand(len(z)))).to(dtype)
    return z


@pytest.mark.parametrize("sampler", [af.ODE(7), af.ODE(3, solver="heun"), af.Consistency(5)], ids=str)
def test_times_reach_the_network_exactly(sampler: Any) -> None:
    """As float32 of the grid's numbers, whatever the noise and the network are."""
    model = Watched(torch.bfloat16)
    found = sampler(model, noise(torch.bfloat16), None, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32
    seen = {float(time) for _, r, t in model.calls for times in (r, t) for time in times}
    assert seen <= {float(torch.tensor(time)) for time in sampler.grid}
    assert {times.dtype for _, r, t in model.calls for times in (r, t)} == {torch.float32}


def test_noise_in_half_precision_is_not_changed() -> None:
    z = noise(torch.bfloat16)
    before = z.clone()
    found = af.ODE(50)(Watched(torch.bfloat16), z)
    assert torch.equal(z, before)
    assert torch.equal(found, af.ODE(50)(Watched(torch.bfloat16), z.float()))


@pytest.mark.parametrize("sampler", [af.ODE(4), af.ODE(2, solver="heun"), af.Consistency(3)], ids=str)
def test_float64_stays_float64(sampler: Any) -> None:
    exact = sampler(Watched(torch.float64), noise().double(), None, torch.Generator().manual_seed(0))
    assert exact.dtype == torch.float64
    half = sampler(Watched(torch.bfloat16), noise().double(), None, torch.Generator().manual_seed(0))
    assert half.dtype == torch.float64
    assert far(half, exact) < 0.02


def test_guided() -> None:
    """Both evaluations are in half precision, and their difference isn't."""
    torch.manual_seed(0)
    model = af.DiT((2, 4, 4), patch=2, depth=1, width=16, heads=2, classes=3)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    cond, z = af.Cond(labels=torch.arange(6) % 3), noise().reshape(-1, 2, 4, 4)[:6]
    for sampler in (af.ODE(8, cfg=af.CFG(3.0)), af.ODE(8, solver="euler", cfg=af.CFG(3.0, (0.3, 0.8)))):
        exact = sampler(model, z, cond)
        assert far(exact, af.ODE(8, solver=sampler.solver)(model, z, cond)) > 0.01
        for dtype in HALVES:
            found = sampler(copy.deepcopy(model).to(dtype), z, cond)
            assert found.dtype == torch.float32
            assert far(found, exact) < 0.03


def test_other_networks_are_called_as_before() -> None:
    """To the bit: networks in float32, and functions. One in half precision learns by an objective, too."""
    model = af.DiT((2, 4, 4), patch=2, depth=1, width=16, heads=2, classes=3)
    z, t, cond = noise().reshape(-1, 2, 4, 4)[:6], torch.rand(6), af.Cond(labels=torch.arange(6) % 3)
    assert torch.equal(Upcast(model)(z, t / 2, t, cond), model(z, t / 2, t, cond))
    assert torch.equal(Upcast(lambda z, *_: z)(z, t, t), z)
    for objective in (af.FlowMatching(), af.Shortcut(fm_share=0.25), af.AlphaFlow(alpha=0.4)):
        seen: list[Tensor] = []

        def direct(z: Tensor, *given: Any, seen: list[Tensor] = seen, **options: Any) -> Tensor:
            seen.append(z)
            return model(z, *given, **options)

        found = objective(model, z, cond, 0, torch.Generator().manual_seed(2))
        assert torch.equal(found.total, objective(direct, z, cond, 0, torch.Generator().manual_seed(2)).total)
        assert {each.dtype for each in seen} == {torch.float32}
    half = copy.deepcopy(model).bfloat16()
    loss = af.FlowMatching()(half, z, cond, 0, torch.Generator().manual_seed(2))
    exact = af.FlowMatching()(model, z, cond, 0, torch.Generator().manual_seed(2))
    assert loss.per_sample.dtype == torch.float32
    assert far(loss.per_sample.detach(), exact.per_sample.detach()) < 0.02
    loss.total.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in half.final.parameters())


# Runs

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], Any, af.CFG | None]] = {
    "classes": ({"classes": 3}, {"labels": LABELS}, None, None),
    "guided": ({"classes": 3}, {"labels": LABELS}, DROPPED, af.CFG(2.0)),
    "guidance as input": ({"classes": 3, "guidance": True}, {"labels": LABELS},
                          af.MeanFlow(guidance=af.GuidanceInputs()), af.CFG(3.0, (0.2, 0.9))),
    "vector": ({"vector": 5}, {"vector": VECTOR}, None, None),
    "tokens": ({"tokens": 3}, {"tokens": TOKENS, "mask": MASK}, None, None),
    "image": ({"image": 2}, {"image": X}, None, None),
}  # fmt: skip


def trained(place: Path, name: str) -> Path:
    """A run of random weights."""
    options, data, objective, _ = KINDS[name]
    torch.manual_seed(3)
    model = af.DiT((2, 4, 4), patch=2, depth=1, width=16, heads=2, **options)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    recipe = af.Recipe(model=model, objective=objective or af.MeanFlow(), dataset=af.Arrays(X, **data), lr=0.0, steps=1,
                       samplers=(af.ODE(1), af.Consistency(3)))  # fmt: skip
    af.Trainer(recipe, out=place, device="cpu", sample_every=None).fit()
    return place


@pytest.mark.parametrize("types", [HALVES, (torch.float64,)], ids=["half", "double"])
@pytest.mark.parametrize("name", KINDS)
def test_runs(name: str, types: tuple[torch.dtype, ...], tmp_path: Path) -> None:
    place, (_, data, _, guidance) = trained(tmp_path / "run", name), KINDS[name]
    cond = af.Cond(**{key: torch.from_numpy(value) for key, value in data.items()})
    exact = af.Run(place, device="cpu")
    for dtype in types:
        run = af.Run(place, device="cpu", dtype=dtype)
        assert {weight.dtype for weight in run.model.parameters()} == {dtype}
        for nfe in (2,) if guidance is not None and not run.takes_guidance else (1, 3, 20):
            given = {"nfe": nfe, "cond": cond, "guidance": guidance, "seed": nfe}
            samples, expected = run.sample(**given), exact.sample(**given)
            assert samples.dtype == expected.dtype == torch.float32
            assert far(samples, expected) < (1e-5 if dtype == torch.float64 else 0.02), (dtype, nfe)
            assert not torch.equal(samples, expected)


def test_other_sizes_and_wrong_types(small_run: Path) -> None:
    for dtype in HALVES:
        run, exact = af.Run(small_run, device="cpu", dtype=dtype), af.Run(small_run, device="cpu")
        for opened in (run, exact):
            opened.resize(size=16)
        found = run.sample(3, 2, dtype=torch.float32)
        assert found.shape == (3, 1, 16, 16)
        assert far(found, exact.sample(3, 2, dtype=torch.float32)) < 0.02
    for wrong in (torch.int8, torch.bool, torch.complex64, "bf16", "bfloat16", torch.float8_e4m3fn):
        with pytest.raises(af.UserError, match="dtype="):
            af.Run(small_run, device="cpu", dtype=wrong)


def test_the_command_line(small_run: Path, tmp_path: Path, here: Any) -> None:
    """Its own folder, and nearly the same pictures; a precision of another name is one line."""
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    for options in ([], ["--precision", "bf16"], ["--precision", "fp16"], ["--precision", "bf16", "--nfe", "4"]):
        done = here("sample", run, "--count", "10", "--format", "npz", *options)
        assert done.status == 0, done.err
    names = [file.parent.name for file in (run / "samples").rglob("*.npz")]
    assert len(set(names)) == 4
    assert sum("bf16" in name for name in names) == 2
    assert sum("fp16" in name for name in names) == 1
    found = {re.sub(r"nfe-1|seed-0|as|precision|-", "", name): arrays(run / "samples" / name) for name in names}
    for half in (found["bf16"], found["fp16"]):
        assert half.shape == found[""].shape
        assert abs(half.astype(int) - found[""]).max() <= 2
    done = here("sample", run, "--precision", "fp8")
    assert (done.status, done.err.count("\n")) == (2, 1)
    for name in ("fp32", "bf16", "fp16"):
        assert name in done.err


def arrays(place: Path) -> np.ndarray[Any, Any]:
    with np.load(next(place.glob("*.npz"))) as found:
        return found["arr_0"]
