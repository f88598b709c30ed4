"""The metrics by name: what each compares, in which features, and what it is called in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError, near
from ..features.builtin import CLIPS_ONLY, MOTION, PAIRS, PIXELS, RANDOM, SHRUNK
from ..features.extractors import EXTRACTORS, by_frame

MetricFamily = Literal["fd", "is", "kid", "pr", "agreement", "motion", "sliced", "energy", "pairs"]


@dataclass(frozen=True)
class MetricOutput:
    """One number of a result.

    Attributes:
        name: name in JSON and CSV.
        title: heading in a table.
        form: how a table prints it.
    """

    name: str
    title: str
    form: str = "{:.3f}"

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        return "↑" in self.title


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        family: Fréchet distance, Inception Score, kernel distance, precision and recall, agreement of labels, motion,
            sliced Wasserstein distance, energy distance, samples against their truths.
        extractor: the extractor whose features it compares.
        about: what it is, for help pages.
        values: what it gives.
    """

    family: MetricFamily
    extractor: str
    about: str
    values: tuple[MetricOutput, ...]

    @property
    def video(self) -> bool:
        """Whether it is for clips only."""
        return self.extractor in CLIPS_ONLY or (self.extractor in EXTRACTORS and EXTRACTORS[self.extractor].video)

    @property
    def floats(self) -> bool:
        """Whether it is also for samples that are no pictures."""
        return self.extractor == PIXELS or self.values == METRICS["mse"].values

    @property
    def by_frame(self) -> bool:
        """Whether it looks at clips frame by frame (`features.extractors.by_frame`)."""
        return by_frame(self.extractor)


def _pr(prefix: str = "") -> tuple[MetricOutput, ...]:
    return tuple(
        MetricOutput(f"{prefix}{name}", f"{prefix.replace('-', ' ')}{name} ↑") for name in ("precision", "recall")
    )


METRICS: Mapping[str, Metric] = {
    "fid": Metric("fd", "inception", "Fréchet Inception distance", (MetricOutput("fid", "FID ↓"),)),
    "is": Metric(
        "is",
        "inception",
        "Inception Score, 10 splits",
        (MetricOutput("is", "IS ↑"), MetricOutput("is_std", "± splits")),
    ),
    "kid": Metric(
        "kid",
        "inception",
        "kernel Inception distance, 100 subsets, each of 1,000 by default",
        (MetricOutput("kid", "KID ↓", "{:.5f}"), MetricOutput("kid_std", "± subsets", "{:.5f}")),
    ),
    "pr": Metric("pr", "inception", "improved precision and recall, k = 3, as ADM has them", _pr()),
    "fdd": Metric(
        "fd", "dinov2", "Fréchet distance in DINOv2's features, FD-DINOv2", (MetricOutput("fdd", "FD-DINOv2 ↓"),)
    ),
    "clip-fd": Metric("fd", "clip", "Fréchet distance in CLIP's features", (MetricOutput("clip-fd", "CLIP-FD ↓"),)),
    "vgg-pr": Metric("pr", "vgg16", "improved precision and recall in VGG-16, torch-fidelity's choice", _pr("vgg-")),
    "fvd": Metric("fd", "i3d", "Fréchet video distance, 16 frames", (MetricOutput("fvd", "FVD ↓"),)),
    "cd-fvd": Metric(
        "fd", "videomae", "content-debiased FVD, in VideoMAE-v2's features", (MetricOutput("cd-fvd", "CD-FVD ↓"),)
    ),
    "pixel-fd": Metric(
        "fd", PIXELS, "Fréchet distance of the pixels themselves", (MetricOutput("pixel-fd", "pixel FD ↓"),)
    ),
    "pixel-pr": Metric("pr", PIXELS, "precision and recall of the pixels themselves", _pr("pixel-")),
    "agreement": Metric(
        "agreement",
        PIXELS,
        "samples whose 5 nearest real ones, by pixels, vote for their label",
        (MetricOutput("agreement", "agreement ↑", "{:.4f}"),),
    ),
    "shrunk-fd": Metric(
        "fd",
        SHRUNK,
        "Fréchet distance of clips shrunk to 8 grey frames of 8 × 8 pixels; not FVD",
        (MetricOutput("shrunk-fd", "shrunk-pixel FD (not FVD) ↓"),),
    ),
    "random-fd": Metric(
        "fd",
        RANDOM,
        "Fréchet distance in features of convolutions with random weights; not FID, not FVD",
        (MetricOutput("random-fd", "random-feature FD (not FID, not FVD) ↓", "{:.5f}"),),
    ),
    "motion": Metric(
        "motion",
        MOTION,
        "1-Wasserstein distances of frame-difference energy and of the centroid's speed, each ÷ the real mean",
        (MetricOutput("motion-energy", "motion energy W1 ↓"), MetricOutput("motion-speed", "motion speed W1 ↓")),
    ),
    "sliced-wasserstein": Metric(
        "sliced",
        PIXELS,
        "mean 1-Wasserstein distance along 256 random directions (seed 0) of the samples' values",
        (MetricOutput("sliced-wasserstein", "sliced W1 ↓", "{:.5f}"),),
    ),
    "energy": Metric(
        "energy",
        PIXELS,
        "energy distance of the samples' values, unbiased: about 0 for equal distributions, and then of either sign",
        (MetricOutput("energy", "energy distance ↓", "{:.5f}"),),
    ),
    "mse": Metric(
        "pairs",
        PAIRS,
        "mean squared error against each sample's truth; of pixels in [-1, 1]",
        (MetricOutput("mse", "MSE ↓", "{:.5f}"),),
    ),
    "psnr": Metric(
        "pairs",
        PAIRS,
        "peak signal-to-noise ratio against each sample's truth, 8 bits, at most 100 dB, mean over samples",
        (MetricOutput("psnr", "PSNR ↑", "{:.2f}"),),
    ),
    "ssim": Metric(
        "pairs",
        PAIRS,
        "structural similarity with each sample's truth, 11 × 11 Gaussian window (or the largest that fits), 8 bits",
        (MetricOutput("ssim", "SSIM ↑", "{:.4f}"),),
    ),
}
"""The metrics by their names on the command line."""

