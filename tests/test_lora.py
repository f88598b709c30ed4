"""Low-rank adapters of peft in a `DiT`: its own tangent goes through them, and what they learned becomes a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

import alphaflow as af

peft = pytest.importorskip("peft")


def adapted(model: af.DiT) -> Any:
    """Adapters in the linear layers of its blocks; the embedding of jumps is trained as a whole."""
    layers = r".*blocks\.\d+\.(attention\.(qkv|out)|mlp\.(hidden|out)|modulation)"
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=layers, modules_to_save=["embed_jump"]))


def network() -> af.DiT:
    torch.manual_seed(0)
    model = af.DiT((1, 8, 8), patch=4, depth=2, width=32, heads=2, classes=10)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


def test_the_tangent_goes_through_adapters_and_they_can_be_merged() -> None:
    model = network().double()
    generator = torch.Generator().manual_seed(1)
    z, v = torch.randn(2, 5, 1, 8, 8, generator=generator, dtype=torch.float64)
    r, t = torch.rand(2, 5, generator=generator, dtype=torch.float64).sort(dim=0).values
    cond = af.Cond(labels=torch.arange(5))
    before = model(z, r, t, cond)
    lora = adapted(model)
    assert torch.equal(model(z, r, t, cond), before)
    for name, weight in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.2)
    along = af.Direction(v, torch.zeros(5).double(), torch.ones(5).double())
    assert af.derivative_of(model) == "its own tangent"
    u, found = model(z, r, t, cond, along=along)
    with sdpa_kernel(SDPBackend.MATH):
        _, wanted = torch.func.jvp(lambda *point: model(*point, cond), (z, r, t), tuple(along))
    assert not torch.allclose(u, before)
    assert (found - wanted).norm() / wanted.norm() < 1e-12
    merged = lora.merge_and_unload()
    assert merged.state_dict().keys() == af.DiT(**model.config).state_dict().keys()
    assert (merged(z, r, t, cond) - u).norm() / u.norm() < 1e-12


def test_training_and_a_run_of_the_merged_network(tmp_path: Path) -> None:
    """Only adapters and jumps move; the run opens with a like network, and merged weights are a start for others."""
    model = network()
    frozen = {name: weight.clone() for name, weight in model.state_dict().items()}
    lora = adapted(model)
    digits = af.Digits(batch_size=16, seed=1)
    parts: dict[str, Any] = {"dataset": digits, "samplers": (af.ODE(1),), "lr": 1e-2, "ema": 0.5}
    out = tmp_path / "run"
    af.Trainer(af.Recipe(model=model, objective=af.MeanFlow(), steps=4, **parts), out=out, display=None).fit()
    assert json.loads((out / "run.json").read_text())["model"] is None
    for name, weight in model.state_dict().items():
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        if "lora" not in name and "modules_to_save" not in name:
            assert torch.equal(weight, frozen[plain]), name
    assert any(weight.abs().sum() > 0 for name, weight in model.named_parameters() if "lora_B" in name)

    again = network()
    run = af.Run(out, model=(adapted(again), again)[1], device="cpu")
    assert run.sample(4, dtype=torch.float32).isfinite().all()
    with pytest.raises(af.UserError, match="give its network"):
        af.Run(out)
    with pytest.raises(af.UserError, match="its model is the user's own"):
        af.export(run, tmp_path / "exported")

    merged = lora.merge_and_unload()
    save_file(merged.state_dict(), tmp_path / "merged.safetensors")
    recipe = af.Recipe(model=network(), objective=af.MeanFlow(), steps=4, **parts)
    trainer = af.Trainer(recipe, start=tmp_path / "merged.safetensors", display=None)
    assert all(torch.equal(w, merged.state_dict()[name]) for name, w in trainer.model.state_dict().items())
