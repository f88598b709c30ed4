"""The published runs, as the authors' code has them: settings by row, losses and logged parts restated from theirs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import alphaflow as af

NO_GUIDANCE = None
B2, L2, XL2 = (1.0, 0.5, (0.0, 1.0)), (0.2, 0.92, (0.0, 0.8)), (0.2, 0.92, (0.0, 0.75))
EULER, JUMPS = {80: [(80 - i) / 80 for i in range(81)]}, {1: [1, 0], 2: [1, 0.5, 0]}
FRESH = {1: [1, 0], 2: [1, 0.55, 0]}

# method, size, guided: steps, share of r = t, (start, end) of α's sigmoid or its value, guidance, clamp, samplers
PUBLISHED: dict[tuple[str, str, bool], tuple[Any, ...]] = {
    ("fm", "b2", False): (400_000, 1.0, None, NO_GUIDANCE, None, EULER),
    ("meanflow", "b2", False): (400_000, 0.75, 0.0, NO_GUIDANCE, None, JUMPS),
    ("alphaflow", "b2", False): (400_000, 0.5, (0, 400_000), NO_GUIDANCE, 4.0, JUMPS),
    ("meanflow", "b2", True): (1_200_000, 0.5, 0.0, B2, None, JUMPS),
    ("alphaflow", "b2", True): (1_200_000, 0.25, (0, 1_200_000), B2, 4.0, JUMPS),
    ("meanflow", "l2", True): (1_200_000, 0.5, 0.0, L2, None, JUMPS),
    ("alphaflow", "l2", True): (1_200_000, 0.5, (600_000, 1_000_000), L2, 4.0, FRESH),
    ("meanflow", "xl2", True): (1_200_000, 0.5, 0.0, XL2, None, JUMPS),
    ("alphaflow", "xl2", True): (1_200_000, 0.5, (600_000, 1_000_000), XL2, 4.0, FRESH),
}
OURS: dict[tuple[str, str, bool], tuple[Any, ...]] = {
    ("fm", "l2", False): PUBLISHED["fm", "b2", False],
    ("fm", "xl2", False): PUBLISHED["fm", "b2", False],
    ("meanflow", "l2", False): PUBLISHED["meanflow", "b2", False],
    ("meanflow", "xl2", False): PUBLISHED["meanflow", "b2", False],
    ("alphaflow", "l2", False): PUBLISHED["alphaflow", "b2", False],
    ("alphaflow", "xl2", False): PUBLISHED["alphaflow", "b2", False],
    ("fm", "b2", True): (1_200_000, 1.0, None, B2, None, EULER),
    ("fm", "l2", True): (1_200_000, 1.0, None, L2, None, EULER),
    ("fm", "xl2", True): (1_200_000, 1.0, None, XL2, None, EULER),
}


@pytest.mark.parametrize("run", [*PUBLISHED, *OURS], ids=str)
def test_each_run_has_its_settings(run: tuple[Any, str, bool]) -> None:
    method, size, guided = run
    steps, share, alpha, guidance, clamp, samplers = {**PUBLISHED, **OURS}[run]
    made = af.published_settings(method, size, guided=guided)  # type: ignore[arg-type]
    objective = made["objective"]
    assert made["steps"] == steps
    assert [objective.share(step) for step in (0, steps // 2, steps)] == [share] * 3
    assert (objective.times, objective.weighting) == (af.LogitNormal(-0.4, 1.0), af.AdaptiveWeighting(c=1e-3, p=1.0))
    assert (objective.teacher, objective.ema_target) == (None, False)
    if guidance is None:
        assert objective.guidance is None
    else:
        omega, kappa, interval = guidance
        assert objective.guidance == af.Guidance(omega, kappa, interval, label_drop=0.1, dropped="guided")
    if alpha is not None:
        for step in range(0, steps + 1, steps // 200):
            assert objective.scalars(step)["alpha"] == pytest.approx(value(alpha, step), abs=1e-12)
    assert getattr(objective, "clamp", None) == clamp
    used = {sampler.nfe: sampler for sampler in made["samplers"]}
    assert {nfe: list(sampler.grid) for nfe, sampler in used.items()} == samplers
    for nfe, sampler in used.items():
        assert isinstance(sampler, af.Consistency) == (samplers is FRESH and nfe == 2)
        assert getattr(sampler, "solver", "jump") == ("euler" if method == "fm" else "jump")
    kinds: dict[str, type[af.Objective]] = {"fm": af.FlowMatching, "meanflow": af.MeanFlow, "alphaflow": af.AlphaFlow}
    assert type(objective) is kinds[method]


def value(alpha: float | tuple[int, int], step: int) -> float:
    """α(k) = 1 − 1/(1 + e^{−25·(p − ½)}), clamped at 0.005 from either end."""
    if isinstance(alpha, float):
        return alpha
    start, end = alpha
    if step < start or step > end:
        return float(step < start)
    raw = 1 - 1 / (1 + math.exp(-25 * ((step - start) / (end - start) - 0.5)))
    return 0.0 if raw < 0.005 else 1.0 if raw > 0.995 else raw


def test_what_all_runs_share() -> None:
    """Adam at 1e-4 after 10,000 steps of warm-up, β (0.9, 0.95), norm clipped at 16, EMA 0.9999, bf16, TF32."""
    for method, size, guided in [*PUBLISHED, *OURS]:
        made = af.published_settings(method, size, guided=guided)  # type: ignore[arg-type]
        rates = {step: made["lr"](step) for step in (0, 999, 4_999, 9_999, 10_000, 399_999)}
        assert rates == pytest.approx({0: 1e-8, 999: 1e-5, 4_999: 5e-5, 9_999: 1e-4, 10_000: 1e-4, 399_999: 1e-4})
        shared = {name: made[name] for name in ("betas", "ema", "clip", "precision", "tf32")}
        assert shared == {"betas": (0.9, 0.95), "ema": 0.9999, "clip": 16.0, "precision": "bf16", "tf32": True}


def test_the_recipes_are_these_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """imagenet256 and kinetics700 pass a row on as it is, with Adam, no weight decay, batches of 256."""

    class Latents:
        """Stands for shards that nobody has here."""

        classes, class_names, autoencoder, asked = 1000, ["a"], None, 0

        def __init__(self, path: Path, batch_size: int, kind: str) -> None:
            self.shape = (4, 32, 32) if kind == "images" else (4, 5, 32, 32)
            Latents.asked = batch_size

    monkeypatch.setattr(af, "LatentShards", Latents)
    for name in ("S", "B", "L", "XL"):
        monkeypatch.setattr(
            af.DiT, name, classmethod(lambda cls, *args, n=name, **options: torch.nn.Linear(1, ord(n[0])))
        )
    for recipe, sizes in (
        ("imagenet256", {"b2": "b2", "l2": "l2", "xl2": "xl2"}),
        ("kinetics700", {"s": "b2", "xl": "xl2"}),
    ):
        for size, row in sizes.items():
            made = af.find_recipe(recipe)(method="alphaflow", size=size, cfg=True, data=tmp_path)
            expected = af.published_settings("alphaflow", row, guided=True, steps=made.steps)  # type: ignore[arg-type]
            assert {field: getattr(made, field) for field in expected} == expected
            assert made.model.out_features == ord(size[0].upper())
            assert (made.optimizer, made.weight_decay, Latents.asked) == (
                None,
                0.0,
                256 if recipe == "imagenet256" else 64,
            )
            assert made.steps == (1_200_000 if recipe == "imagenet256" else 400_000)
    assert af.find_recipe("imagenet256-from-flow")(data=tmp_path).objective == af.DecoupledMeanFlow()


@pytest.mark.parametrize("alpha", [1.0, 0.6, 0.05, 0.0])
@pytest.mark.parametrize("guided", [False, True])
def test_loss_gradient_and_parts_are_the_authors(alpha: float, guided: bool, smooth: Any, grad: Any) -> None:
    """Their loss, restated sample by sample: clipped targets for 0 < α ≤ 1, weight α/(mse + c); tfm and tc as they log.

    Ours between α = 0 and 1 have another tc: ∇(tfm + tc) is that of α⁻¹·mse.
    """
    b, clamp, c = 12, 0.9, 1e-3
    model = smooth(6, 4)
    x = torch.randn(b, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    cond = af.Cond(labels=torch.arange(b) % 4)
    guidance = af.Guidance(omega=0.2, kappa=0.92, interval=(0.0, 0.75), label_drop=0.1) if guided else None
    objective = af.AlphaFlow(alpha=alpha, fm_share=0.25, clamp=clamp, guidance=guidance)
    loss = objective(model, x, cond, 0, torch.Generator().manual_seed(9))
    draw = objective.draw(model, x, cond, 0, torch.Generator().manual_seed(9))
    totals: list[Tensor] = []
    for i in range(b):
        z, r, t, y, v = draw.z[i : i + 1], draw.r[i : i + 1], draw.t[i : i + 1], draw.cond[i : i + 1], draw.v[i : i + 1]
        dt, factor, target = alpha * (t - r), 1.0, v
        with torch.no_grad():
            if float(dt) > 0:
                u_next = model(z - dt[:, None, None] * v, r, t - dt, y) if alpha < 1 else torch.zeros_like(z)
                target = (
                    ((dt * v.flatten(1) + (t - dt - r) * u_next.flatten(1)) / (t - r)).clip(-clamp, clamp).view_as(z)
                )
                factor = alpha
            elif float(r) < float(t):
                _, dudt = torch.autograd.functional.jvp(
                    lambda z, t, r=r, y=y: model(z, r, t, y), (z, t), (v, torch.ones_like(t))
                )
                target = v - (t - r)[:, None, None] * dudt
        u = model(z, r, t, y)
        error = ((u - target) ** 2).mean()
        totals.append(factor / (error.detach() + c) * error)
        assert loss.terms["tfm"][i].item() == pytest.approx(((u - v) ** 2).mean().item(), rel=1e-12)
        tc = (2 * (v - target) * u).mean().item()
        if alpha in (0, 1) or float(dt) == 0:
            assert loss.terms["tc"][i].item() == pytest.approx(tc, rel=1e-9, abs=1e-12)
        else:
            ours = (2 * u * ((u - target) / alpha - (u - v))).mean().item()
            assert loss.terms["tc"][i].item() == pytest.approx(ours, rel=1e-9, abs=1e-12)
            assert abs(ours - tc) > 1e-6
    expected = torch.stack(totals).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-13)
    ours, theirs = grad(model, loss.total), grad(model, expected)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-13


def test_the_averages_ramp() -> None:
    """The half-life is 5 % of the updates so far, and at most the decay's: 6,931 steps at 0.9999."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    average = af.EMA(model, 0.9999)
    value, shadow = 0.0, float(model.weight.detach())
    for k in range(400):
        value = math.sin(k)
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = 0.0 if k == 0 else 0.5 ** (1 / min(6931.1, 0.05 * k))
        shadow = decay * shadow + (1 - decay) * value
        assert float(average.model.weight) == pytest.approx(shadow, abs=1e-12)
    late = af.EMA(model, 0.9999)
    late.updates = 200_000
    before = float(late.model.weight)
    with torch.no_grad():
        model.weight.fill_(before + 1)
    late.update()
    assert float(late.model.weight) - before == pytest.approx(1e-4, rel=1e-9)
