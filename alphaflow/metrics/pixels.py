"""Metrics on raw pixels: they need no pretrained network, and say little beyond small images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.base import to_unit
from ..errors import UserError
from ..types import Labels
from .frechet import Features, Moments, frechet_distance
from .neighbours import label_agreement, precision_recall

METRICS = {
    "pixel-fd": "Fréchet distance between pixels in [-1, 1]; lower is better",
    "pr": "precision and recall by nearest neighbours of pixels (k = 3)",
    "agreement": "share of samples whose 5 nearest real images vote for the sample's label",
}
"""The metrics' names on the command line, and what they are."""

MIN_IMAGES = 10
"""Fewer images than this are not measured."""

MAX_VALUES = 4096
"""Pixels × channels up to which the pixel Fréchet distance is measured: its covariances have that many rows."""

MAX_NEIGHBOURS = 10_000
"""Precision and recall compare at most this many images of a set: a random choice, seed 0."""


@dataclass(frozen=True)
class ImageSet:
    """Images and, where they have classes, their labels.

    Attributes:
        pixels: (n, c, h, w), 8-bit.
        labels: (n,), or None.
    """

    pixels: Tensor
    labels: Labels | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> ImageSet:
        return ImageSet(self.pixels[index], None if self.labels is None else self.labels[index])

    def features(self) -> Features:
        """Pixels in [-1, 1] as vectors (n, c·h·w)."""
        return to_unit(self.pixels).flatten(1)

    def halves(self, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Two random halves."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[: len(self) // 2]], self[order[len(self) // 2 :]]


def measure(reference: ImageSet, samples: ImageSet, metrics: Sequence[str]) -> dict[str, float]:
    """Measures samples against a reference: name ↦ value.

    Args:
        reference: real images.
        samples: images of the same shape.
        metrics: names from `METRICS`. Without labels on either side, agreement is left out.

    Raises:
        UserError: an unknown metric, shapes that differ, or too few images.
    """
    check_metrics(metrics)
    if samples.pixels.shape[1:] != reference.pixels.shape[1:]:
        ours, theirs = _shape(samples), _shape(reference)
        raise UserError(f"the samples are {ours}, but the reference is {theirs}; give a reference of the same shape")
    for name, images in (("reference", reference), ("sample", samples)):
        if len(images) < MIN_IMAGES:
            raise UserError(f"metrics need at least {MIN_IMAGES} {name} images, got {len(images)}")
    real, fake = reference.features(), samples.features()
    if "pixel-fd" in metrics and real.shape[1] > MAX_VALUES:
        raise UserError(
            f"pixel-fd is for small images, of at most {MAX_VALUES} values; these have {real.shape[1]}: "
            "leave it out, for example --metrics pr,agreement"
        )
    values: dict[str, float] = {}
    if "pixel-fd" in metrics:
        values["pixel-fd"] = frechet_distance(Moments.of(real), Moments.of(fake))
    if "pr" in metrics:
        found = precision_recall(_at_most(real), _at_most(fake))
        values["precision"], values["recall"] = found.precision, found.recall
    if "agreement" in metrics and reference.labels is not None and samples.labels is not None:
        values["agreement"] = label_agreement(real, reference.labels, fake, samples.labels)
    if not values:
        raise UserError("agreement needs labels on both sides: images in class folders, or arr_1 in an .npz")
    return values


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises UserError where a metric is unknown."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise UserError(f"there is no metric {''.join(unknown[:1])!r}; choose from {', '.join(METRICS)}")


def _at_most(features: Features) -> Features:
    if len(features) <= MAX_NEIGHBOURS:
        return features
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MAX_NEIGHBOURS]]


def _shape(images: ImageSet) -> str:
    _, channels, height, width = images.pixels.shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
