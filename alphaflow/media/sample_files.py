"""Samples written to disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import LITTER, check_apart, check_writable, foreign, parsed, remove, replacing, write_json
from ..types import Labels
from .clips import DEFAULT_FPS, contact_sheet, frame_rate, side_by_side, write_gif, write_mp4
from .grids import grid, save_picture
from .previews import Chart, Picture

Form = Literal["png", "npz", "npy", "mp4", "gif"]

RECORD = ".alphaflow.json"
"""What says, in a folder of samples, which files they are."""

IMAGES, SHEET, PLAYING, POINTS = 100, 16, 64, 512
"""Images in a picture of the first ones; clips in a contact sheet, and in one in which all play; points in a chart."""

_WRITE = {"mp4": write_mp4, "gif": write_gif}


class Samples(Protocol):
    """Samples one after another, each (c, …), of known number: a tensor (n, c, …), or what makes them one by one.

    8-bit pixels (c, h, w) or (c, f, h, w); or floats, which are no pictures.
    """

    def __len__(self) -> int:
        """How many."""
        ...

    def __iter__(self) -> Iterator[Tensor]:
        """Each of them."""
        ...


Beside = Callable[[], tuple[Tensor | None, Tensor | None]]
"""Gives what the first samples were made from (k, …) and what they should be, as soon as they are made."""


def check_form(form: Form | None, shape: Sequence[int], fps: float | None = None, pictures: bool = True) -> Form:
    """The form that samples of a shape are written in, unless one is chosen: PNG for images, MP4 for clips, else npz.

    Raises:
        UserError: it isn't for such samples, fps is out of range, or images are given any.
    """
    if not pictures:
        if form not in (None, "npz", "npy") or fps is not None:
            wrong = "have no frame rate: leave `fps=` out" if fps is not None else f"can't be {form}: choose npz or npy"
            raise UserError(f"these samples are numbers, {tuple(shape)}, no pictures, and {wrong}")
        return form or "npz"
    if form == "npy":
        raise UserError(f"npy is for samples that are no pictures, and these are, {tuple(shape)}; choose png or npz")
    if fps is not None:
        frame_rate(fps)
        if len(shape) == 3:
            raise UserError(f"these samples are images, {tuple(shape)}, which have no frame rate; leave `fps=` out")
    if form in ("mp4", "gif") and len(shape) == 3:
        raise UserError(f"these samples are images, {tuple(shape)}, and {form} is for clips; choose png or npz")
    return form or ("png" if len(shape) == 3 else "mp4")


def write_samples(
    place: Path,
    make: Callable[[], Samples],
    labels: Labels | Sequence[int] | None,
    class_names: Sequence[str],
    form: Form = "png",
    overwrite: bool = False,
    fps: float = DEFAULT_FPS,
    beside: Beside | None = None,
) -> list[Path]:
    """Writes samples to a folder as they are made, whole or not at all, and beside it pictures of the first of them.

    ``png``, ``mp4``, ``gif``: files NNNNNN, in a folder for each class where there are labels; a clip's PNG has its
    frames side by side. ``npz``: samples.npz with arr_0 (n, h, w, c) or (n, f, h, w, c), 8-bit, and arr_1 (n,), the
    labels, as ADM's evaluation reads them. Samples that are no pictures are floats (n, …), arr_0 of samples.npz or
    ``npy``, samples.npy. Beside the folder: PLACE.png with the first hundred images, or with the first clips as rows of
    their frames, or a chart; and, of ``mp4`` and ``gif``, PLACE.mp4 or .gif, in which clips play at once.

    A record in the folder, `RECORD`, says what was written; only what it names is ever replaced.

    Args:
        place: the folder.
        make: gives the samples, once the folder is known to be free.
        labels: of each sample, there at the latest when it is made; or None.
        class_names: by class index.
        form: as `check_form` gives it.
        overwrite: replace samples that were written there before.
        fps: frames per second of clips.
        beside: what the first ones are shown beside.

    Returns:
        The files beside the folder.

    Raises:
        UserError: it is in use, there is what this didn't write; or samples, and ``overwrite`` is off.
    """
    place = check_apart(place)
    beside_it = [place.with_name(f"{place.name}.{ending}") for ending in ("png", *([form] if form in _WRITE else []))]
    earlier = _check_free(place, beside_it, overwrite)
    with replacing(place) as writing:
        writing.mkdir()
        first = _write_all(writing, make(), labels, class_names, form, fps)
        write_json(writing / RECORD, {"files": sorted(_files(writing)), "beside": [file.name for file in beside_it]})
    for file in earlier:
        remove(file)
    _show(torch.stack(first), form, beside_it, fps, beside)
    return [file for file in beside_it if file.exists()]


def _write_all(
    folder: Path,
    samples: Samples,
    labels: Labels | Sequence[int] | None,
    class_names: Sequence[str],
    form: Form,
    fps: float,
) -> list[Tensor]:
    """Writes all samples; gives the first of them."""
    first: list[Tensor] = []
    if form in ("npz", "npy"):
        _write_arrays(folder / f"samples.{form}", samples, labels, first)
        return first
    folders = folder_names(class_names)
    for index, sample in enumerate(samples):
        _keep(first, sample)
        _write(_within(folder, labels, index, folders), sample, index, form, fps)
    return first


def _within(folder: Path, labels: Labels | Sequence[int] | None, index: int, folders: Sequence[str]) -> Path:
    """The folder of a sample: its class's, or, where it has none, the one of all."""
    label = -1 if labels is None else int(labels[index])
    return folder / folders[label] if 0 <= label < len(folders) else folder


