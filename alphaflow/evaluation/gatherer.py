"""One pass over pictures or clips: every extractor's features into running moments, scores, and kept features.

What is gathered in several processes becomes one in the first of them, exactly: sums are added, rows take their places.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..features.builtin import FEATURES, PAIRS
from ..features.extractors import LOGITS, Extractor, by_frame
from ..metrics.frechet import Features, RunningMoments
from ..metrics.inception_score import InceptionScore
from ..parallel.world import from_others
from ..types import Labels
from .statistics import Needs, Space, Statistics, random_halves


class KeptFeatures:
    """Features (count, d), float32, in a temporary file: memory doesn't grow with their number."""

    def __init__(self, count: int) -> None:
        self.count, self.width = count, 0
        self.ranges: list[tuple[int, int]] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, features: Features, start: int) -> None:
        """Features of the samples from ``start`` on."""
        rows = features.detach().cpu().float().contiguous()
        self.width = rows.shape[1]
        os.pwrite(self._file.fileno(), rows.numpy().tobytes(), start * self.width * 4)
        self.ranges.append((start, start + len(rows)))

    def tensor(self) -> Tensor:
        """All of them (count, d), mapped."""
        self._file.truncate(self.count * self.width * 4)
        return torch.from_numpy(np.memmap(self._file, np.float32, "r+", shape=(self.count, self.width)))

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of them."""
        data = os.pread(self._file.fileno(), (stop - start) * self.width * 4, start * self.width * 4)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, self.width)


class Gatherer:
    """Takes batches of pixels and keeps what is needed of their features.

    Args:
        needs: what is needed of each extractor.
        extractors: the extractors by name.
        count: samples there will be.
        shape: shape of one sample.
    """

    def __init__(
        self, needs: Mapping[str, Needs], extractors: Mapping[str, Extractor], count: int, shape: Sequence[int]
    ) -> None:
        self.needs, self.extractors = needs, {name: extractors[name] for name in needs}
        self.count, self.shape = count, tuple(shape)
        self._times = {name: self._frames(name) for name in needs}
        totals = {name: count * times for name, times in self._times.items()}
        self._moments = {n: [RunningMoments() for _ in range(1 + need.halves)] for n, need in needs.items()}
        self._half = {name: _in_second_half(totals[name]) for name, need in needs.items() if need.halves}
        self._kept = {name: KeptFeatures(totals[name]) for name, need in needs.items() if need.features}
        self._scores = {n: InceptionScore(totals[n], min(10, totals[n])) for n, need in needs.items() if need.score}
        self._labels = torch.full((count,), -1)

    def add(self, pixels: Tensor, start: int, labels: Labels | None = None, truth: Tensor | None = None) -> None:
        """Takes samples ``start``, ``start`` + 1, … in: 8-bit pixels or floats (b, …), and what they should be."""
        if labels is not None:
            self._labels[start : start + len(pixels)] = labels.cpu()
        for name, extractor in self.extractors.items():
            times = self._times[name]
            parts = pixels.transpose(1, 2).flatten(0, 1) if times > 1 else pixels
            if name == PAIRS:
                assert truth is not None
                parts = torch.stack([pixels, truth], dim=1)
            for offset in range(0, len(parts), extractor.batch):
                layers = extractor(parts[offset : offset + extractor.batch])
                self._take(name, layers, start * times + offset)

    def finish(self, rank: int = 0, world: int = 1) -> Statistics | None:
        """What all processes gathered, in the first; None in the others. All of them must call it.

        Args:
            rank: this process's number.
            world: how many processes took part.
        """
        moments = [part for name in self.needs for part in self._moments[name]]
        for theirs in from_others(([torch.tensor(m.parts()[0]), *m.parts()[1:]] for m in moments), rank, world):
            for i, (count, mean, scatter) in enumerate(theirs):
                moments[i].merge(int(count), mean, scatter)
        scores = list(self._scores.values())
        for theirs in from_others((score.parts() for score in scores), rank, world):
            for i, (sums, negentropy) in enumerate(theirs):
                scores[i].merge(sums, negentropy)
        for kept in self._kept.values():
            rows_of = ([torch.tensor(i), kept.rows(i, j)] for i, j in list(kept.ranges))
            for theirs in from_others(rows_of, rank, world):
                for start, rows in theirs:
                    kept.add(rows, int(start))
        for theirs in from_others([[self._labels]], rank, world):
            for (labels,) in theirs:
                self._labels = torch.maximum(self._labels, labels)
        return None if rank else self._statistics()

    def _statistics(self) -> Statistics:
        spaces = {name: self._space(name, need) for name, need in self.needs.items()}
        labels = self._labels if bool((self._labels >= 0).all()) else None
        score = next((score.score() for score in self._scores.values()), None)
        return Statistics(self.count, self.shape, spaces, score, labels)

    def _space(self, name: str, need: Needs) -> Space:
        parts, halves = self._moments[name], None
        if need.halves and parts[0].count > 1 and parts[1].count > 1:
            halves = (parts[0].moments(), parts[1].moments())
        if need.halves:
            parts[0].merge(*parts[1].parts())
        weights = self.extractors[name].weights
        return Space(
            self.count * self._times[name],
            parts[0].moments() if need.moments else None,
            halves,
            self._kept[name].tensor() if need.features else None,
            "" if weights is None else weights.sha256,
        )

    def _take(self, name: str, layers: Mapping[str, Tensor], start: int) -> None:
        need, features = self.needs[name], layers[FEATURES]
        if need.halves:
            second = self._half[name][start : start + len(features)].to(features.device)
            self._moments[name][0].add(features[~second])
            self._moments[name][1].add(features[second])
        elif need.moments:
            self._moments[name][0].add(features)
        if need.features:
            self._kept[name].add(features, start)
        if need.score:
            self._scores[name].add(layers[LOGITS], start)

    def _frames(self, name: str) -> int:
        """How many features a sample has: networks for images look at each frame of a clip."""
        return self.shape[1] if len(self.shape) == 4 and by_frame(name) else 1


def _in_second_half(total: int) -> Tensor:
    return torch.zeros(total, dtype=torch.bool).index_fill_(0, random_halves(total)[1], True)
