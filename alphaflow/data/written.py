"""Samples written to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from ..plots import grid, save_picture
from ..types import Labels
from .clips import FPS, contact_sheet, frame_rate, side_by_side, write_gif, write_mp4

Form = Literal["png", "npz", "mp4", "gif"]

SHEET, PLAYING = 16, 64
"""Clips in a contact sheet; and in the one in which all play at once."""

_WRITE = {"mp4": write_mp4, "gif": write_gif}


def check_form(form: Form | None, shape: Sequence[int], fps: float | None = None) -> Form:
    """The form that samples of a shape are written in: PNG for images, MP4 for clips, unless one is chosen.

    Raises:
        UserError: it isn't for such samples, fps is out of range, or images are given any.
    """
    if fps is not None:
        frame_rate(fps)
        if len(shape) == 3:
            raise UserError(f"these samples are images, {tuple(shape)}, which play at no rate; leave --fps out")
    if form in ("mp4", "gif") and len(shape) == 3:
        raise UserError(f"these samples are images, {tuple(shape)}, and {form} is for clips; choose png or npz")
    return form or ("png" if len(shape) == 3 else "mp4")


def write_samples(
    place: Path,
    make: Callable[[], Tensor],
    labels: Labels | None,
    class_names: Sequence[str],
    form: Form = "png",
    overwrite: bool = False,
    fps: float = FPS,
) -> list[Path]:
    """Writes samples to a folder, whole or not at all, and beside it pictures of the first of them.

    ``png``, ``mp4``, ``gif``: files NNNNNN, in a folder for each class where there are labels; a clip's PNG has its
    frames side by side. ``npz``: samples.npz with arr_0 (n, h, w, c) or (n, f, h, w, c), 8-bit, and arr_1 (n,), the
    labels, as ADM's evaluation reads them. Beside the folder: PLACE.png with the first hundred images, or with the
    first clips as rows of their frames; and, of ``mp4`` and ``gif``, PLACE.mp4 or .gif, in which clips play at once.

    Args:
        place: the folder.
        make: makes the samples, 8-bit pixels (n, c, h, w) or (n, c, f, h, w); called once the folder is known to be
            free.
        labels: (n,), or None.
        class_names: by class index.
        form: as `check_form` gives it.
        overwrite: replace what is there.
        fps: of clips.

    Returns:
        The files beside the folder.

    Raises:
        UserError: the folder is there and not empty, or a file beside it is there, and ``overwrite`` is off.
    """
    place = place.resolve()
    beside_it = _check_free(place, form, overwrite)
    pixels = make()
    with replacing(place) as beside:
        beside.mkdir()
        if form == "npz":
            arrays = pixels.movedim(1, -1).numpy()
            named = {"arr_0": arrays} if labels is None else {"arr_0": arrays, "arr_1": labels.numpy()}
            np.savez(beside / "samples.npz", allow_pickle=False, **named)
        else:
            write_each(beside, pixels, labels, class_names, form, fps=fps)
    save_picture(_overview(pixels), beside_it[0])
    for movie in beside_it[1:]:
        _WRITE[form](side_by_side(pixels[:PLAYING]), movie, fps)
    return beside_it


def _check_free(place: Path, form: Form, overwrite: bool) -> list[Path]:
    """The files beside the folder, a picture first; refuses what is there."""
    files = [place.with_name(f"{place.name}.{ending}") for ending in ("png", *([form] if form in _WRITE else []))]
    taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    there = next((file for file in files if file.exists()), None)
    if not overwrite and (taken or there is not None):
        which = f"{place} is not empty" if taken else f"{there} exists"
        raise UserError(f"{which}; choose another --out, or replace it with --overwrite")
    return files


def write_each(
    folder: Path,
    pixels: Tensor,
    labels: Labels | None,
    class_names: Sequence[str],
    form: Form = "png",
    start: int = 0,
    fps: float = FPS,
) -> None:
    """Writes 8-bit pixels (n, c, …) as NNNNNN.png, .mp4 or .gif, in folders by class, numbered from ``start`` on."""
    for index, sample in enumerate(pixels):
        into = folder if labels is None else folder / class_names[int(labels[index])]
        into.mkdir(parents=True, exist_ok=True)
        file = into / f"{start + index:06d}.{form}"
        if form in _WRITE:
            _WRITE[form](sample, file, fps)
            continue
        array = (sample if sample.ndim == 3 else sample.transpose(1, 2).flatten(2)).permute(1, 2, 0).numpy()
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file)


def _overview(pixels: Tensor) -> Image.Image:
    """The first hundred images in rows of ten, or the first clips as rows of frames."""
    return grid(pixels[:100], min(len(pixels), 10)) if pixels.ndim == 4 else contact_sheet(pixels[:SHEET])
