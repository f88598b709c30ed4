"""Samples written to disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import LITTER, check_apart, check_writable, foreign, parsed, remove, replacing, write_json
from ..types import Labels
from .clips import DEFAULT_FPS, contact_sheet, frame_rate, side_by_side, write_gif, write_mp4
from .grids import grid, save_picture

Form = Literal["png", "npz", "mp4", "gif"]

RECORD = ".alphaflow.json"
"""What says, in a folder of samples, which files they are."""

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
            raise UserError(f"these samples are images, {tuple(shape)}, which have no frame rate; leave `fps=` out")
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
    fps: float = DEFAULT_FPS,
) -> list[Path]:
    """Writes samples to a folder, whole or not at all, and beside it pictures of the first of them.

    ``png``, ``mp4``, ``gif``: files NNNNNN, in a folder for each class where there are labels; a clip's PNG has its
    frames side by side. ``npz``: samples.npz with arr_0 (n, h, w, c) or (n, f, h, w, c), 8-bit, and arr_1 (n,), the
    labels, as ADM's evaluation reads them. Beside the folder: PLACE.png with the first hundred images, or with the
    first clips as rows of their frames; and, of ``mp4`` and ``gif``, PLACE.mp4 or .gif, in which clips play at once.

    A record in the folder, `RECORD`, says what was written; only what it names is ever replaced.

    Args:
        place: the folder.
        make: makes the samples, 8-bit pixels (n, c, h, w) or (n, c, f, h, w), once the folder is known to be free.
        labels: (n,), or None.
        class_names: by class index.
        form: as `check_form` gives it.
        overwrite: replace samples that were written there before.
        fps: frames per second of clips.

    Returns:
        The files beside the folder.

    Raises:
        UserError: it is in use, there is what this didn't write; or samples, and ``overwrite`` is off.
    """
    place = check_apart(place)
    beside_it = [place.with_name(f"{place.name}.{ending}") for ending in ("png", *([form] if form in _WRITE else []))]
    earlier = _check_free(place, beside_it, overwrite)
    pixels = make()
    with replacing(place) as beside:
        beside.mkdir()
        if form == "npz":
            arrays = pixels.movedim(1, -1).numpy()
            named = {"arr_0": arrays} if labels is None else {"arr_0": arrays, "arr_1": labels.numpy()}
            np.savez(beside / "samples.npz", allow_pickle=False, **named)
        else:
            write_each(beside, pixels, labels, class_names, form, fps=fps)
        write_json(beside / RECORD, {"files": sorted(_files(beside)), "beside": [file.name for file in beside_it]})
    for file in earlier:
        remove(file)
    _show(pixels, form, beside_it, fps)
    return beside_it


def _check_free(place: Path, beside: Sequence[Path], overwrite: bool) -> list[Path]:
    """Refuses what is there, unless it is samples, by their record, and they are to be replaced.

    Returns:
        The files beside the folder that are earlier samples' and not among the new ones.
    """
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is not a folder; choose another `place=`")
    check_writable(place, folder=True)
    files, named = _recorded(place)
    known = {*files, RECORD}
    other = next((place / name for name in _files(place) if name not in known), None) if place.exists() else None
    other = other or next((file for file in beside if file.exists() and file.name not in named), None)
    if other is not None:
        raise foreign(other, "`place=`")
    if files and not overwrite:
        raise UserError(
            f"{place} holds earlier samples; choose another `place=`, or replace them with `overwrite=True`"
        )
    return [place.with_name(name) for name in named - {file.name for file in beside}]


def _recorded(place: Path) -> tuple[set[str], set[str]]:
    """The files in a folder of samples, and the names of those beside it, by its record."""
    try:
        record = parsed((place / RECORD).read_text(encoding="utf-8"))
        ours = {f"{place.name}.{ending}" for ending in ("png", *_WRITE)}
        return set(record["files"]), set(record["beside"]) & ours
    except (OSError, ValueError, KeyError, TypeError):
        return set(), set()


def _files(folder: Path) -> Iterator[str]:
    """What is in a folder, at any depth, but for folders that hold something."""
    for path in folder.rglob("*"):
        if path.name not in (".DS_Store", *LITTER) and (
            path.is_symlink() or not path.is_dir() or not any(path.iterdir())
        ):
            yield path.relative_to(folder).as_posix()


def write_each(
    folder: Path,
    pixels: Tensor,
    labels: Labels | None,
    class_names: Sequence[str],
    form: Form = "png",
    start: int = 0,
    fps: float = DEFAULT_FPS,
) -> None:
    """Writes 8-bit pixels (n, c, …) as NNNNNN.png, .mp4 or .gif, in folders by class, numbered from ``start`` on."""
    folders = folder_names(class_names)
    for index, sample in enumerate(pixels):
        into = folder if labels is None else folder / folders[int(labels[index])]
        into.mkdir(parents=True, exist_ok=True)
        file = into / f"{start + index:06d}.{form}"
        if form in _WRITE:
            _WRITE[form](sample, file, fps)
            continue
        array = (sample if sample.ndim == 3 else sample.transpose(1, 2).flatten(2)).permute(1, 2, 0).numpy()
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Names of classes, wherever they came from, as names of folders: one each, none that leads elsewhere or hides."""
    found: list[str] = []
    taken: set[str] = set()
    for index, name in enumerate(class_names):
        safe = "".join("_" if c in "/\\:" or not c.isprintable() else c for c in name)
        safe = safe.encode()[:200].decode(errors="ignore")
        if safe.startswith(".") or not safe.strip():
            safe = f"_{safe}"
        if safe.casefold() in taken:
            safe = f"{safe} ({index})"
        taken.add(safe.casefold())
        found.append(safe)
    return found


def _show(pixels: Tensor, form: Form, files: Sequence[Path], fps: float) -> None:
    """Writes the pictures of the first samples: one, and of movies one in which clips play at once."""
    save_picture(_overview(pixels), files[0])
    for movie in files[1:]:
        _WRITE[form](side_by_side(pixels[:PLAYING]), movie, fps)


def _overview(pixels: Tensor) -> Image.Image:
    """The first hundred images in rows of ten, or the first clips as rows of frames."""
    return grid(pixels[:100], min(len(pixels), 10)) if pixels.ndim == 4 else contact_sheet(pixels[:SHEET])
