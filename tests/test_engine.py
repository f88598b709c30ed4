"""How a recipe is run: accumulation, recomputation, bf16, compilation, averages, and what it costs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import alphaflow as af
from alphaflow.costs import activation_bytes, phases
from alphaflow.parallel.device import fp32_products
from alphaflow.parallel.world import World
from alphaflow.runs.post_hoc import combination, overlap
from alphaflow.training.ema import EMA
from alphaflow.training.engine import Engine
from alphaflow.training.flops import count_flops


def recipe(**options: Any) -> af.Recipe:
    torch.manual_seed(0)
    model = af.DiT((1, 8, 8), patch=4, depth=2, width=32, heads=2, classes=10)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    settings: dict[str, Any] = {"objective": af.MeanFlow(), "samplers": (), "lr": 1e-3, "steps": 6}
    return af.Recipe(model=model, dataset=af.Digits(batch_size=16, seed=1), **{**settings, **options})


def gradient(made: af.Recipe, setup: af.MachineSetup, batch: int = 16) -> tuple[torch.Tensor, af.Loss]:
    """Of the first batch, at step 0."""
    trainer = af.Trainer(made, setup=setup, device="cpu")
    data = next(iter(af.Digits(batch_size=batch, seed=1)))
    if made.model.patches.proj.weight.dtype == torch.float64:  # type: ignore[union-attr]
        data = af.Batch(data.x.double(), data.cond)
    loss = trainer.engine.gradient(data, 0, torch.Generator().manual_seed(5))
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]), loss


def test_accumulated_parts_add_up_to_the_batch() -> None:
    """Three uneven parts: the gradient of their mean, sample for sample, in float64."""
    made = recipe()
    made.model.double()
    twin, data = copy.deepcopy(made.model), next(iter(af.Digits(batch_size=16, seed=1)))
    found, loss = gradient(made, af.MachineSetup(accumulate=3))
    generator = torch.Generator().manual_seed(5)
    per_sample = [
        made.objective(
            twin, data.x[start : start + 6].double(), data.cond[slice(start, start + 6)], 0, generator, start=start
        )
        for start in (0, 6, 12)
    ]
    mean = torch.cat([part.per_sample for part in per_sample]).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(twin.parameters()))])
    assert float((found - expected).norm() / expected.norm()) < 1e-12
    assert loss.per_sample.shape == (16,)
    assert loss.total.item() == pytest.approx(mean.item(), rel=1e-12)


@pytest.mark.parametrize("objective", [af.MeanFlow(), af.AlphaFlow(alpha=0.5), af.ImprovedMeanFlow()])
def test_recomputation_changes_memory_and_nothing_else(objective: af.Objective) -> None:
    head = 1 if isinstance(objective, af.ImprovedMeanFlow) else 0
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        model = af.DiT((1, 8, 8), patch=2, depth=4, width=32, heads=2, classes=10, velocity_head=head)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        made.append(dataclasses.replace(recipe(), model=model, objective=objective))
    (plain, _), (again, _) = gradient(made[0], af.MachineSetup()), gradient(made[1], af.MachineSetup(recompute=True))
    assert torch.allclose(plain, again, rtol=1e-5, atol=1e-7)
    less, more = (activation_bytes(one, 0, 8) for one in (made[1], made[0]))
    assert less < 0.5 * more


def test_own_networks_say_that_they_cannot_recompute() -> None:
    made = dataclasses.replace(recipe(), model=torch.nn.Linear(1, 1))
    with pytest.raises(af.UserError, match="Linear has no attribute `recompute`"):
        af.Trainer(made, setup=af.MachineSetup(recompute=True))
    for wrong in ({"precision": "fp8"}, {"accumulate": 0}, {"parallel": "tensor"}):
        with pytest.raises(af.UserError):
            af.MachineSetup(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_the_share_of_flow_matching_is_of_the_whole_batch(share: float) -> None:
    """Batch × accumulate × processes: parts together have ⌊share·batch⌋ samples with r = t, each nearly its share."""
    counted: list[tuple[int, int]] = []

    class Counting(af.TrajectoryFlowMatching):
        def draw(self, *arguments: Any, **options: Any) -> Any:
            found = super().draw(*arguments, **options)
            counted.append((len(found.z), found.few))
            return found

    made = recipe(objective=Counting(fm_share=share))
    data = next(iter(af.Digits(batch_size=64, seed=0)))
    for batch, accumulate, processes in itertools.product((1, 3, 16, 64), (1, 2, 3, 64), (1, 2, 16, 64)):
        if batch % processes:
            continue
        counted.clear()
        for rank in range(processes):
            engine = Engine(made, af.MachineSetup(accumulate=accumulate), torch.device("cpu"), World())
            engine.world = World(rank, processes)
            mine = data[slice(rank * batch // processes, (rank + 1) * batch // processes)]
            engine.gradient(mine, 0, torch.Generator().manual_seed(0))
        assert sum(b for b, _ in counted) == batch
        assert sum(b - few for b, few in counted) == math.floor(share * batch), (batch, accumulate, processes)
        assert all(abs(b - few - share * b) < 1 for b, few in counted)


@pytest.mark.parametrize("objective", [af.FlowMatching(), af.MeanFlow(), af.AlphaFlow(alpha=0.5), af.FACM()])
def test_bf16_keeps_weights_in_fp32_and_is_close(objective: af.Objective) -> None:
    exact, _ = gradient(recipe(objective=objective), af.MachineSetup())
    close, _ = gradient(recipe(objective=objective), af.MachineSetup(precision="bf16"))
    assert close.dtype == torch.float32
    assert not torch.equal(close, exact)
    assert float((close - exact).norm() / exact.norm()) < 0.05
    trainer = af.Trainer(recipe(objective=objective), setup=af.MachineSetup(precision="bf16"), device="cpu")
    trainer.train_step()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert {v.dtype for s in trainer.engine.optimizer.state.values() for v in s.values()} == {torch.float32}


def test_a_recipes_machine_is_overridden_by_the_setup(tmp_path: Path) -> None:
    """Precision and TF32: the recipe's where the setup leaves them open; recorded as they were run."""
    made = dataclasses.replace(recipe(steps=1), precision="bf16", tf32=True)
    for setup, expected in ((None, ("bf16", True)), (af.MachineSetup(precision="fp32", tf32=False), ("fp32", False))):
        trainer = af.Trainer(made, out=tmp_path / expected[0], setup=setup, device="cpu")
        trainer.fit()
        record = json.loads((tmp_path / expected[0] / "run.json").read_text())["setup"]
        assert (record["precision"], record["tf32"]) == expected
    plain = af.Trainer(recipe(steps=1), device="cpu").engine.setup
    assert (plain.precision, plain.tf32) == ("fp32", None)
    with pytest.raises(af.UserError, match="fp32 or bf16"):
        dataclasses.replace(made, precision="fp8")  # type: ignore[arg-type]


