"""What runs the extractors over sets of pictures or clips, in one process or many, and compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import UserError
from ..features.builtin import PAIRS, UNPUBLISHED
from ..features.extractors import EXTRACTORS, Extractor, check_weights, open_extractor
from ..metrics.kid import SIZE
from ..parallel.world import World
from ..progress import ProgressCallback, Throttle
from .catalogue import METRICS, check_metrics
from .compare import MIN_SAMPLES, check_kind, check_pixels, check_shapes, check_subsets, compare, warnings_of
from .gatherer import Gatherer
from .reference import EvaluationReference
from .sample_set import SampleBatch, SampleSet
from .statistics import Needs, Space, Statistics, needs_of, random_halves

BATCH = 128
"""Samples that are made or read at once."""


@dataclass(frozen=True)
class Compared:
    """Figures of one set against the reference.

    Attributes:
        values: name ↦ value.
        warnings: what a reader should know.
        statistics: statistics of the set.
    """

    values: dict[str, float]
    warnings: list[str]
    statistics: Statistics


class Evaluator:
    """Metrics with their extractors loaded once, for one reference and any number of sets.

    Args:
        metrics: names of METRICS.
        reference: what is measured against.
        device: where extractors run.
        weights: files of extractors' weights by extractor, as `features.weight_files.find_weights` takes them; where
            only one is used, ``""`` stands for it.
        batch_size: samples made or read at once.
        world: the processes that share the work.
        keep: features are kept whatever the metrics, for neighbours and classes.
        progress: is told how far it is.
        kid_subset_size: samples of each side in one of KID's subsets.

    Raises:
        UserError: an unknown metric, missing weights.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        reference: EvaluationReference,
        *,
        device: torch.device | None = None,
        weights: Mapping[str, str] | None = None,
        batch_size: int = BATCH,
        world: World | None = None,
        keep: bool = False,
        progress: ProgressCallback | None = None,
        kid_subset_size: int = SIZE,
    ) -> None:
        check_metrics(metrics)
        self.metrics = tuple(metrics)
        self.reference = reference
        self.batch_size = batch_size
        self.world = world or World()
        self._keep = keep
        self._progress = progress
        self.kid_subset_size = kid_subset_size
        self._device, self._given = device or torch.device("cpu"), dict(weights or {})
        wanted = {METRICS[name].extractor for name in metrics}
        networks = wanted - UNPUBLISHED.keys()
        if "" in self._given and len(networks) == 1:
            self._given[next(iter(networks))] = self._given.pop("")
        strange = [name for name in self._given if name not in networks]
        if strange:
            named = f"names {strange[0]}" if strange[0] else "doesn't say which extractor it is for"
            raise UserError(f"`weights=` {named}; {', '.join(metrics)} use {', '.join(sorted(networks)) or 'none'}")
        if reference.shape:
            check_kind(reference.shape, metrics, reference.pictures)
        self._extractors: dict[str, Extractor] = {}
        self._real: Statistics | None = None
        self._gathered = False
        for name in sorted(wanted):
            self.extractor(name)

    def extractor(self, name: str) -> Extractor:
        """An extractor, loaded at its first use; the first process downloads what is missing."""
        if name not in self._extractors:
            given = self._given.get(name)
            if self.world.size > 1:
                self.world.first(lambda: check_weights(name, given))
            self._extractors[name] = open_extractor(name, self._device, given)
        return self._extractors[name]

    def check(self, samples: SampleSet) -> None:
        """What is known to go wrong before anything is looked at.

        Raises:
            UserError: too few samples, another shape than the reference's, metrics that don't go with the shape, or
                nothing to compare samples with one by one.
        """
        count, shape, known = len(samples), samples.shape, self.reference.samples
        reals = len(known) if known is not None else self.reference.fixed.count if self.reference.fixed else 0
        for side, number in (("sample", count), ("reference", reals)):
            if not number and side == "reference":
                continue
            if number < MIN_SAMPLES:
                raise UserError(f"metrics need at least {MIN_SAMPLES} {side} images, got {number}")
            if any(METRICS[name].family == "kid" for name in self.metrics):
                check_subsets(number * (1 if len(shape) == 3 else shape[1]), self.kid_subset_size)
        check_shapes(self.reference.shape, shape)
        check_pixels(shape, self.metrics)
        check_kind(shape, self.metrics, samples.pictures)
        if known is not None and known.pictures != samples.pictures:
            kinds = ("8-bit pictures", "floats")
            ours, theirs = kinds if samples.pictures else kinds[::-1]
            raise UserError(f"the samples are {ours}, but the reference is {theirs}; give both in one form")
        pairs = [name for name in self.metrics if METRICS[name].family == "pairs"]
        if pairs and not (samples.paired and known is not None and (samples.truths or len(known) == count)):
            raise UserError(
                f"{pairs[0]} compares each sample with its truth, and these have none: it is for runs that make them "
                "from the conditions of the reference, and for files, as many as it has and in its order"
            )

    def real(self) -> Statistics | None:
        """The reference's statistics, gathered at their first use; None in processes but the first."""
        if not self._gathered:
            self._real, self._gathered = self._reference(), True
        return self._real

    def gather(
        self, samples: SampleSet, needs: Mapping[str, Needs], seen: Callable[[SampleBatch], None] | None = None
    ) -> Statistics | None:
        """One pass over a set of samples: its statistics, in the first process; None in the others.

        Args:
            samples: what is looked at.
            needs: what is needed of each extractor.
            seen: is given each batch of this process.
        """
        extractors = {name: self.extractor(name) for name in needs}
        gatherer = Gatherer(needs, extractors, len(samples), samples.shape)
        rank, size = self.world.rank, self.world.size
        done, total = 0, len(samples)
        due = Throttle(0.2)
        with self.world.together():
            for batch in samples.batches(self.batch_size, rank, size):
                gatherer.add(batch.pixels, batch.start, batch.labels, self._truth(batch, needs))
                if seen is not None:
                    seen(batch)
                done = min(done + len(batch.pixels) * size, total)
                if self._progress is not None and due(done == total):
                    self._progress(samples.name, done, total)
        return gatherer.finish(rank, size)

    def _truth(self, batch: SampleBatch, needs: Mapping[str, Needs]) -> torch.Tensor | None:
        """What these samples should be, where that is asked for: theirs, or the reference's of the same number."""
        if PAIRS not in needs or batch.truth is not None:
            return batch.truth
        assert self.reference.samples is not None
        return self.reference.samples.read(batch.start, batch.start + len(batch.pixels)).pixels

    def measure(self, samples: SampleSet, seen: Callable[[SampleBatch], None] | None = None) -> Compared | None:
        """Measures a set against the reference; None in processes but the first.

        Raises:
            UserError: as `check`, or sets that can't be compared.
        """
        self.check(samples)
        real = self.real()
        fake = self.gather(samples, needs_of(self.metrics, keep=self._keep), seen)
        with self.world.together():  # what goes wrong in the first process is raised in all
            return None if fake is None or real is None else self._compared(samples, real, fake)

    def _compared(self, samples: SampleSet, real: Statistics, fake: Statistics) -> Compared:
        fake = replace(fake, labels=self._relabelled(samples, fake))
        found = compare(real, fake, self.metrics, self.kid_subset_size)
        return Compared(found, warnings_of(real, fake, self.metrics), fake)

    def real_halves(self) -> Compared | None:
        """One random half of the reference against the other by unpublished features: what chance makes of real ones.

        None where there are none of these metrics, no such pictures, or the halves are too small.
        """
        real = self._real
        names = [
            name for name in self.metrics if METRICS[name].extractor in UNPUBLISHED and METRICS[name].family != "pairs"
        ]
        if not names or real is None or self.reference.samples is None or real.count < 2 * MIN_SAMPLES:
            return None
        spaces = {METRICS[name].extractor: real.spaces[METRICS[name].extractor] for name in names}
        halves = []
        for i, half in enumerate(random_halves(real.count)):
            parts = {name: _half(space, i, half) for name, space in spaces.items()}
            labels = None if real.labels is None else real.labels[half]
            halves.append(Statistics(len(half), real.shape, parts, None, labels))
        if real.labels is None:
            names = [name for name in names if name != "agreement"]
        return Compared(compare(halves[1], halves[0], names), [], halves[0]) if names else None

    def used(self) -> dict[str, dict[str, Any]]:
        """The extractors that were loaded, with their weights' files, for a protocol."""
        files = {name: extractor.weights for name, extractor in self._extractors.items()}
        return {
            name: {
                "about": EXTRACTORS[name].about,
                "file": file.path.name,
                "sha256": file.sha256,
                "published": file.published,
            }
            for name, file in files.items()
            if file is not None
        }

    def _reference(self) -> Statistics | None:
        """A file's statistics, and of pictures what it doesn't hold."""
        fixed, samples = self.reference.fixed, self.reference.samples
        needs = needs_of(self.metrics, real=True, keep=self._keep)
        if fixed is not None:
            needs = {name: need for name, need in needs.items() if _lacks(fixed.spaces.get(name), need)}
        if samples is None or not needs:
            assert fixed is not None or samples is not None
            nothing = None if samples is None or self.world.rank else Statistics(len(samples), samples.shape, {})
            return nothing if fixed is None else fixed
        found = self.gather(samples, needs)
        if found is None or fixed is None:
            return found
        spaces = dict(found.spaces)
        for name, space in fixed.spaces.items():
            spaces[name] = replace(spaces.get(name, space), moments=space.moments, halves=None)
        return replace(found, spaces=spaces)

    def _relabelled(self, samples: SampleSet, fake: Statistics) -> torch.Tensor | None:
        """The samples' labels as the reference's, by the classes' names; None where they don't match."""
        if fake.labels is None or not self.reference.class_names:
            return None
        mapping = samples.labels_of(self.reference.class_names)
        return None if mapping is None else mapping[fake.labels]


def _half(space: Space, number: int, rows: torch.Tensor) -> Space:
    """The first or the second half of a set's features."""
    moments = None if space.halves is None else space.halves[number]
    return Space(len(rows), moments, None, None if space.features is None else space.features[rows])


def _lacks(space: Space | None, need: Needs) -> bool:
    """Whether a file's features are not all that is needed."""
    return space is None or (need.moments and space.moments is None) or (need.features and space.features is None)
