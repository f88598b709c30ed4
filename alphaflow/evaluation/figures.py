"""Pictures beside the figures: uncurated samples, the nearest real pictures, and the classes that are worst."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..features.builtin import MOTION, PAIRS
from ..files import write_json
from ..media.clips import DEFAULT_FPS, contact_sheet, side_by_side, write_mp4
from ..media.grids import grid, save_picture
from ..media.panels import HistogramPlot, panels
from ..media.previews import Chart
from ..metrics.kid import squared_mmd
from ..metrics.neighbours import nearest
from .catalogue import METRICS
from .evaluator import Evaluator
from .sample_set import SampleSet
from .statistics import Statistics

POINTS, GRID, CLIPS, ROWS, NEAREST, WORST = 512, 64, 16, 8, 6, 10
"""Samples in a chart, in a grid, clips as rows of frames, samples with neighbours, neighbours of each, classes."""


class Pictures:
    """Writes them into a folder.

    Args:
        folder: nfe-N.png, nfe-N-neighbours.png and .json, nfe-N-classes.json are written there; of clips nfe-N.mp4 and
            nfe-N-motion.png.
        evaluator: the evaluator that extracts the features; those of its first metric that has any are compared.
    """

    def __init__(self, folder: Path, evaluator: Evaluator) -> None:
        self.folder, self.evaluator = folder, evaluator
        spaces = [METRICS[name].extractor for name in evaluator.metrics]
        self.space = next((space for space in spaces if space != PAIRS), PAIRS)

    def of(self, samples: SampleSet, statistics: Statistics, nfe: int | None) -> list[str]:
        """Writes what there is to show of a set that was measured; says what can't be shown."""
        name = "images" if nfe is None else f"nfe-{nfe}"
        if not samples.pictures:
            return self._chart(name, samples)
        pixels = samples.read(0, min(GRID, len(samples))).pixels
        if pixels.ndim == 4:
            save_picture(grid(pixels), self.folder / f"{name}.png")
        else:
            save_picture(contact_sheet(pixels[:CLIPS]), self.folder / f"{name}.png")
            write_mp4(side_by_side(pixels), self.folder / f"{name}.mp4", samples.fps or DEFAULT_FPS)
        self._motion(name, statistics)
        real, reference = self.evaluator.real(), self.evaluator.reference.samples
        fakes = statistics.spaces[self.space].features
        space = None if real is None else real.spaces.get(self.space)
        if space is None or space.features is None or fakes is None:
            return [f"no nearest real pictures and no classes: the reference keeps no features of {self.space}"]
        frames = statistics.spaces[self.space].count // statistics.count
        if real is not None and real.labels is not None and statistics.labels is not None and frames == 1:
            names = self.evaluator.reference.class_names
            found = worst_classes(space.features, real.labels, fakes, statistics.labels, list(names))
            write_json(self.folder / f"{name}-classes.json", {"features": self.space, "worst": found})
        if reference is None or frames > 1:
            return ["no nearest real pictures: the reference's features are there, but not its pictures"]
        self._neighbours(name, pixels, fakes, space.features, reference)
        return []

    def _chart(self, name: str, samples: SampleSet) -> list[str]:
        """Draws samples that are no pictures, beside real ones, where there is a way to; says if there is none."""
        stacks = {"samples": samples.read(0, min(POINTS, len(samples))).pixels}
        reference = self.evaluator.reference.samples
        if reference is not None:
            stacks = {"real": reference.read(0, min(POINTS, len(reference))).pixels, **stacks}
        chart = Chart.of(stacks)
        if chart is None:
            return [f"no figures: samples {samples.shape} can't be drawn"]
        chart.save(self.folder / f"{name}.png")
        return []

    def _motion(self, name: str, statistics: Statistics) -> None:
        """Histograms of the samples' motion over the real clips', where it was measured."""
        real, ours = self.evaluator.real(), statistics.spaces.get(MOTION)
        theirs = None if real is None else real.spaces.get(MOTION)
        if ours is None or theirs is None or ours.features is None or theirs.features is None:
            return
        titles = ("energy of frame differences", "speed of the centroid, pixels a frame")
        shown = [
            HistogramPlot(title, {"real": theirs.features[:, i].tolist(), "samples": ours.features[:, i].tolist()})
            for i, title in enumerate(titles)
        ]
        panels(shown, self.folder / f"{name}-motion.png", columns=2)

    def _neighbours(self, name: str, pixels: Tensor, fakes: Tensor, reals: Tensor, reference: SampleSet) -> None:
        """A row for each of the first samples: the sample, then its nearest real pictures.

        Beside it as numbers: how far they are, and how far real pictures are from each other. A sample much nearer to a
        real picture than real ones are to theirs is a copy.
        """
        count = min(ROWS, len(pixels))
        found = nearest(fakes[:count], reals, NEAREST)
        some = reals[torch.randperm(len(reals), generator=torch.Generator().manual_seed(0))[:1000].sort().values]
        usual = float(nearest(some, reals, 2).distances[:, 1].median())
        rows = []
        for row in range(count):
            shown = [reference.read(int(i), int(i) + 1).pixels for i in found.indices[row].sort().values]
            order = found.indices[row].argsort().argsort()
            rows.append(torch.cat([pixels[row : row + 1], torch.cat(shown)[order]]))
        picture = torch.cat(rows)
        if picture.ndim == 5:
            picture = picture[:, :, picture.shape[2] // 2]
        save_picture(grid(picture, NEAREST + 1), self.folder / f"{name}-neighbours.png")
        write_json(
            self.folder / f"{name}-neighbours.json",
            {
                "features": self.space,
                "nearest": [
                    {"sample": i, "real": indices, "distance": distances}
                    for i, (indices, distances) in enumerate(
                        zip(found.indices.tolist(), found.distances.tolist(), strict=True)
                    )
                ],
                "median distance of a real picture to the nearest other": usual,
            },
        )


def worst_classes(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, names: list[str]
) -> list[dict[str, Any]]:
    """The classes with the largest kernel distance between their samples and their real pictures, worst first.

    The kernel distance is unbiased at any number, and a class has few. Classes with fewer than two on a side are
    left out.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    for label, name in enumerate(names):
        ours, theirs = fake[fake_labels == label], real[real_labels == label]
        if len(ours) > 1 and len(theirs) > 1:
            distance = squared_mmd(theirs, ours)
            row = {"class": name, "kernel distance": distance, "samples": len(ours), "real": len(theirs)}
            found.append((distance, row))
    return [row for _, row in sorted(found, key=lambda pair: -pair[0])[:WORST]]
