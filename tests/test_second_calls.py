"""State where nobody expects any: second calls, second instances, second threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions, identity
from torch import nn

import alphaflow as af
from alphaflow.data.listing.entry import Entry
from alphaflow.data.listing.listing import Listing
from alphaflow.data.per_process import PerProcess


class Black(ImageTransform):
    """Pictures that no file holds."""

    def __call__(self, entry: Entry, variant: int) -> Any:
        return np.zeros((4, 4, 3), np.uint8), {"source": entry.name}


def test_moments_that_were_merged_stay_as_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(50, 3, dtype=torch.float64, generator=generator) for _ in range(3)]
    first, second, third = (af.metrics.RunningMoments() for _ in sets)
    for moments, features in zip((first, second, third), sets, strict=True):
        moments.add(features)
    alone = second.moments()
    total = af.metrics.RunningMoments()
    for moments in (second, first, third):  # the second is the first that is taken in
        total.merge(*moments.parts())
    again = second.moments()
    assert torch.equal(again.mean, alone.mean)
    assert torch.equal(again.covariance, alone.covariance)
    whole = torch.cat(sets)
    assert torch.allclose(total.moments().covariance, torch.cov(whole.T), rtol=1e-12)


def test_threads_of_a_process_share_what_it_makes() -> None:
    def slow() -> object:
        time.sleep(0.05)
        return object()

    for _ in range(3):
        own, found = PerProcess(slow), []
        threads = [threading.Thread(target=lambda own=own, found=found: found.append(own())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(one) for one in found}) == 1
        assert own() is found[0]


def test_streams_are_shared_out_once(tmp_path: Path) -> None:
    entries = [Entry(str(i), "", i % 2) for i in range(8)]
    encode(
        Listing(Path("none"), "images", entries, ["a", "b"]), tmp_path, af.Pixels(), Black(4), EncodeOptions(workers=0)
    )
    urls = [str(file) for file in tmp_path.glob("*.tar")]
    stream = af.RemoteShards(urls, tmp_path / "dataset.json", batch_size=8)
    for _ in range(2):
        stream.share(0, 2)
        assert stream.batch_size == 4
    with pytest.raises(af.UserError, match="can't be shared out"):
        stream.share(0, 4)


class Pair(af.Autoencoder):
    """An autoencoder of two networks."""

    def __init__(self, second: float) -> None:
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        for network, value in ((self.first, 1.0), (self.second, second)):
            nn.init.constant_(network.weight, value)
            nn.init.zeros_(network.bias)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (3, size, size)


def test_an_autoencoders_identity_is_of_all_its_networks() -> None:
    assert identity(Pair(1.0)) == identity(Pair(1.0))
    assert identity(Pair(1.0)) != identity(Pair(2.0))


def test_one_evaluation_for_two_recipes_measures_each_against_its_own_data() -> None:
    class Dark(af.Digits):
        """The same digits, fainter."""

        def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
            batch = super().fetch(indices, generator)
            return af.Batch(batch.x * 0.1 - 0.9, batch.cond)

    evaluation, model = (
        af.TrainingEvaluation(1, count=50),
        af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10),
    )
    settings: dict[str, Any] = {"model": model, "objective": af.FlowMatching(), "steps": 1, "samplers": (af.ODE(1),)}
    recipes = [af.Recipe(dataset=data, **settings) for data in (af.Digits(batch_size=16), Dark(batch_size=16))]
    shared = [evaluation(recipe, model, torch.device("cpu")) for recipe in (*recipes, recipes[0])]
    apart = [
        af.TrainingEvaluation(1, count=50)(recipe, model, torch.device("cpu")) for recipe in (*recipes, recipes[0])
    ]
    assert shared == apart
    assert shared[0] != shared[1]


def test_a_condition_that_a_network_ignores_is_an_error() -> None:
    """It would be trained without what was asked for."""
    x, t = torch.zeros(2, 1, 8, 8), torch.ones(2)
    for guidance in (False, True):
        model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10, guidance=guidance)
        labels = torch.tensor([1, -1])
        model(x, t, t, af.Cond(labels=labels))
        with pytest.raises(ValueError, match=r"this DiT takes labels.*, not 'text'"):
            model(x, t, t, af.Cond(labels=labels, text=torch.zeros(2, 3)))
        if not guidance:
            with pytest.raises(ValueError, match="not 'guidance'"):
                model(x, t, t, af.Cond(labels=labels, guidance=torch.ones(2, 3)))


def test_a_reference_without_pictures_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="n ≥ 1"):
        af.evaluate(af.InMemorySamples(some), af.InMemorySamples(some[:0]), metrics=("pixel-fd",), device="cpu")
    with pytest.raises(af.UserError):
        af.evaluate(af.InMemorySamples(some), tmp_path, metrics=("pixel-fd",), device="cpu")