def test_tf32_lasts_as_long_as_a_step() -> None:
    """The switch is the process's own: put back, after an error too; left alone on a CPU, and where nobody asked."""
    before = torch.get_float32_matmul_precision()
    for tf32, name in ((True, "high"), (False, "highest")):
        with fp32_products(torch.device("cuda"), tf32):
            assert torch.get_float32_matmul_precision() == name
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(RuntimeError), fp32_products(torch.device("cuda"), True):
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == before
    for device, tf32 in (("cpu", True), ("cuda", None)):
        with fp32_products(torch.device(device), tf32):
            assert torch.get_float32_matmul_precision() == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_has_the_same_gradient() -> None:
    """MeanFlow's: one pass with gradient, and one by forward-mode differentiation."""
    exact, _ = gradient(recipe(), af.MachineSetup())
    compiled, _ = gradient(recipe(), af.MachineSetup(compile=True))
    assert float((compiled - exact).norm() / exact.norm()) < 1e-5


def test_several_averages_are_kept_and_go_on(tmp_path: Path) -> None:
    ema = (0.9, 0.5, af.PowerLaw(0.1))
    straight = af.Trainer(recipe(ema=ema), out=tmp_path / "straight", checkpoint_every=3)
    straight.fit()
    last = tmp_path / "straight" / "checkpoints" / "step-00000006"
    names = {file.name for file in last.glob("*.safetensors")}
    assert names == {
        "model.safetensors",
        "training.safetensors",
        "ema.safetensors",
        "ema-0.5.safetensors",
        "ema-width-0.1.safetensors",
    }
    half = af.Trainer(recipe(ema=ema), out=tmp_path / "half", checkpoint_every=3)
    for _ in range(3):
        half.train_step()
    half.save()
    af.Trainer(recipe(ema=ema), out=tmp_path / "half", checkpoint_every=3, resume=True).fit()
    for name in names:
        ours, theirs = (load_file(tmp_path / run / "checkpoints" / last.name / name) for run in ("straight", "half"))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_a_power_law_average_has_its_profile_and_its_width(width: float) -> None:
    """The weight that each step has in the average is τ^γ, and the steps' deviation ÷ training's length is σ_rel."""
    steps, law = 4000, af.PowerLaw(width)
    shares, left = np.zeros(steps), 1.0
    for updates in reversed(range(steps)):
        shares[updates] = left * (1 - law.decay(updates))
        left *= law.decay(updates)
    tau = np.arange(1, steps + 1)
    mean = (shares * tau).sum()
    deviation = np.sqrt((shares * (tau - mean) ** 2).sum()) / steps
    assert shares.sum() == pytest.approx(1)
    assert deviation == pytest.approx(width, rel=0.03)
    assert shares[steps // 2] / shares[-1] == pytest.approx((steps / 2 / steps) ** law.gamma, rel=0.1, abs=1e-9)
    with pytest.raises(ValueError, match=r"between 0 and 0\.288"):
        af.PowerLaw(0.3)


def test_overlaps_of_profiles() -> None:
    """The closed form against a sum over τ."""
    for a, b in (((100.0, 3.0), (60.0, 8.0)), ((50.0, 1.0), (50.0, 1.0))):
        tau = (np.arange(1_000_000) + 0.5) / 1_000_000 * min(a[0], b[0])
        p, q = ((g + 1) * tau**g / t ** (g + 1) for t, g in (a, b))
        assert overlap(*a, *b) == pytest.approx(float((p * q).mean() * min(a[0], b[0])), rel=1e-6)
    assert combination(np.array([10.0, 20.0]), np.array([3.0, 5.0]), 20.0, 5.0) == pytest.approx([0, 1], abs=1e-9)


def test_post_hoc_averages(tmp_path: Path) -> None:
    """A width that was not kept, rebuilt from two that were, against the average kept all along."""
    made = recipe(ema=(0.9, af.PowerLaw(0.05), af.PowerLaw(0.15)), steps=80, lr=3e-3)
    trainer = af.Trainer(made, out=tmp_path / "run", checkpoint_every=8)
    wanted = EMA(made.model, af.PowerLaw(0.1))
    while trainer.step < 80:
        trainer.train_step()
        wanted.update()
        if trainer.step % 8 == 0:
            trainer.save()
    found = af.post_hoc_average(tmp_path / "run", 0.1)
    truth, raw = wanted.model.state_dict(), trainer.model.state_dict()
    assert found.keys() == truth.keys()
    far = sum(float((raw[name] - truth[name]).norm() ** 2) for name in truth) ** 0.5
    near = sum(float((found[name] - truth[name]).norm() ** 2) for name in truth) ** 0.5
    assert near < 0.1 * far
    kept = af.post_hoc_average(tmp_path / "run", 0.15)
    exact = load_file(tmp_path / "run" / "checkpoints" / "step-00000080" / "ema-width-0.15.safetensors")
    assert all(torch.allclose(kept[name], exact[name], atol=1e-4) for name in exact)
    af.Trainer(recipe(), out=tmp_path / "none").fit()
    with pytest.raises(af.UserError, match="kept no power-law average"):
        af.post_hoc_average(tmp_path / "none", 0.1)


def test_warm_up() -> None:
    schedule = af.WarmUp(4, af.Linear(4, 8, first=2.0, last=1.0))
    assert [schedule(step) for step in range(10)] == [0.5, 1.0, 1.5, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    assert af.WarmUp(2, 0.1)(0) == 0.05
    with pytest.raises(ValueError, match="steps >= 1"):
        af.WarmUp(0, 0.1)


def test_operations_by_phase() -> None:
    """A linear layer's are 2·in·out forward; flow matching costs three forward passes, α-Flow more, MeanFlow most."""
    layer, x = torch.nn.Linear(7, 5), torch.randn(3, 7)
    assert count_flops(lambda: layer(x)) == 2 * 3 * 7 * 5
    made = recipe(objective=af.AlphaFlow(alpha=af.Sigmoid(end=1000), fm_share=0.5), steps=1000)
    found = phases(made)
    assert [phase.name for phase in found] == ["flow matching (α = 1)", "two-point (0 < α < 1)", "JVP (α = 0)"]
    assert sum(phase.steps for phase in found) == 1000
    flow, two, jvp = (phase.flops for phase in found)
    one, cond = torch.ones(1), af.Cond(labels=torch.zeros(1, dtype=torch.long))
    forward = count_flops(lambda: made.model(torch.randn(1, 1, 8, 8), one, one, cond))
    assert flow == pytest.approx(3 * forward, rel=0.05)
    assert two == pytest.approx(flow + 0.5 * forward, rel=0.02)
    # of the tangent of half the batch: five products of attention's in place of two
    (width, tokens), depth = (32, 4), 2
    tangent = forward + 3 * 2 * tokens**2 * width * depth
    assert jvp == pytest.approx(flow + 0.5 * tangent, rel=1e-3)
    small, large = (activation_bytes(made, 0, batch) for batch in (4, 8))
    assert large == pytest.approx(2 * small, rel=0.02)
