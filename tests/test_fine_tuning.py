"""Starting from trained weights, teachers, averaged targets, objectives that learn, guidance chosen when sampling."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import alphaflow as af
from alphaflow.guidance_input import guidance_setting

Cli = Callable[..., Any]


def recipe(objective: af.Objective, steps: int = 8, **network: Any) -> af.Recipe:
    torch.manual_seed(0)
    digits = af.Digits(batch_size=16, seed=1)
    options = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "classes": 10, **network}
    model = af.DiT(digits.shape, **options)
    return af.Recipe(
        model=model, objective=objective, dataset=digits, samplers=(af.ODE(1),), steps=steps, lr=1e-2, ema=0.9
    )


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of flow matching, with dropped labels."""
    place = tmp_path_factory.mktemp("flow") / "run"
    af.Trainer(recipe(af.FlowMatching(guidance=af.Guidance(label_drop=0.2))), out=place).fit()
    return place


JUMP = "embed_jump.out."
"""What a flow model's weights don't decide: a jump's embedding begins as that of length 0."""


def test_start_from_a_run(flow_run: Path, tmp_path: Path) -> None:
    """The new run begins at the old one's last averaged weights, in the network and in the average."""
    average = load_file(flow_run / "checkpoints" / "step-00000008" / "ema.safetensors")
    trainer = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "tuned", start=flow_run)
    assert trainer.step == 0
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, average[name]) or name.startswith(JUMP)
        assert torch.equal(trainer.ema.model.state_dict()[name], weight)
    assert not trainer.model.state_dict()[f"{JUMP}weight"].any()
    trainer.fit()
    assert json.loads((tmp_path / "tuned" / "run.json").read_text())["start"] == str(flow_run)
    # a checkpoint's folder and a file name the same weights
    for start in (
        flow_run / "checkpoints" / "step-00000008",
        flow_run / "checkpoints" / "step-00000008" / "ema.safetensors",
    ):
        again = af.Trainer(recipe(af.MeanFlow()), start=start).model.state_dict()
        assert all(torch.equal(weight, average[name]) or name.startswith(JUMP) for name, weight in again.items())


@pytest.mark.parametrize("word", [None, "r"])
def test_what_embeds_r_is_refused_by_name(
    word: str | None, flow_run: Path, tmp_path: Path, here: Callable[..., Any]
) -> None:
    """A run of the earlier convention, as such ones lie about: no word of it, or another; a layer called embed_r."""
    old = tmp_path / "old"
    shutil.copytree(flow_run, old)
    record = json.loads((old / "run.json").read_text())
    assert record.pop("second_time") == "t - r"
    (old / "run.json").write_text(json.dumps(record if word is None else {**record, "second_time": word}))
    place = old / "checkpoints" / "step-00000008"
    for name in ("model", "ema"):
        weights = load_file(place / f"{name}.safetensors")
        renamed = {key.replace("embed_jump", "embed_r"): weight for key, weight in weights.items()}
        assert renamed.keys() != weights.keys()
        save_file(renamed, place / f"{name}.safetensors")
    says = "is of an earlier alphaflow, whose DiT embedded the time r.*t - r.*train again"
    for start in (old, place, place / "ema.safetensors"):
        with pytest.raises(af.UserError, match=says):
            af.Trainer(recipe(af.MeanFlow()), start=start)
    with pytest.raises(af.UserError, match=says):
        af.Run(old)
    with pytest.raises(af.UserError, match=says):
        af.Trainer(recipe(af.MeanFlow()), out=old, resume=True)
    with pytest.raises(af.UserError, match=says):
        af.post_hoc_average(old, 0.1)
    for command in (
        ["sample", old],
        ["evaluate", old],
        ["diagnose", old],
        ["train", "digits", "--out", old, "--resume"],
    ):
        done = here(*command)
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), done.err
        assert "embedded the time r" in done.err


def test_a_resumed_run_does_not_start_again(flow_run: Path, tmp_path: Path) -> None:
    straight = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "straight", start=flow_run, checkpoint_every=4)
    straight.fit()
    stopped = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "stopped", start=flow_run, checkpoint_every=4)
    for _ in range(4):
        stopped.train_step()
    stopped.save()
    resumed = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "stopped", start=flow_run, resume=True)
    resumed.fit()
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # killed before its first checkpoint: it starts from the given weights again
    early = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "early", start=flow_run)
    early.train_step()
    again = af.Trainer(recipe(af.MeanFlow()), out=tmp_path / "early", start=flow_run, resume=True)
    again.fit()
    for a, b in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_larger_network_keeps_its_new_parts(flow_run: Path) -> None:
    """Guidance inputs and a velocity head are new; all else is the old run's."""
    made = recipe(af.ImprovedMeanFlow(guidance=af.GuidanceInputs()), guidance=True, velocity_head=1)
    fresh = copy.deepcopy(made.model).state_dict()
    trainer = af.Trainer(made, start=flow_run)
    average = load_file(flow_run / "checkpoints" / "step-00000008" / "ema.safetensors")
    new = [name for name in fresh if name not in average]
    assert {name.split(".")[0] for name in new} == {"embed_guidance", "velocity_blocks", "velocity_final"}
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, fresh[name] if name in new else average[name]) or name.startswith(JUMP)


