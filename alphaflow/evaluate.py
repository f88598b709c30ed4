"""Evaluation: a run at several numbers of network evaluations, or images on disk, against real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .data.base import IndexedDataset, to_bytes
from .data.images import Mode, image_mode
from .data.labels import balanced_labels
from .data.written import read_images
from .errors import UserError
from .metrics.pixels import MIN_IMAGES, ImageSet, check_metrics, measure
from .printing import Compact
from .recipe import Recipe
from .run import Guide, Run

MAX_REFERENCE = 100_000
"""Training samples up to which a run's own data are the reference."""


@dataclass(frozen=True)
class Reference:
    """Real images to measure against.

    Attributes:
        images: with labels where there are classes.
        class_names: by label.
        name: where they come from.
    """

    images: ImageSet
    class_names: Sequence[str]
    name: str

    @staticmethod
    def of_run(run: Run) -> Reference:
        """The data that a run was trained on, in order and without augmentation.

        Raises:
            UserError: the data is no image set that can be read whole.
        """
        dataset = run.recipe().dataset
        if not isinstance(dataset, IndexedDataset) or len(dataset.shape) != 3:
            raise UserError("the run's data can't serve as a reference; give a folder of real images with --reference")
        if len(dataset) > MAX_REFERENCE:
            raise UserError(
                f"the run's {len(dataset)} training samples are too many to hold in memory; "
                "give a folder of real images with --reference"
            )
        batches = list(dataset.once())
        draw = torch.Generator().manual_seed(0)
        pixels = torch.cat([to_bytes(run.autoencoder.decode(batch.drawn(draw).x)) for batch in batches])
        found = [batch.cond.labels for batch in batches if batch.cond.labels is not None]
        labels = torch.cat(found) if found else None
        return Reference(ImageSet(pixels, labels), dataset.class_names, "the run's training data")

    @staticmethod
    def of_path(path: Path, size: int | None = None, mode: Mode | None = None) -> Reference:
        """Images on disk: a folder, a zip, or an .npz (`alphaflow.data.written.read_images`)."""
        pixels, names = read_images(path, size, mode)
        distinct = sorted(set(names or []))
        index = {name: i for i, name in enumerate(distinct)}
        labels = None if names is None else torch.tensor([index[name] for name in names])
        return Reference(ImageSet(pixels, labels), distinct, str(path))

    def labels_of(self, names: Sequence[str] | None) -> torch.Tensor | None:
        """Class names as this reference's labels (n,): by name, or by number where names are indices.

        None where that isn't possible for every one.
        """
        if names is None or not self.class_names:
            return None
        index = {name: i for i, name in enumerate(self.class_names)}
        if all(name in index for name in names):
            return torch.tensor([index[name] for name in names])
        if all(name.isdecimal() and int(name) < len(index) for name in names):
            return torch.tensor([int(name) for name in names])
        return None


@dataclass(frozen=True)
class Measured:
    """One row of a result.

    Attributes:
        name: what was measured.
        nfe: network evaluations a sample, None where that isn't known.
        count: how many images.
        values: metric ↦ value.
    """

    name: str
    nfe: int | None
    count: int
    values: dict[str, float]


def evaluate_run(
    run: Run,
    reference: Reference,
    nfes: Sequence[int],
    count: int,
    seed: int,
    metrics: Sequence[str],
    guidance: Guide | None = None,
) -> list[Measured]:
    """Samples a run at each number of evaluations, from the same noise and balanced labels, and measures it."""
    check_metrics(metrics)
    samplers = [run.sampler(nfe, guidance) for nfe in nfes]
    labels = balanced_labels(count, run.classes) if run.classes else None
    names = None if labels is None else [run.class_names[int(label)] for label in labels]
    rows = []
    for nfe, sampler in zip(nfes, samplers, strict=True):
        samples = run.sample(count, nfe, labels=labels, seed=seed, guidance=guidance)
        images = ImageSet(samples, reference.labels_of(names))
        scale = f", guidance {guidance.scale:g}" if guidance is not None and run.takes_guidance else ""
        rows.append(Measured(f"{sampler}{scale}", nfe, count, measure(reference.images, images, metrics)))
    return rows


@dataclass(frozen=True, repr=False)
class Evaluation(Compact):
    """Measures samples during training against the training data: ``Trainer(recipe, evaluation=Evaluation(1000))``.

    Its values, ``pixel-fd_1`` and so on (the metric and the network evaluations a sample), stand in metrics.jsonl as
    ``eval/pixel-fd_1`` and in the manifest of the next checkpoint, for ``Keep(best="pixel-fd_1")``.

    Args:
        every: steps between measurements; the last step is measured too.
        nfes: network evaluations a sample.
        count: samples.
        metrics: names of METRICS.
        seed: of the noise.
    """

    every: int
    nfes: tuple[int, ...] = (1,)
    count: int = 1000
    metrics: tuple[str, ...] = ("pixel-fd",)
    seed: int = 0
    _reference: list[Reference] = field(default_factory=list, init=False, compare=False)

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        if self.every < 1 or self.count < MIN_IMAGES:
            raise ValueError(f"Evaluation needs every >= 1 and count >= {MIN_IMAGES}, got {self}")

    def __call__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> dict[str, float]:
        """What is measured of this network."""
        run = Run.of(recipe, model, device)
        if not self._reference:
            self._reference.append(Reference.of_run(run))
        rows = evaluate_run(run, self._reference[0], self.nfes, self.count, self.seed, self.metrics)
        return {f"{name}_{row.nfe}": value for row in rows for name, value in row.values.items()}


def evaluate_images(path: Path, reference: Reference, metrics: Sequence[str], size: int | None = None) -> Measured:
    """Measures images on disk."""
    pixels, names = read_images(path, size, image_mode(reference.images.pixels.shape[1]))
    images = ImageSet(pixels, reference.labels_of(names))
    return Measured(str(path), None, len(images), measure(reference.images, images, metrics))


def real_halves(reference: Reference, metrics: Sequence[str]) -> Measured | None:
    """One random half of the reference measured against the other: what chance alone makes of real images.

    None where the halves are too small to measure.
    """
    if len(reference.images) < 2 * MIN_IMAGES:
        return None
    first, second = reference.images.halves()
    return Measured("real halves", None, len(first), measure(second, first, metrics))
