"""Two sets' statistics ↦ the metrics between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import UserError
from ..features.builtin import PAIRS, PIXELS, PairExtractor
from ..metrics.energy import energy_distance
from ..metrics.frechet import frechet_distance
from ..metrics.inception_score import Score
from ..metrics.kid import SIZE, kernel_distance
from ..metrics.neighbours import label_agreement, precision_recall
from ..metrics.wasserstein import sliced_wasserstein, wasserstein
from ..types import Labels
from .catalogue import MAX_PIXELS, METRICS, Metric, value_names
from .statistics import Space, Statistics

MIN_SAMPLES = 10
"""Fewer samples than this are not measured."""


def compare(
    real: Statistics, fake: Statistics, metrics: Sequence[str], kid_subset_size: int = SIZE
) -> dict[str, float]:
    """Measures samples against a reference: name ↦ value. Agreement is left out where a side has no labels.

    Args:
        real: statistics of the reference, with what the metrics need (`needs_of`).
        fake: statistics of the samples.
        metrics: names from METRICS.
        kid_subset_size: samples of each side in one of KID's subsets.

    Raises:
        UserError: sets that can't be compared.
    """
    check_weights(real, fake, metrics)
    values: dict[str, float] = {}
    for name in metrics:
        found = _measured(name, METRICS[name], real, fake, kid_subset_size)
        values |= dict(zip(value_names(name, fake.shape), found, strict=False))
    if not values:
        raise UserError("agreement needs labels on both sides: images in class folders, or arr_1 in an .npz")
    return values


def check_weights(real: Statistics, fake: Statistics, metrics: Sequence[str]) -> None:
    """Raises UserError where a reference's features were made with other weights."""
    for name in metrics:
        space, theirs = fake.spaces.get(METRICS[name].extractor), real.spaces.get(METRICS[name].extractor)
        if space is not None and theirs is not None and theirs.weights not in ("", space.weights):
            raise UserError(
                f"{name}: the reference was measured with the weights {theirs.weights[:8]}…, the samples with "
                f"{space.weights[:8]}…; give the same `weights=`, or make the reference again"
            )


def check_shapes(real: Sequence[int], fake: Sequence[int]) -> None:
    """Raises UserError where samples of this shape can't be compared; an unknown shape, (), goes with any."""
    if not real or tuple(real) == tuple(fake):
        return
    raise UserError(
        f"the samples are {_shape(fake)}, but the reference is {_shape(real)}; give a reference of the same shape"
    )


def check_kind(shape: Sequence[int], metrics: Sequence[str], pictures: bool = True) -> None:
    """Raises UserError where a metric is for pictures, or for clips, and these are none, or of one frame."""
    others = [] if pictures else [name for name in metrics if not METRICS[name].floats]
    if others:
        known = ", ".join(name for name, metric in METRICS.items() if metric.floats)
        raise UserError(f"{others[0]} is for pictures, and these samples are none; for them there are {known}")
    clips = [name for name in metrics if METRICS[name].video]
    if clips and len(shape) == 3:
        raise UserError(f"{clips[0]} is for clips, but these are pictures; leave it out")
    if "motion" in metrics and shape[1] == 1:
        raise UserError("motion is for clips of at least two frames, but these have one; leave it out")


def check_pixels(shape: Sequence[int], metrics: Sequence[str]) -> None:
    """Raises UserError where pixels' covariance would be too large."""
    values = math.prod(shape)
    if "pixel-fd" in metrics and values > MAX_PIXELS:
        raise UserError(
            f"pixel-fd is for samples of at most {MAX_PIXELS} values, and these have {values}; take random-fd, which "
            "needs no file and goes with any size, or fid"
        )


def warnings_of(real: Statistics, fake: Statistics, metrics: Sequence[str]) -> list[str]:
    """What a reader of the figures should know: sets that are small for their features."""
    found = []
    for name in metrics:
        metric = METRICS[name]
        space = fake.spaces.get(metric.extractor)
        if metric.family != "fd" or metric.extractor == PIXELS or space is None or space.moments is None:
            continue
        width = len(space.moments.mean)
        least = min(space.count, real.spaces[metric.extractor].count or space.count)
        if least <= width:
            found.append(
                f"{name}: {least:,} samples are too few for {width:,} feature dimensions: the distance is far too "
                "large, and compares only with distances from equally many samples"
            )
    return found


def check_subsets(count: int, size: int) -> None:
    """Raises UserError where KID's subsets can't be drawn from so many samples, or frames."""
    if size < 2:
        raise UserError(f"KID draws subsets of at least 2, got `kid_subset_size={size}`")
    if count < size:
        raise UserError(
            f"kid draws subsets of {size:,}, but there are {count:,}; give more samples, "
            "or a smaller `kid_subset_size=`"
        )


def _measured(name: str, metric: Metric, real: Statistics, fake: Statistics, kid_subset_size: int) -> tuple[float, ...]:
    if metric.family == "is":
        assert fake.score is not None
        return fake.score.mean, fake.score.std
    if metric.family == "pairs":
        rows = fake.spaces[PAIRS].features
        assert rows is not None
        return (float(rows[:, PairExtractor.values.index(name)].double().mean()),)
    a, b = real.spaces.get(metric.extractor), fake.spaces[metric.extractor]
    if a is None or (metric.family == "fd" and a.moments is None) or (metric.family != "fd" and a.features is None):
        raise UserError(f"the reference has nothing for {name}; make its statistics again, for {name} too")
    if metric.family == "fd":
        assert a.moments is not None
        assert b.moments is not None
        if len(a.moments.mean) != len(b.moments.mean):
            raise UserError(
                f"the reference holds {len(a.moments.mean)} features, but {metric.extractor} has "
                f"{len(b.moments.mean)}: it was made with another extractor"
            )
        return (frechet_distance(a.moments, b.moments),)
    if metric.family == "kid":
        assert a.features is not None
        assert b.features is not None
        check_subsets(min(a.count, b.count), kid_subset_size)
        score: Score = kernel_distance(a.features, b.features, size=kid_subset_size)
        return score.mean, score.std
    return _of_features(metric, a, b, real.labels, fake.labels)


def _of_features(metric: Metric, a: Space, b: Space, real: Labels | None, fake: Labels | None) -> tuple[float, ...]:
    assert a.features is not None
    assert b.features is not None
    if metric.family == "pr":
        found = precision_recall(a.features, b.features)
        return found.precision, found.recall
    if metric.family == "sliced":
        return (sliced_wasserstein(a.features, b.features),)
    if metric.family == "energy":
        return (energy_distance(a.features, b.features),)
    if metric.family == "motion":
        means = a.features.double().mean(dim=0)
        if not (means > 0).all():
            raise UserError("motion is measured in units of the real clips', which stand still; leave motion out")
        pairs = zip(a.features.mT, b.features.mT, means.tolist(), strict=True)
        return tuple(wasserstein(real, fake) / mean for real, fake, mean in pairs)
    if real is None or fake is None:
        return ()
    return (label_agreement(a.features, real, b.features, fake),)


def _shape(shape: Sequence[int]) -> str:
    if len(shape) not in (3, 4):
        return f"of shape {tuple(shape)}"
    channels, (height, width) = shape[0], shape[-2:]
    frames = f", {shape[1]} frames" if len(shape) == 4 else ""
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}{frames}"
