"""Where pictures and clips are measured from: folders, zips, arrays, shards, a run. All are read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..data.array_data import Arrays
from ..data.arrays import names_in
from ..data.dataset import IndexedDataset, names_of_classes
from ..data.decoding.images import Mode
from ..data.digits import Digits
from ..data.folders import ImageFolder, VideoFolder
from ..data.latent_shards import LatentShards
from ..data.listing.endings import Modality
from ..data.listing.listing import kind_of
from ..data.shard_description import DATASET
from ..errors import UserError
from ..features.networks import FRAMES
from ..guidance import CFG
from ..pixel_values import finished, finite, is_picture_shape
from ..runs.condition_rows import ConditionRows
from ..runs.pipeline import Pipeline
from ..types import Labels
from .float_samples import holds_floats, read_floats
from .npz_samples import NpzSamples
from .sample_set import SampleBatch, SampleSet

BUILT_IN: dict[str, Callable[[], IndexedDataset]] = {"digits": Digits}
"""Data sets that come with the package, by name."""


class InMemorySamples(SampleSet):
    """Samples in memory: ``af.evaluate(af.InMemorySamples(pixels), "real.npz", metrics=("fid",))``.

    Args:
        pixels: 8-bit (n, c, h, w), or clips (n, c, f, h, w); or floats (n, …) of any shape, which are no pictures.
        labels: (n,), or None.
        class_names: class names by label; None for their numbers.
        name: what a table calls them.

    Raises:
        ValueError: something else, or a sample that is not finite.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Labels | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "images",
    ) -> None:
        shape = tuple(pixels.shape)
        self.pictures = not pixels.is_floating_point()
        right = pixels.dtype == torch.uint8 and is_picture_shape(shape[1:]) if self.pictures else len(shape) > 1
        if not right or not len(pixels):
            raise ValueError(
                f"samples are 8-bit (n ≥ 1, 1 or 3, …, h, w), or floats (n ≥ 1, …); got {pixels.dtype} {shape}"
            )
        self.pixels = pixels if self.pictures else finite(pixels)
        self.labels = labels
        self.name = name
        self.shape = tuple(pixels.shape[1:])
        known = 0 if labels is None else int(labels.max()) + 1
        self.class_names = [str(i) for i in range(known)] if class_names is None else class_names

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads, or generates, the samples ``start`` … ``stop`` − 1."""
        return SampleBatch(start, self.pixels[start:stop], None if self.labels is None else self.labels[start:stop])


class DecodedDataset(SampleSet):
    """A data set of pixels, of latents, which are decoded: their means, where they have a posterior; or of anything.

    What is no picture, once decoded, stays floats (`is_picture_shape`).

    Args:
        dataset: a dataset of known length.
        name: where it comes from.
        autoencoder: decodes; None where samples are pixels.
        device: device to decode on.
        ahead: as `SampleSet` has it.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        name: str,
        autoencoder: Autoencoder | None = None,
        device: torch.device | None = None,
        *,
        ahead: bool = True,
    ) -> None:
        self.dataset = dataset
        self.name = name
        self._autoencoder = autoencoder
        self.ahead = ahead
        self._device = device
        self.class_names, self.fps = names_of_classes(dataset), dataset.fps
        self.shape = tuple(self._decoded(0, 1)[0].shape[1:])
        self.pictures = is_picture_shape(self.shape)

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads, or generates, the samples ``start`` … ``stop`` − 1."""
        x, labels = self._decoded(start, stop)
        return SampleBatch(start, finished(x, start, torch.uint8 if self.pictures else torch.float32), labels)

    def _decoded(self, start: int, stop: int) -> tuple[Tensor, Labels | None]:
        batch = self.dataset.fetch(np.arange(start, stop))
        x = batch.x if self._autoencoder is None else self._autoencoder.decode(batch.x.to(self._device))
        return x, batch.cond.labels


class GeneratedSamples(SampleSet):
    """What a run makes: every class equally often. Sample i is the same at every batch size but in one respect.

    (Consistency sampling draws its fresh noise batch by batch.)

    Args:
        run: opened.
        nfe: network evaluations a sample.
        count: samples.
        seed: seed of the noise.
        guidance: scale and interval, or None.
        rows: the conditions that sample i has from row i; None for none but labels.
        paired: whether the rows are the reference's.
        truths: the samples that the rows belong to are read too.
    """

    def __init__(
        self,
        run: Pipeline,
        nfe: int,
        count: int,
        seed: int = 0,
        guidance: CFG | None = None,
        *,
        rows: ConditionRows | None = None,
        paired: bool = False,
        truths: bool = False,
    ) -> None:
        self.run = run
        self.nfe = nfe
        self.count = count
        self.seed = seed
        self.guidance = guidance
        self.name = str(run.sampler(nfe, guidance))
        self.class_names = run.class_names if run.classes else ()
        self._rows, self.paired, self.truths = rows, paired, truths
        self.pictures = run.makes_pictures
        self.ahead = rows is None  # the data may be for one thread
        self._maker = run.maker(nfe, seed=seed, guidance=guidance)
        self.shape, self.fps = run.pixel_shape, run.fps

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads, or generates, the samples ``start`` … ``stop`` − 1."""
        given, truth = (None, None) if self._rows is None else self._rows.read(start, stop)
        cond = self.run.conditions(stop - start, cond=given, start=start)
        known = self.run.finished(truth, start) if self.truths and truth is not None else None
        return SampleBatch(start, self._maker(start, stop, cond), cond.labels, known)


