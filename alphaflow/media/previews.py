"""Pictures of samples: a grid of images; of clips a contact sheet, or a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import foreign
from .clips import DEFAULT_FPS, contact_sheet, is_our_mp4, side_by_side, write_mp4
from .grids import compared, grid, is_our_picture, save_picture
from .panels import HistogramPlot, LinePlot, Panel, ScatterPlot, panels


@dataclass(frozen=True)
class Picture:
    """Samples to look at.

    Attributes:
        pixels: (n, c, h, w), or clips (n, c, f, h, w), 8-bit.
        columns: number of columns of a grid; None for as square as it gets.
        fps: frames per second of clips; None for `DEFAULT_FPS`.
    """

    pixels: Tensor
    columns: int | None
    fps: float | None = None

    @staticmethod
    def beside(samples: Tensor, inputs: Tensor | None, truths: Tensor | None, *, fps: float | None = None) -> Picture:
        """A row for each sample: what it was made from, the sample, and what it should be; each (n, c, …), 8-bit."""
        stacks = [stack for stack in (inputs, samples, truths) if stack is not None]
        return Picture(compared(stacks), len(stacks), fps)

    def save(self, file: Path) -> None:
        """Writes a grid as PNG; of clips rows of frames, and beside it an MP4 in which they play at once."""
        if self.pixels.ndim == 4:
            save_picture(grid(self.pixels, self.columns), file)
            return
        save_picture(contact_sheet(self.pixels), file)
        playing = side_by_side(self.pixels, self.columns)
        write_mp4(playing, file.with_suffix(".mp4"), self.fps or DEFAULT_FPS)

    @property
    def images(self) -> Tensor:
        """The images one by one, or the clips as rows of frames in a single one: (n, c, h, w), 8-bit."""
        if self.pixels.ndim == 4:
            return self.pixels
        return torch.from_numpy(np.array(contact_sheet(self.pixels).convert("RGB"))).permute(2, 0, 1)[None]


SERIES, CURVES, LONGEST = 4, 4, 2000
"""Series in a chart, their channels, and the points of a curve, at most."""


@dataclass(frozen=True)
class Chart:
    """Samples that are no pictures, to look at.

    Attributes:
        parts: its panels.
        columns: number of columns.
    """

    parts: Sequence[Panel]
    columns: int

    @staticmethod
    def of(stacks: Mapping[str, Tensor]) -> Chart | None:
        """Numbers (n, 1) as a histogram, points (n, 2) in the plane, the first series (n, c, length) as curves.

        Args:
            stacks: samples, and what they are compared with, by what they are called.

        Returns:
            None for samples of another shape.
        """
        shape = next(iter(stacks.values())).shape[1:]
        if tuple(shape) == (1,):
            return Chart([HistogramPlot("samples", {name: x.flatten().tolist() for name, x in stacks.items()})], 1)
        if tuple(shape) == (2,):
            return Chart([ScatterPlot("samples", {name: x.numpy() for name, x in stacks.items()})], 1)
        if len(shape) != 2:
            return None
        count = min(SERIES, *map(len, stacks.values()))
        return Chart([_curves(i, {name: x[i] for name, x in stacks.items()}) for i in range(count)], 2)

    def save(self, file: Path) -> None:
        """Writes it as PNG."""
        panels(self.parts, file, self.columns)

    @property
    def images(self) -> Tensor:
        """The chart as one image (1, 3, h, w), 8-bit."""
        data = BytesIO()
        panels(self.parts, data, self.columns)
        return torch.from_numpy(np.array(Image.open(data).convert("RGB"))).permute(2, 0, 1)[None]


def _curves(number: int, series: Mapping[str, Tensor]) -> LinePlot:
    curves = {}
    for name, x in series.items():
        stride = max(1, -(-x.shape[1] // LONGEST))
        for channel, row in enumerate(x[:CURVES, ::stride].tolist()):
            label = name if len(x) == 1 else f"{name}, {channel}"
            curves[label] = {i * stride: value for i, value in enumerate(row)}
    return LinePlot(f"sample {number}", curves, axis="position")


def check_preview(file: Path, new: bool = False) -> None:
    """Refuses a file that a preview can't be written to.

    Args:
        file: the file to write.
        new: it isn't the place that previews always have, so what is there must be one.

    Raises:
        UserError: it doesn't end in .png or .mp4, or is there and no preview.
    """
    if file.suffix not in (".png", ".mp4"):
        raise UserError(f"a preview is a .png, of clips also an .mp4, not {file.name}")
    if new and file.exists() and not (is_our_picture if file.suffix == ".png" else is_our_mp4)(file):
        raise foreign(file, "`file=`")


def write_preview(pixels: Tensor, file: Path, fps: float = DEFAULT_FPS) -> None:
    """Writes samples as one PNG, clips as a contact sheet; or clips one after another as an MP4.

    Args:
        pixels: 8-bit (n, c, h, w), or (n, c, f, h, w).
        file: .png or .mp4.
        fps: frames per second of the MP4.

    Raises:
        UserError: another ending, or an MP4 of pictures.
    """
    check_preview(file)
    if file.suffix == ".png":
        save_picture(grid(pixels) if pixels.ndim == 4 else contact_sheet(pixels), file)
    elif pixels.ndim == 5:
        write_mp4(pixels.transpose(0, 1).flatten(1, 2), file, fps)
    else:
        raise UserError(f"{file.name}: pictures are previewed as a .png, only clips as an .mp4")
