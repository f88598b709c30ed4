"""Joint training on clips and images: the order of the kinds, labels, resuming, sharing out, and a real run."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ClipTransform, ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import alphaflow as af
from alphaflow.data.dataset import IndexedDataset, Indices
from alphaflow.data.listing.listing import list_files
from alphaflow.evaluation.sample_sets import GeneratedSamples
from alphaflow.media.clips import write_mp4

Torchrun = Callable[..., Any]


class Numbers(IndexedDataset):
    """Samples that are filled with their own number."""

    def __init__(self, shape: tuple[int, ...], names: list[str], count: int, batch_size: int, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self._shape, self.class_names, self.count = shape, names, count  # type: ignore[misc]

    class_names: list[str] = []  # noqa: RUF012

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> af.Batch:
        x = torch.from_numpy(indices).float().view(-1, *(1,) * len(self._shape)).expand(-1, *self._shape)
        cond = af.Cond(labels=torch.from_numpy(indices % len(self.class_names))) if self.class_names else af.Cond()
        return af.Batch(x, cond)


def mixture(share: float = 0.25, **names: list[str]) -> af.Mixture:
    clips = Numbers((2, 4, 4, 4), names.get("clips", ["run", "swim"]), 10, 4)
    images = Numbers((2, 4, 4), names.get("images", ["cat", "run", "dog"]), 7, 6, seed=1)
    return af.Mixture(clips, images, share)


def taken(data: af.Mixture, count: int) -> list[af.Batch]:
    return list(itertools.islice(iter(data), count))


@pytest.mark.parametrize("share", [0.25, 0.2, 1 / 3, 0.5, 0.9])
def test_kinds_alternate_with_an_exact_share(share: float) -> None:
    of_images = [batch.x.ndim == 4 for batch in taken(mixture(share), 60)]
    assert not of_images[0]  # what is built from a first batch sees a clip
    for n in range(1, 61):
        assert sum(of_images[:n]) == int(n * share)


def test_labels_are_by_name() -> None:
    """Of the clips first; an image class of the same name is the same class."""
    data = mixture(0.5)
    assert list(data.class_names) == ["run", "swim", "cat", "dog"]
    assert (data.classes, data.shape, data.batch_size) == (4, (2, 4, 4, 4), 4)
    for batch in taken(data, 6):
        numbers = batch.x.flatten(1)[:, 0].long()
        expected = torch.tensor([2, 0, 3])[numbers % 3] if batch.x.ndim == 4 else numbers % 2
        assert batch.cond.labels is not None
        assert torch.equal(batch.cond.labels, expected)


def test_a_kind_without_classes_has_none() -> None:
    for batch in taken(mixture(0.5, images=[]), 4):
        assert batch.cond.labels is not None
        assert bool((batch.cond.labels == af.NO_CLASS).all()) == (batch.x.ndim == 4)
    assert all(batch.cond.labels is None for batch in taken(mixture(0.5, images=[], clips=[]), 4))


def test_it_goes_on_at_the_very_next_batch() -> None:
    straight, stopped, again = mixture(), mixture(), mixture()
    expected = taken(straight, 30)[11:]
    taken(stopped, 11)
    again.load_state_dict(stopped.state_dict())
    for ours, theirs in zip(taken(again, 19), expected, strict=True):
        assert torch.equal(ours.x, theirs.x)


def test_processes_see_each_sample_once_and_the_same_kinds() -> None:
    parts = []
    for rank in range(2):
        data = mixture(0.5)
        data.share(rank, 2)
        parts.append(taken(data, 10))
    for mine, theirs, whole in zip(*parts, taken(mixture(0.5), 10), strict=True):
        assert mine.x.shape == theirs.x.shape
        both: Tensor = torch.cat([mine.x, theirs.x])
        assert sorted(both.flatten(1)[:, 0].tolist()) == sorted(whole.x.flatten(1)[:, 0].tolist())


def test_wrong_mixtures() -> None:
    clips, images = Numbers((2, 4, 4, 4), [], 5, 2), Numbers((2, 4, 4), [], 5, 2)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(af.UserError, match="share of batches"):
            af.Mixture(clips, images, share)
    with pytest.raises(af.UserError, match="of clips and images, in this order"):
        af.Mixture(images, clips)
    with pytest.raises(af.UserError, match="different autoencoders"):
        af.Mixture(clips, Numbers((3, 4, 4), [], 5, 2))

    class Encoded(Numbers):
        encoding = ("digest", af.Normalisation((0.0,), (1.0,)))

    with pytest.raises(af.UserError, match="different autoencoders"):
        af.Mixture(clips, Encoded((2, 4, 4), [], 5, 2))
    af.Mixture(Encoded((2, 4, 4, 4), [], 5, 2), Encoded((2, 4, 4), [], 5, 2))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of four clips and of six images, in pixels, (3, 4, 16, 16) and (3, 16, 16)."""
    place = tmp_path_factory.mktemp("mixture")
    generator = np.random.default_rng(0)
    for k in range(4):
        frames = torch.from_numpy(generator.integers(0, 256, (3, 4, 16, 16), dtype=np.uint8))
        (place / "clips" / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        write_mp4(frames, place / "clips" / f"c{k % 2}" / f"{k}.mp4", 8)
    for k in range(6):
        (place / "images" / f"i{k % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            place / "images" / f"i{k % 3}" / f"{k}.png"
        )
    options = EncodeOptions(workers=0)
    clips, images = ClipTransform(16, 4), ImageTransform(16)
    encode(list_files(place / "clips", "clips").mixed(), place / "video" / "train", af.Pixels(), clips, options)
    encode(list_files(place / "images", "images").mixed(), place / "image" / "train", af.Pixels(), images, options)
    return place


def test_data_know_their_rate(shards: Path) -> None:
    """Of shards here and elsewhere, and of a folder of clips: what was asked for, or what the files say."""
    files = [str(file) for file in sorted((shards / "video" / "train").glob("*.tar"))]
    stream = af.RemoteShards(files, shards / "video" / "train" / "dataset.json")
    folder = af.VideoFolder(shards / "clips", frames=4, size=16)
    assert af.LatentShards(shards / "video" / "train").fps == stream.fps == folder.fps == 8
    assert af.VideoFolder(shards / "clips", frames=2, size=16, fps=4).fps == 4
    assert af.LatentShards(shards / "image" / "train").fps is None
    assert stream.autoencoder == af.LatentShards(shards / "video" / "train").autoencoder == af.Pixels()


@pytest.mark.parametrize("factorised", [False, True])
def test_the_kinetics_recipe_trains_on_both(shards: Path, factorised: bool, tmp_path: Path) -> None:
    """The JVP phase on clips and on images; resuming equals going straight; the run samples clips."""

    def made() -> af.Recipe:
        torch.manual_seed(0)
        options: dict[str, Any] = {"method": "meanflow", "size": "s", "batch_size": 2, "steps": 4}
        found = af.find_recipe("kinetics700")(
            data=shards / "video", images=shards / "image", image_share=0.5, factorised=factorised, **options
        )
        object.__setattr__(found, "model", af.DiT(**{**found.model.config, "depth": 2, "width": 24, "heads": 2}))
        return found

    straight = af.Trainer(made(), out=tmp_path / "straight")
    assert isinstance(straight.recipe.dataset, af.Mixture)
    straight.fit()
    stopped = af.Trainer(made(), out=tmp_path / "stopped")
    for _ in range(3):
        stopped.train_step()
    stopped.save()
    resumed = af.Trainer(made(), out=tmp_path / "stopped", resume=True)
    resumed.fit()
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    run = af.Run(tmp_path / "straight", device="cpu")
    assert run.class_names == ["c0", "c1", "i0", "i1", "i2"]
    assert (run.classes, run.sampled_classes) == (5, 2)
    chosen = run.sample(4, labels=torch.tensor([0, 1, 0, 1]))
    assert torch.equal(run.sample(4), chosen)  # of the clips' classes
    assert GeneratedSamples(run, 1, 6).read(0, 6).labels.tolist() == [0, 1, 0, 1, 0, 1]  # type: ignore[union-attr]
    assert run.fps == 8
    assert run.sample(2).shape == (2, 3, 4, 16, 16)
    assert (tmp_path / "straight" / "samples" / "step-00000004.mp4").is_file()


BOTH = """
import alphaflow as af

def recipe(*, steps: int = 5) -> af.Recipe:
    clips = af.LatentShards({video!r}, batch_size=2, kind="clips")
    images = af.LatentShards({image!r}, batch_size=2, kind="images")
    both = af.Mixture(clips, images, 0.5)
    size = dict(patch=(1, 8, 8), depth=1, width=16, heads=2, classes=both.classes)
    model = af.DiT(clips.shape, factorised=True, **size)
    samplers = (af.ODE(1),)
    return af.Recipe(model=model, objective=af.MeanFlow(), dataset=both, samplers=samplers, steps=steps, lr=1e-3)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torchrun and gloo are tested on Linux")
def test_two_processes_train_on_both(torchrun: Torchrun, shards: Path, tmp_path: Path) -> None:
    """Attention across frames has no gradient of images: two processes still train."""
    file = tmp_path / "both.py"
    file.write_text(BOTH.format(video=str(shards / "video" / "train"), image=str(shards / "image" / "train")))
    done = torchrun(2, "-m", "alphaflow", "train", file, "--out", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000005" / "model.safetensors")
    assert saved["blocks.0.time_modulation.weight"].norm() > 0  # it starts at zero


def test_a_recipe_of_the_other_kind_says_so(shards: Path) -> None:
    with pytest.raises(af.UserError, match="is not a folder of shards; encode videos into it first"):
        af.find_recipe("kinetics700")(data=shards / "none")
    with pytest.raises(af.UserError, match=r"holds images, \(3, 16, 16\), and clips are wanted"):
        af.find_recipe("kinetics700")(data=shards / "image")
    with pytest.raises(af.UserError, match=r"holds clips, \(3, 4, 16, 16\), and images are wanted"):
        af.find_recipe("imagenet256")(data=shards / "video")
    with pytest.raises(af.UserError, match="holds clips, and images are wanted"):
        af.find_recipe("cifar10")(data=shards / "clips")
    with pytest.raises(af.UserError, match="holds images, and clips are wanted"):
        af.VideoFolder(shards / "images")
    with pytest.raises(af.UserError, match="holds images, and clips are wanted"):
        list_files(shards / "images", "clips")
    with pytest.raises(af.UserError, match="holds clips, and images are wanted"):
        list_files(shards / "clips", "images")
