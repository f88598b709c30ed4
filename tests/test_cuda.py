"""What only a GPU can show; skipped where there is none. Elsewhere a GPU is pretended (test_devices.py)."""

from __future__ import annotations

import copy
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import alphaflow as af

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = "cuda"


def distance(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(**options: Any) -> af.DiT:
    torch.manual_seed(0)
    model = af.DiT((4, 8, 8), patch=2, depth=2, width=128, heads=2, classes=10, **options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.mark.parametrize("d", [32, 64, 72, 128, 256])
@pytest.mark.parametrize("tokens", [1, 80, 257])
def test_the_attention_tangents_kernel(d: int, tokens: int) -> None:
    """Against float64; a kernel that isn't used warns, which is an error here."""
    from alphaflow.tangents.chunked import chunked_tangent
    from alphaflow.tangents.triton_attention import tangent_on_gpu

    q, k, v, dq, dk, dv = (random(2, tokens, 3, d, seed=seed).transpose(1, 2).cuda() for seed in range(6))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    wanted = chunked_tangent(q, k, v, out, dq, dk, dv)
    for dtype, limit in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float32, 1e-5)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = tangent_on_gpu(*(x.to(dtype) for x in (q, k, v, out, dq, dk, dv)))
        assert found.dtype == dtype
        assert distance(found, wanted) < limit, dtype


def test_values_and_tangents_are_a_cpus() -> None:
    model = network().double()
    z, v, r, t = random(6, 4, 8, 8), random(6, 4, 8, 8, seed=1), torch.linspace(0, 0.4, 6), torch.linspace(0.4, 1, 6)
    given: list[Any] = [z, r.double(), t.double(), af.Cond(labels=torch.arange(6))]
    u, tangent = af.total_derivative(model, *given, v)
    found, moved = af.total_derivative(model.cuda(), *(x.to(GPU) for x in given), v.cuda())
    assert distance(found, u) < 1e-12
    assert distance(moved, tangent) < 1e-11


OBJECTIVES: dict[str, af.Objective] = {
    "flow matching": af.FlowMatching(),
    "MeanFlow": af.MeanFlow(fm_share=0.5),
    "guided": af.MeanFlow(fm_share=0.5, guidance=af.Guidance(omega=1.0, kappa=0.5)),
    "α-Flow": af.AlphaFlow(alpha=0.5, fm_share=0.5),
    "iMF": af.ImprovedMeanFlow(fm_share=0.5),
    "Shortcut": af.Shortcut(),
    "Lagrangian": af.Lagrangian(),
    "TVM": af.TerminalVelocity(),
}


def gradient(objective: af.Objective, model: Any, precision: torch.dtype = torch.float32) -> Tensor:
    x, cond = random(8, 4, 8, 8, dtype=torch.float32).cuda(), af.Cond(labels=torch.arange(8).cuda())
    with torch.autocast(GPU, precision, enabled=precision != torch.float32):
        total = objective(model, x, cond, 0, torch.Generator(GPU).manual_seed(4)).total
    model.zero_grad()
    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_in_half_precision_and_compiled(name: str) -> None:
    """In bf16, and compiled: fp32's gradient, to the precision that bf16 has."""
    objective, model = OBJECTIVES[name], network().cuda()
    wanted = gradient(objective, copy.deepcopy(model).double().float())
    assert distance(gradient(objective, copy.deepcopy(model), torch.bfloat16), wanted) < 5e-2
    compiled = copy.deepcopy(model)
    compiled.compile()
    assert distance(gradient(objective, compiled), wanted) < 1e-3
    assert distance(gradient(objective, compiled, torch.bfloat16), wanted) < 5e-2


TRAIN = ("train", "digits", "--steps", "40", "--device", GPU, "--checkpoint-every", "20", "--log-every", "10")


def weights(run: Path, step: int = 40) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--accumulate", "2"), ("--compile", "--recompute")])
def test_a_run_goes_on_as_if_it_had_never_stopped(cli: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Trained whole, and from half of its steps: the same weights, but for the order of a GPU's sums."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert not cli(*TRAIN, *options, "--out", str(whole)).status
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / "step-00000040")
    done = cli(*TRAIN, *options, "--out", str(half), "--resume")
    assert not done.status, done.err
    found, wanted = weights(half), weights(whole)
    assert all(distance(found[name], wanted[name]) < 1e-3 for name in wanted if wanted[name].any())
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)


def test_a_run_is_sampled_evaluated_and_diagnosed(cli: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not cli(*TRAIN, "--probe-every", "20", "--evaluate-every", "40", "--out", str(run)).status
    for call in (
        ("sample", str(run), "--count", "16", "--out", str(tmp_path / "samples"), "--device", GPU),
        (
            "evaluate",
            str(run),
            "--count",
            "256",
            "--nfe",
            "1,2",
            "--device",
            GPU,
            "--json",
            str(tmp_path / "found.json"),
        ),
        ("diagnose", str(run), "--device", GPU),
        ("info", "digits", "--device", GPU),
    ):
        done = cli(*call)
        assert not done.status, (call, done.err)
    assert json.loads((tmp_path / "found.json").read_text())