def open_sample_set(
    target: Path | str,
    *,
    size: int | None = None,
    mode: Mode | None = None,
    frames: int = FRAMES,
    fps: float | None = None,
    kind: Modality | None = None,
    device: torch.device | None = None,
) -> SampleSet:
    """Pictures or clips by where they are.

    Args:
        target: a folder, a zip or tars of images or of clips, an .npz of samples (arr_0) or of data with conditions
            (`Arrays`), a folder of shards, or a data set's name.
        size: image files and clips are centre-cropped and scaled to it; None takes images as they are, clips at 224.
        mode: mode of files: ``"RGB"`` or ``"L"``; None takes ``"L"`` where every image file is greyscale.
        frames: number of frames to read from the middle of clips.
        fps: frames per second of clips; None takes their own.
        kind: what is wanted of files; None for what is there, if it isn't both.
        device: where shards' latents are decoded.

    Raises:
        UserError: nothing is there, or it can't be read.
    """
    path = Path(target)
    if str(target) in BUILT_IN and not path.exists():
        return DecodedDataset(BUILT_IN[str(target)](), str(target))
    if path.suffix == ".npy" or (path.suffix == ".npz" and holds_floats(path)):
        return read_floats(path)
    if path.suffix == ".npz":
        return DecodedDataset(Arrays(path), str(path)) if "x" in names_in(path) else NpzSamples(path)
    if (path / DATASET).is_file():
        shards = LatentShards(path)
        autoencoder = shards.autoencoder
        if autoencoder is None:
            raise UserError(
                f"{path} was encoded with your own autoencoder, which can't be loaded here; measure decoded images"
            )
        place = device or torch.device("cpu")
        return DecodedDataset(shards, str(path), autoencoder.on(place), place)
    if (kind or kind_of(path)) == "clips":
        clips = VideoFolder(path, frames=frames, size=size or 224, fps=fps, mode=mode or "RGB")
        return DecodedDataset(clips, str(path))
    return DecodedDataset(ImageFolder(path, size=size, mode=mode, memory=0), str(path))


def training_data(run: Pipeline) -> SampleSet:
    """The data that a run was trained on, in order and without augmentation.

    Raises:
        UserError: it is not of known length.
    """
    dataset = run.dataset().indexed
    if dataset is None:
        raise UserError("the run's data can't be read in order; give real images as `reference=`")
    decoder = None if run.autoencoder.plain else run.autoencoder
    name = "the run's training data"
    return DecodedDataset(dataset, name, decoder, run.device, ahead=False)  # it may be the user's, for one thread
