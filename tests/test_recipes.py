"""Every built-in recipe builds and trains, on real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import alphaflow as af
from alphaflow.recipe_files import builtin_recipes, builtin_source
from alphaflow.runs.generation import text_rows
from alphaflow.runs.labels import balanced_labels

RECIPES = (
    "captioned_digits", "cifar10", "digits", "imagenet256", "imagenet256_from_flow", "kinetics700", "moving_digits",
    "pen_digits", "upscale_digits",
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


@pytest.mark.parametrize("start", ["image", "noise"])
@pytest.mark.parametrize("method", ["alpha-flow", "flow-matching"])
def test_upscale_digits(method: str, start: str, tmp_path: Path) -> None:
    """The source is what the samples start from, of a run that was trained and opened again, too."""
    recipe = af.find_recipe("upscale-digits")(method=method, start=start, steps=2, batch_size=4)
    batch = recipe.dataset.indexed.all()
    assert len(batch.x) == 1500
    blocks = batch.x.view(-1, 4, 2, 4, 2).mean((2, 4))
    assert torch.nn.functional.avg_pool2d(batch.cond.image, 2)[:, 0].sub(blocks).abs().mean() < 0.15
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    run, image, noise = af.Run(tmp_path / "run", device="cpu"), batch.cond.image[:3], torch.randn(3, 1, 8, 8)
    found = run.sample(cond=af.Cond(image=image), noise=noise, dtype=torch.float32)
    x1 = image + 0.5 * noise if start == "image" else noise
    assert torch.allclose(found, run.sampler(1)(run.model, x1, af.Cond(image=image)), atol=1e-6)


def test_captioned_digits(tmp_path: Path) -> None:
    """Each digit goes with every sentence that means it and is not left out; a run is sampled by a sentence."""
    recipe = af.find_recipe("captioned-digits")(steps=2, batch_size=4)
    digits, batch = af.Digits().all(), recipe.dataset.indexed.all()
    assert digits.cond.labels is not None
    means = {digit.numpy().tobytes(): int(label) for digit, label in zip(digits.x, digits.cond.labels, strict=True)}
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    said = set()
    for x, tokens, mask in list(zip(batch.x, batch.cond.tokens, batch.cond.mask, strict=True))[::37]:
        text = bytes(tokens[mask].tolist()).decode()
        said.add(text)
        number = words.index(text.split()[-1])
        more = 1 if "after" in text or "follows" in text or "more" in text else -1 if "before" in text else 0
        more = -1 if "less" in text else more
        assert means[x.numpy().tobytes()] == number + more, text
    assert {"a seven", "what follows six"} <= said
    assert "the number after six" not in said
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    run = af.Run(tmp_path / "run", device="cpu")
    tokens, mask = af.ByteText(length=24).encode(["the number after six"] * 2)
    cond = af.Cond(tokens=tokens, mask=mask)
    assert run.sample(cond=cond).shape == (2, 1, 8, 8)
    said, _ = text_rows(run, "the number after six").read(0, 2)  # by what run.json says of the data's text
    assert torch.equal(said.tokens, tokens)
    assert torch.equal(said.mask, mask)
    with pytest.raises(af.UserError, match="24 are the most"):
        text_rows(run, "the number that comes after six")


def test_pen_digits(tmp_path: Path) -> None:
    recipe = af.find_recipe("pen-digits")(steps=2, batch_size=4, width=16, depth=1)
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    strokes = af.Run(tmp_path / "run", device="cpu").sample(3)
    assert (strokes.shape, strokes.dtype) == ((3, 2, 8), torch.float32)


def test_names_with_dashes_and_modules() -> None:
    assert af.find_recipe("digits").name == "digits"
    assert af.find_recipe("alphaflow.recipes.digits:recipe").function.__name__ == "recipe"


@pytest.mark.slow
def test_cifar10(real_data: Path, tmp_path: Path) -> None:
    recipe = af.find_recipe("cifar10")(data=real_data / "cifar10-test.zip", size=16, steps=2, batch_size=4)
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    run = af.Run(tmp_path / "run", device="cpu")
    assert run.sample(3).shape == (3, 3, 16, 16)
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