def test_wrong_starts(flow_run: Path, tmp_path: Path) -> None:
    with pytest.raises(af.UserError, match="no such folder"):
        af.Trainer(recipe(af.MeanFlow()), start=tmp_path / "none")
    with pytest.raises(af.UserError, match=r"of shape \(\d+.*this recipe's network"):
        af.Trainer(recipe(af.MeanFlow(), width=32), start=flow_run)
    save_file({"something": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(af.UserError, match="no weight in common"):
        af.Trainer(recipe(af.MeanFlow()), start=tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(af.UserError, match=r"damaged or cut short.*give another file"):
        af.Trainer(recipe(af.MeanFlow()), start=tmp_path / "cut.safetensors")
    with pytest.raises(af.UserError, match=r"none\.safetensors is missing; give another file"):
        af.Trainer(recipe(af.MeanFlow()), start=tmp_path / "none.safetensors")
    frozen = af.Run(flow_run, device="cpu").model
    with pytest.raises(af.UserError, match="no weight to train"):
        af.Trainer(dataclasses.replace(recipe(af.MeanFlow()), model=frozen))


def test_guidance_as_an_input_needs_both_sides() -> None:
    with pytest.raises(af.UserError, match="needs both sides"):
        recipe(af.MeanFlow(guidance=af.GuidanceInputs()))
    with pytest.raises(af.UserError, match="needs both sides"):
        recipe(af.MeanFlow(), guidance=True)


def test_a_teacher_is_frozen_and_in_evaluation_mode(flow_run: Path) -> None:
    teacher = af.Run(flow_run, device="cpu").model
    before = [weight.clone() for weight in teacher.parameters()]
    teacher.train()
    trainer = af.Trainer(recipe(af.MeanFlow(teacher=teacher)), start=flow_run)
    trainer.train_step()
    assert not teacher.training
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_the_trainer_passes_its_average_as_the_target_network() -> None:
    made = recipe(af.Shortcut(ema_target=True, fm_share=0.25))
    seen: list[Any] = []
    original = type(made.objective).target

    class Watching(af.Shortcut):
        def target(self, model: Any, draw: Any, step: int) -> Any:
            seen.append(model)
            return original(self, model, draw, step)

    object.__setattr__(made, "objective", Watching(ema_target=True, fm_share=0.25))
    trainer = af.Trainer(made)
    trainer.train_step()
    (called,) = seen
    assert called.inner is trainer.ema.model


def test_an_objectives_own_network_is_trained_saved_and_resumed(tmp_path: Path) -> None:
    def made() -> af.Recipe:
        return recipe(af.ContinuousConsistency(warmup=4))

    straight = af.Trainer(made(), out=tmp_path / "straight", checkpoint_every=4)
    straight.fit()
    assert straight.engine.network is not None
    assert all(weight.abs().max() > 0 for weight in straight.engine.network.parameters())
    stopped = af.Trainer(made(), out=tmp_path / "stopped", checkpoint_every=4)
    for _ in range(4):
        stopped.train_step()
    stopped.save()
    resumed = af.Trainer(made(), out=tmp_path / "stopped", checkpoint_every=4, resume=True)
    resumed.fit()
    for one, other in ((straight.engine.network, resumed.engine.network), (straight.model, resumed.model)):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.fixture(scope="module")
def guided_run(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """A few steps of improved MeanFlow with guidance as an input."""
    place = tmp_path_factory.mktemp("guided") / "run"
    options = ["--steps", "20", "--width", "32", "--depth", "1", "--batch-size", "32"]
    done = cli("train", "digits", "--method", "improved-mean-flow", *options, "--out", place)
    assert done.status == 0, done.err
    return place


def test_guidance_as_an_input(guided_run: Path, here: Cli, tmp_path: Path) -> None:
    """`--guidance` reaches the network as (ω, t_min, t_max), at no further evaluation."""
    done = here("sample", guided_run, "--guidance", "2.5", "--guidance-interval", "0.1,0.8", "--count", "20")
    assert done.status == 0, done.err
    assert "ODE(steps=1)" in done.out
    run = af.Run(guided_run, device="cpu")
    assert run.takes_guidance
    seen: list[torch.Tensor] = []
    forward = run.model.forward
    run.model.forward = lambda z, r, t, cond: (seen.append(cond.guidance), forward(z, r, t, cond))[1]
    samples = run.sample(20, guidance=af.CFG(2.5, (0.1, 0.8)))
    assert torch.equal(seen[0], torch.tensor([[2.5, 0.1, 0.8]]).expand(20, 3))
    assert (guided_run / "samples" / "nfe-1-guidance-2.5-in-0.1-0.8-seed-0.png").is_file()
    run.model.forward = forward
    assert not torch.equal(samples, run.sample(20))  # ω = 1
    assert torch.equal(run.sample(20), run.sample(20, guidance=af.CFG(1.0)))
    done = here(
        "evaluate", guided_run, "--guidance", "2", "--nfe", "1,2", "--count", "20", "--json", tmp_path / "e.json"
    )
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "e.json").read_text())["run"]["guidance"] == {"scale": 2.0, "interval": [0.0, 1.0]}


def test_guidance_applied_by_the_sampler(flow_run: Path, here: Cli) -> None:
    """A network without the input, trained with dropped labels: two evaluations a step."""
    run = af.Run(flow_run, device="cpu")
    assert run.sampler(4, af.CFG(2.0)) == af.ODE(2, cfg=af.CFG(2.0))
    assert run.sampler(1, af.CFG(2.0, (0.0, 0.5))) == af.ODE(1, cfg=af.CFG(2.0, (0.0, 0.5)))  # t = 1 is outside
    samples = run.sample(10, nfe=2, guidance=af.CFG(3.0))
    noise = torch.Generator().manual_seed(0)
    z = torch.stack([torch.randn(run.shape, generator=noise) for _ in range(10)])
    r, t, labels = torch.zeros(10), torch.ones(10), torch.arange(10)
    with torch.no_grad():
        u, free = run.model(z, r, t, af.Cond(labels=labels)), run.model(z, r, t, af.Cond())
    pixels = ((z - (free + 3 * (u - free))).clamp(-1, 1) * 127.5 + 127.5).round()
    assert (samples.float() - pixels).abs().max() <= 1
    done = here("sample", flow_run, "--guidance", "2", "--nfe", "1")
    assert done.status == 2
    assert "guidance costs this run two evaluations per step, so 1 is not possible; try --nfe 2" in done.err


def test_from_on_the_command_line(flow_run: Path, here: Cli, tmp_path: Path) -> None:
    options = ["--steps", "4", "--width", "16", "--depth", "2", "--batch-size", "16", "--checkpoint-every", "2"]
    call = ["train", "digits", "--method", "mean-flow", *options, "--from", flow_run, "--out", tmp_path / "tuned"]
    done = here(*call)
    assert done.status == 0, done.err
    assert "starting from" in done.out
    assert here(*call, "--resume").status == 0
    done = here(*call[:-4], "--out", tmp_path / "tuned", "--resume")
    assert done.status == 2
    assert f"was started with --from {flow_run}, not nothing" in done.err
    # the option may stand before the recipe
    done = here("train", "--from", flow_run, "digits", *options, "--out", tmp_path / "other")
    assert done.status == 0, done.err


def test_velocity_head_and_guidance_inputs_of_the_transformer() -> None:
    torch.manual_seed(1)
    model = af.DiT((1, 4, 4), patch=2, depth=3, width=16, heads=2, classes=3, guidance=True, velocity_head=2)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    z, r, t = torch.randn(5, 1, 4, 4), torch.rand(5) / 2, torch.rand(5) / 2 + 0.5
    labels = torch.tensor([0, 1, 2, 0, 1])
    cond = af.Cond(labels=labels, guidance=guidance_setting(5, 3.0, (0.2, 0.7)))
    u, v = model(z, r, t, cond, velocity=True)
    assert torch.equal(u, model(z, r, t, cond))
    assert not torch.allclose(u, v)
    assert torch.equal(
        model(z, r, t, af.Cond(labels=labels)), model(z, r, t, cond.replace(guidance=guidance_setting(5, 1.0)))
    )
    for other in ((2.0, (0.2, 0.7)), (3.0, (0.1, 0.7)), (3.0, (0.2, 0.8))):
        changed = cond.replace(guidance=guidance_setting(5, *other))
        assert not torch.allclose(u, model(z, r, t, changed))
    # the head shares the first block only: with the last two and its own last layer copied over it gives u
    model.velocity_blocks.load_state_dict(model.blocks[1:].state_dict())
    model.velocity_final.load_state_dict(model.final.state_dict())
    u, v = model(z, r, t, cond, velocity=True)
    assert torch.equal(u, v)
    assert "guidance=True, velocity_head=2" in repr(model)
    with pytest.raises(ValueError, match="velocity head"):
        af.DiT((1, 4, 4), depth=2, width=16, heads=2, velocity_head=3)