FRAME = "frame-"
"""Before a value's name: an image metric, on every frame of clips."""

OUTPUTS: Mapping[str, MetricOutput] = {value.name: value for metric in METRICS.values() for value in metric.values} | {
    FRAME + value.name: MetricOutput(FRAME + value.name, f"{value.title}, frames", value.form)
    for metric in METRICS.values()
    if metric.by_frame
    for value in metric.values
}
"""All numbers that there are, in a table's order."""


def value_names(metric: str, shape: Sequence[int]) -> list[str]:
    """What a metric's numbers are called for samples (c, h, w), or clips (c, f, h, w)."""
    frames = len(shape) == 4 and METRICS[metric].by_frame
    return [FRAME * frames + value.name for value in METRICS[metric].values]


MAX_PIXELS = 4096
"""Values of a sample up to which pixels are compared by default, and Fréchet distances between them measured."""


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises UserError where a metric is unknown, or there is none."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        name = "".join(unknown[:1])
        raise UserError(f"there is no metric {name!r}; {near(name, METRICS) or 'choose from ' + ', '.join(METRICS)}")


def default_metrics(shape: Sequence[int], pictures: bool = True, truths: bool = False) -> tuple[str, ...]:
    """What is measured of samples (c, h, w) or (c, f, h, w) unless one says: FID and IS, or FVD.

    Pixels for pictures under 32 pixels a side, for which no published network is meant; sliced Wasserstein and energy
    distance of what is no picture. First of all the error, where there are truths to compare with one by one.
    """
    if truths:
        return (*(("psnr", "ssim") if pictures else ("mse",)), *default_metrics(shape, pictures))
    if not pictures:
        return ("sliced-wasserstein", "energy")
    if min(shape[-2:]) < 32 and math.prod(shape) <= MAX_PIXELS:
        return ("pixel-fd", "pixel-pr", "agreement", *(["motion"] if len(shape) == 4 and shape[1] > 1 else []))
    return ("fid", "is") if len(shape) == 3 else ("fvd",)
