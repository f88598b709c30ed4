"""Every built-in recipe builds and trains, on real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import alphaflow as af
from alphaflow.recipe_files import builtin_recipes, builtin_source
from alphaflow.runs.labels import balanced_labels

RECIPES = (
    "captioned_digits", "cifar10", "digits", "imagenet256", "kinetics700", "moving_digits", "pen_digits",
    "upscale_digits",
)  # fmt: skip


def test_every_recipe_is_short_and_explains_itself() -> None:
    found = builtin_recipes()
    assert set(found) == set(RECIPES)
    for name, summary in found.items():
        assert 20 < len(summary) <= 120
        source = builtin_source(name)
        assert len(source.splitlines()) <= 40
        imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
        assert all(line in ("import alphaflow as af", "from pathlib import Path", "from typing import Literal")
                   for line in imports), imports  # fmt: skip


@pytest.mark.parametrize("method", ["alpha-flow", "mean-flow", "flow-matching"])
def test_digits(method: str) -> None:
    recipe = af.find_recipe("digits")(method=method, steps=3, batch_size=16, width=32, depth=1)
    trainer = af.Trainer(recipe)
    before = [parameter.clone() for parameter in recipe.model.parameters()]
    trainer.fit()
    changed = [not torch.equal(a, b) for a, b in zip(before, recipe.model.parameters(), strict=True)]
    assert any(changed)
    assert trainer.step == 3


@pytest.mark.parametrize("method", ["alpha-flow", "mean-flow", "flow-matching"])
def test_moving_digits(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rendered, encoded, trained on, opened and sampled, through the command line's names."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    found = af.find_recipe("moving-digits")
    assert found.name == "moving_digits"
    recipe = found(cache=cache, digits=20, method=method, steps=3, batch_size=4, width=32, depth=1)
    assert recipe.dataset.shape == (1, 8, 12, 12)
    out = tmp_path_factory.mktemp("run") / "moving"
    af.Trainer(recipe, out=out, device="cpu").fit()
    run = af.Run(out, device="cpu")
    assert run.sample(2).shape == (2, 1, 8, 12, 12)
    assert (run.fps, len(run.class_names)) == (8, 10)


def test_names_with_dashes_and_modules() -> None:
    assert af.find_recipe("digits").name == "digits"
    assert af.find_recipe("alphaflow.recipes.digits:recipe").function.__name__ == "recipe"


@pytest.mark.slow
def test_cifar10(real_data: Path, tmp_path: Path) -> None:
    recipe = af.find_recipe("cifar10")(data=real_data / "cifar10-test.zip", steps=2, batch_size=4)
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    run = af.Run(tmp_path / "run", device="cpu")
    assert run.sample(3).shape == (3, 3, 32, 32)
    assert run.class_names[0] == "airplane"


@pytest.mark.slow
def test_digits_learn_in_three_hundred_steps() -> None:
    """A short run already makes digits in one step that their neighbours recognise."""
    torch.manual_seed(0)
    recipe = af.find_recipe("digits")(steps=300, batch_size=64)
    trainer = af.Trainer(recipe)
    trainer.fit()
    labels = balanced_labels(500, 10)
    noise = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    samples = af.ODE(1)(trainer.ema.model, noise, af.Cond(labels=labels)).clamp(-1, 1).flatten(1)
    real = af.Digits().all()
    assert real.cond.labels is not None
    assert af.metrics.label_agreement(real.x.flatten(1), real.cond.labels, samples, labels) > 0.8
    assert af.metrics.frechet_distance(af.metrics.Moments.of(real.x.flatten(1)), af.metrics.Moments.of(samples)) < 4