def _keep(first: list[Tensor], sample: Tensor) -> None:
    """Keeps a sample to be shown, if it is one of the first."""
    most = {1: POINTS, 3: IMAGES}.get(sample.ndim, PLAYING)
    if len(first) < most:
        first.append(sample)


def _write_arrays(file: Path, samples: Samples, labels: Labels | Sequence[int] | None, first: list[Tensor]) -> None:
    """Writes an .npz or .npy row by row; keeps the first rows."""
    if file.suffix == ".npy":
        with file.open("wb") as stream:
            _write_rows(stream, samples, first)
        return
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as stream:
            _write_rows(stream, samples, first)
        if labels is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(labels, dtype=np.int64), allow_pickle=False)


def _write_rows(stream: IO[bytes], samples: Samples, first: list[Tensor]) -> None:
    """Writes an array of as many rows as there are samples: pictures with their channels last, others as they are."""
    for index, sample in enumerate(samples):
        _keep(first, sample)
        row = (sample.movedim(0, -1) if sample.dtype == torch.uint8 else sample).contiguous().numpy()
        if index == 0:
            shape = (len(samples), *row.shape)
            about = {"descr": np.lib.format.dtype_to_descr(row.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, about)
        stream.write(row.tobytes())


def _check_free(place: Path, beside: Sequence[Path], overwrite: bool) -> list[Path]:
    """Refuses what is there, unless it is samples, by their record, and they are to be replaced.

    Returns:
        The files beside the folder that are earlier samples'.
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
    return [place.with_name(name) for name in named]


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
        into = _within(folder, labels, index, folders)
        _write(into, sample, start + index, form, fps)


def _write(folder: Path, sample: Tensor, number: int, form: Form, fps: float) -> None:
    """Writes one sample, 8-bit (c, …), as NNNNNN.png, .mp4 or .gif."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{number:06d}.{form}"
    if form in _WRITE:
        _WRITE[form](sample, file, fps)
        return
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


def _show(samples: Tensor, form: Form, files: Sequence[Path], fps: float, beside: Beside | None) -> None:
    """Writes what the first samples look like: a picture or chart, and of movies one in which clips play at once."""
    inputs, truths = (None, None) if beside is None else beside()
    if samples.dtype != torch.uint8:
        stacks = {"input": inputs, "truth": truths, "samples": samples}
        chart = Chart.of({name: stack for name, stack in stacks.items() if stack is not None})
        if chart is not None:
            chart.save(files[0])
        return
    columns, playing, group = min(len(samples), 10), None, 1
    known = [stack for stack in (inputs, truths) if stack is not None]
    if known:
        rows, group = min(map(len, [samples, *known])), len(known) + 1
        cut = [stack if stack is None else stack[:rows] for stack in (inputs, truths)]
        samples, columns, playing = Picture.beside(samples[:rows], *cut).pixels, 3 * group, 3 * group
    shown = {most: samples[: most // group * group] for most in (IMAGES, SHEET, PLAYING)}
    save_picture(grid(shown[IMAGES], columns) if samples.ndim == 4 else contact_sheet(shown[SHEET]), files[0])
    for movie in files[1:]:
        _WRITE[form](side_by_side(shown[PLAYING], playing), movie, fps)
