"""Gradient conflict against gradients written out by hand, in float64; the probe; the command."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import alphaflow as af
from alphaflow.diagnosis.decomposition import TimeBins, decompose
from alphaflow.diagnosis.diagnose import diagnose
from alphaflow.diagnosis.gradients import layer_group

SHAPE = (2, 3)


@pytest.fixture
def batches() -> list[af.Batch]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(5, 6, *SHAPE, dtype=torch.float64, generator=generator)
    labels = torch.randint(4, (5, 6), generator=generator)
    return [af.Batch(x[i], af.Cond(labels=labels[i])) for i in range(5)]


@pytest.fixture
def model(smooth: Any) -> torch.nn.Module:
    return smooth(math.prod(SHAPE), 4)


def by_hand(model: Any, objective: Any, batch: af.Batch, generator: torch.Generator) -> dict[str, Tensor]:
    """Per-sample losses from the formulas; du/dt by double backward differentiation."""
    few = objective.draw(model, batch.x, batch.cond, 0, generator, few=len(batch.x))
    u = model(few.z, few.r, few.t, few.cond)
    _, dudt = torch.autograd.functional.jvp(
        lambda z, t: model(z, few.r, t, few.cond), (few.z, few.t), (few.v, torch.ones_like(few.t))
    )
    gap = (few.t - few.r)[:, None, None]
    flow = objective.draw(model, batch.x, batch.cond, 0, generator, few=0)
    return {
        "tfm": ((u - few.v) ** 2).mean((1, 2)),
        "tc": (2 * gap * u * dudt.detach()).mean((1, 2)),
        "fm": ((model(flow.z, flow.t, flow.t, flow.cond) - flow.v) ** 2).mean((1, 2)),
        "meanflow": ((u - (few.v - gap * dudt).detach()) ** 2).mean((1, 2)),
        "r": few.r,
        "t": few.t,
    }


OBJECTIVES = {
    "meanflow": af.MeanFlow(),
    "guided": af.AlphaFlow(guidance=af.Guidance(omega=0.5, kappa=0.4, label_drop=0.3)),
    "facm": af.FACM(),
    "fm": af.FlowMatching(),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_conflict_equals_gradients_by_hand(objective: Any, model: Any, batches: Any, grad: Any) -> None:
    found = af.measure_conflict(model, objective, batches, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    losses = [by_hand(model, objective, batch, generator) for batch in batches]
    gradients = {name: torch.stack([grad(model, loss[name].mean()) for loss in losses]) for name in ("tfm", "tc", "fm")}
    mean = {name: rows.mean(0) for name, rows in gradients.items()}
    for a, b in (("tfm", "tc"), ("tfm", "fm"), ("tc", "fm")):
        cosine = torch.nn.functional.cosine_similarity
        assert found.cosine[f"{a}_{b}"] == pytest.approx(float(cosine(mean[a], mean[b], dim=0)), rel=1e-10)
        each = cosine(gradients[a], gradients[b], dim=1).mean()
        assert found.batch_cosine[f"{a}_{b}"] == pytest.approx(float(each), rel=1e-10)
    for name in ("tfm", "tc", "fm"):
        assert found.norm[name] == pytest.approx(float(mean[name].norm()), rel=1e-10)
        # batch means of 6 samples: their covariance is a sixth of a sample's
        assert found.variance[name] == pytest.approx(6 * float(gradients[name].var(0).sum()), rel=1e-9)
        assert found.loss[name] == pytest.approx(sum(loss[name].mean().item() for loss in losses) / 5, rel=1e-10)
    assert found.norm["meanflow"] == pytest.approx(float((mean["tfm"] + mean["tc"]).norm()), rel=1e-10)
    assert found.samples == 30


def test_the_parts_sum_to_meanflows_gradient(model: Any, batches: Any, grad: Any) -> None:
    """∇L_TFM + ∇L_TC is the gradient of the MeanFlow objective itself on the same draw."""
    objective = af.MeanFlow(fm_share=0.0, weighting=af.InverseAlphaWeighting())
    parts = decompose(model, objective, batches[0], 0, torch.Generator().manual_seed(2))
    loss = objective(model, batches[0].x, batches[0].cond, 0, torch.Generator().manual_seed(2))
    together = grad(model, parts.tfm.mean() + parts.tc.mean())
    assert (together - grad(model, loss.total)).norm() / together.norm() < 1e-12
    assert torch.allclose(parts.meanflow, loss.terms["mse"], rtol=1e-12)


def test_variance_is_that_of_a_sample(model: Any, batches: Any, grad: Any) -> None:
    """With batches of one sample it is the trace of the samples' covariance."""
    single = [af.Batch(batch.x[i : i + 1], batch.cond[i : i + 1]) for batch in batches for i in range(6)]
    objective = af.MeanFlow()
    found = af.measure_conflict(model, objective, single, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    rows = torch.stack([grad(model, by_hand(model, objective, batch, generator)["tc"].mean()) for batch in single])
    assert found.variance["tc"] == pytest.approx(float(torch.cov(rows.T).trace()), rel=1e-9)


def test_layer_groups(model: Any, batches: Any) -> None:
    found = af.measure_conflict(model, af.MeanFlow(), batches, generator=torch.Generator().manual_seed(1))
    assert set(found.groups) == {"inner", "outer"}
    for name in ("tfm", "tc", "fm"):
        squares = sum(group[f"norm_{name}"] ** 2 for group in found.groups.values())
        assert math.sqrt(squares) == pytest.approx(found.norm[name], rel=1e-12)
    generator = torch.Generator().manual_seed(1)
    sums = {"tfm": 0.0, "tc": 0.0}
    for batch in batches:
        loss = by_hand(model, af.MeanFlow(), batch, generator)
        for name in sums:
            own = torch.autograd.grad(loss[name].mean(), list(model.inner.parameters()), retain_graph=True)
            sums[name] = sums[name] + torch.cat([g.flatten() for g in own])
    expected = torch.nn.functional.cosine_similarity(sums["tfm"], sums["tc"], dim=0)
    assert found.groups["inner"]["tfm_tc"] == pytest.approx(float(expected), rel=1e-10)
    assert layer_group("blocks.3.mlp.out.weight") == "blocks.3"
    assert layer_group("embed_t.hidden.bias") == "embed_t"
    assert layer_group("scale") == "scale"


def test_nothing_is_left_behind(model: Any, batches: Any) -> None:
    before = [weight.clone() for weight in model.parameters()]
    model.train()
    model.outer.eval()  # a part that the user keeps so
    state = torch.get_rng_state()
    af.measure_conflict(model, af.MeanFlow(), batches, generator=torch.Generator().manual_seed(1))
    assert model.training
    assert not model.outer.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_gradient_has_no_angle(batches: Any) -> None:
    """A network that ignores time and sample: du/dt = 0, so ∇L_TC = 0."""

    class Still(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
            return self.value.expand_as(z) + 0 * (z + t[:, None, None])

    found = af.measure_conflict(Still(), af.MeanFlow(), batches, generator=torch.Generator().manual_seed(1))
    assert found.norm["tc"] == 0
    assert math.isnan(found.cosine["tfm_tc"])
    values = af.GradientProbe()(Still(), af.MeanFlow(), batches[0], 0)
    assert "probe/cos_tfm_tc" not in values
    assert values["probe/norm_tc"] == 0


def test_time_bins_equal_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    r, t = torch.rand(2, 500, generator=generator).sort(dim=0).values
    t[0], r[1] = 1.0, 0.0
    value = torch.randn(500, generator=generator)
    bins = TimeBins(4)
    bins.add(r[:200], t[:200], value=value[:200])
    bins.add(r[200:], t[200:], value=value[200:])
    for row in range(4):
        for column in range(4):
            own = [
                float(value[i]) for i in range(500) if min(int(r[i] * 4), 3) == row and min(int(t[i] * 4), 3) == column
            ]
            assert int(bins.samples[row, column]) == len(own)
            mean = bins.means()["value"][row][column]
            assert mean is None if not own else mean == pytest.approx(sum(own) / len(own), rel=1e-6)


def tiny(method: str = "mean-flow", steps: int = 8) -> af.Recipe:
    torch.manual_seed(0)
    return af.find_recipe("digits")(method=method, steps=steps, width=32, depth=1, batch_size=16)


def test_a_probe_leaves_training_alone(tmp_path: Path) -> None:
    """The same weights bit for bit; its values stand in the rows of its steps, and come again after a resume."""
    plain = af.Trainer(tiny(), out=tmp_path / "plain", log_every=100)
    plain.fit()
    probed = af.Trainer(tiny(), out=tmp_path / "probed", log_every=100, probe=af.GradientProbe(every=3, draws=2))
    probed.fit()
    for a, b in zip(plain.model.parameters(), probed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = [json.loads(line) for line in (tmp_path / "probed" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 8]
    assert all(
        {"probe/cos_tfm_tc", "probe/norm_tc", "probe/variance_tfm", "probe/loss_fm", "loss"} <= set(row)
        for row in rows[1:]
    )

    stopped = af.Trainer(
        tiny(steps=8), out=tmp_path / "resumed", log_every=100, probe=af.GradientProbe(every=3, draws=2)
    )
    for _ in range(4):
        stopped.train_step()
    stopped.save()
    af.Trainer(
        tiny(), out=tmp_path / "resumed", resume=True, log_every=100, probe=af.GradientProbe(every=3, draws=2)
    ).fit()
    resumed = [json.loads(line) for line in (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert resumed[-1]["probe/cos_tfm_tc"] == rows[-1]["probe/cos_tfm_tc"]


def test_a_plain_function_cannot_be_probed(tmp_path: Path) -> None:
    recipe = tiny()
    plain = dataclasses.replace(recipe, objective=lambda *arguments: recipe.objective(*arguments))  # type: ignore[arg-type]
    with pytest.raises(af.UserError, match=r"only an af\.Objective can be probed"):
        af.Trainer(plain, out=tmp_path / "run", probe=af.GradientProbe())
    assert not (tmp_path / "run").exists()
    with pytest.raises(af.UserError, match=r"only an af\.Objective"):
        af.GradientProbe()(recipe.model, lambda *args: None, next(iter(recipe.dataset)), 0)  # type: ignore[arg-type]


def test_diagnose_measures_the_run_it_is_given(small_run: Path) -> None:
    """A checkpoint's figures are those of its raw weights on the run's own data."""
    found = diagnose(small_run, steps=[6, 12], batches=2, seed=3, device="cpu")
    assert list(found.conflicts) == [6, 12]
    torch.manual_seed(3)
    run = af.Run(small_run, step=6, ema=False, device="cpu")
    recipe = run.recipe()
    data = iter(recipe.dataset)
    batches = [next(data), next(data)]
    run.model.requires_grad_(True)
    expected = af.measure_conflict(run.model, recipe.objective, batches, 6, torch.Generator().manual_seed(3))
    assert found.conflicts[6].cosine == expected.cosine
    assert found.conflicts[6].bins == expected.bins
    assert found.conflicts[6] != found.conflicts[12]
    share, count = found.share_below(2.0)
    assert (share, count) == (1.0, len(found.curve("batch_cosine", "tfm_tc")))


@pytest.mark.slow
def test_the_command(here: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps", "12", "--width", "32", "--depth", "1", "--batch-size", "32", "--checkpoint-every", "6"]
    done = here("train", "digits", "--method", "mean-flow", *options, "--probe-every", "4", "--out", run)
    assert done.status == 0, done.err
    done = here("diagnose", run, "--batches", "2")
    assert done.status == 0, done.err
    assert "the batch's cos(∇L_TFM, ∇L_TC) is below -0.4 at" in done.out
    assert "of 3 probed steps" in done.out
    record = json.loads((run / "diagnosis.json").read_text())
    assert [row["step"] for row in record["checkpoints"]] == [6, 12]
    assert [row["step"] for row in record["probe"]] == [4, 8, 12]
    assert len(record["checkpoints"][0]["bins"]["tfm"]) == 10
    assert "blocks.0" in record["checkpoints"][1]["groups"]
    assert Image.open(run / "diagnosis.png").size[0] > 1000
    done = here("diagnose", run, "--checkpoints", 12, "--batches", 1, "--format", "svg", "--out", tmp_path / "other")
    assert done.status == 0, done.err
    assert (tmp_path / "other" / "diagnosis.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "other" / "diagnosis.json").read_text())["checkpoints"][0]["variance"] == {}


def test_wrong_inputs(here: Callable[..., Any], small_run: Path, tmp_path: Path) -> None:
    for words, message in [
        (["diagnose", tmp_path / "none"], "is not a run: there is no such folder"),
        (["diagnose", small_run, "--checkpoints", "7"], "has no checkpoint of step 7; it has 6, 12"),
        (["diagnose", small_run, "--checkpoints", "x"], "--checkpoints takes whole numbers"),
        (["diagnose", small_run, "--batches", "0"], "--batches"),
        (["train", "digits", "--from", tmp_path / "none"], "is not a run: there is no such folder"),
        (["train", "digits", "--from", small_run, "--out", tmp_path / "x"], "this recipe's network"),
        (["train", "digits", "--probe-every", "0"], "--probe-every"),
        (["sample", small_run, "--guidance", "2"], "never saw a dropped label"),
        (["sample", small_run, "--guidance", "-1"], "a guidance scale is a positive number"),
        (["sample", small_run, "--guidance", "2", "--guidance-interval", "1"], "--guidance-interval takes two times"),
        (["sample", small_run, "--guidance-interval", "0.1,0.5"], "goes with --guidance SCALE"),
        (["sample", small_run, "--guidance", "2", "--guidance-interval", "0.9,0.1"], "0 <= t_min < t_max <= 1"),
    ]:
        done = here(*words)
        assert done.status == 2, (words, done.out)
        assert message in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1
