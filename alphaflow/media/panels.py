"""Curves, maps, bars, histograms side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LinePlot:
    """A panel of curves.

    Attributes:
        title: above it.
        curves: label ↦ (x ↦ y); many points are a line, few have marks.
        limits: limits of y, or None.
        mark: a height with a dashed line, or None.
        logarithmic: the y axis.
        axis: what x is.
    """

    title: str
    curves: Mapping[str, Mapping[int, float]]
    limits: tuple[float, float] | None = None
    mark: float | None = None
    logarithmic: bool = False
    axis: str = "step"


@dataclass(frozen=True)
class Heatmap:
    """A panel of values over (r, t) ∈ [0, 1]²: rows are r, columns t; None is left white."""

    title: str
    values: Sequence[Sequence[float | None]] = field(repr=False)


@dataclass(frozen=True)
class BarPlot:
    """A panel of horizontal bars: label ↦ value."""

    title: str
    values: Mapping[str, float]
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class HistogramPlot:
    """A panel of distributions: label ↦ numbers, as densities over common bins."""

    title: str
    values: Mapping[str, Sequence[float]] = field(repr=False)


@dataclass(frozen=True)
class ScatterPlot:
    """A panel of points in the plane: label ↦ (n, 2)."""

    title: str
    points: Mapping[str, np.ndarray] = field(repr=False)


Panel = LinePlot | Heatmap | BarPlot | HistogramPlot | ScatterPlot


def panels(parts: Sequence[Panel], file: Path | IO[bytes], columns: int = 3) -> None:
    """Draws panels side by side into a PNG, SVG or PDF file, by its ending; whole or not at all. A stream gets a PNG.

    Raises:
        UserError: another ending.
    """
    from matplotlib.figure import Figure

    kind = file.suffix.removeprefix(".") if isinstance(file, Path) else "png"
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"a plot is a .png, .svg or .pdf file, not {file}")
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, part in zip(axes, parts, strict=False):
        axis.set_title(part.title)
        if isinstance(part, LinePlot):
            _lines(axis, part)
        elif isinstance(part, Heatmap):
            _heat(axis, part)
        elif isinstance(part, HistogramPlot):
            _histograms(axis, part)
        elif isinstance(part, ScatterPlot):
            _points(axis, part)
        else:
            _bars(axis, part)
    for axis in axes[len(parts) :]:
        axis.set_axis_off()
    if not isinstance(file, Path):
        figure.savefig(file, format=kind, dpi=120)
        return
    with replacing(file) as beside:
        figure.savefig(beside, format=kind, dpi=120)


def _lines(axis: Axes, part: LinePlot) -> None:
    for index, (label, curve) in enumerate(part.curves.items()):
        few = "o" if len(curve) <= 20 else None
        axis.plot(list(curve), list(curve.values()), label=label, color=f"C{index}", marker=few, linewidth=1.2)
    if part.mark is not None:
        axis.axhline(part.mark, color="grey", linestyle="--", linewidth=0.8)
    if part.logarithmic:
        axis.set_yscale("log")
    if part.limits is not None:
        axis.set_ylim(*part.limits)
    axis.set_xlabel(part.axis)
    if part.curves:
        axis.legend(fontsize="small")


def _heat(axis: Axes, part: Heatmap) -> None:
    values = np.array([[math.nan if value is None else value for value in row] for row in part.values])
    diverging = bool(np.nanmin(values) < 0) if np.isfinite(values).any() else False
    bound = float(np.nanmax(np.abs(values))) if diverging else None
    low = None if bound is None else -bound
    colours = "RdBu_r" if diverging else "viridis"
    picture = axis.imshow(values, origin="lower", extent=(0, 1, 0, 1), cmap=colours, vmin=low, vmax=bound)
    axis.set_xlabel("t")
    axis.set_ylabel("r")
    axis.figure.colorbar(picture, ax=axis)


def _histograms(axis: Axes, part: HistogramPlot) -> None:
    every = np.concatenate([np.asarray(values, dtype=float) for values in part.values.values()])
    edges = np.histogram_bin_edges(every, 40)
    for index, (label, values) in enumerate(part.values.items()):
        filled = {"alpha": 0.35} if index == 0 else {"histtype": "step", "linewidth": 1.4}
        axis.hist(values, edges, density=True, label=label, color=f"C{index}", **filled)  # type: ignore[arg-type]
    axis.set_yticks([])
    axis.legend(fontsize="small")


def _points(axis: Axes, part: ScatterPlot) -> None:
    for index, (label, points) in enumerate(part.points.items()):
        axis.scatter(points[:, 0], points[:, 1], s=4, alpha=0.5, label=label, color=f"C{index}", linewidths=0)
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(fontsize="small")


def _bars(axis: Axes, part: BarPlot) -> None:
    axis.barh(list(part.values)[::-1], list(part.values.values())[::-1])
    axis.axvline(0, color="grey", linewidth=0.8)
    if part.limits is not None:
        axis.set_xlim(*part.limits)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="y", labelsize="small")
