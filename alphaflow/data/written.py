"""Image sets on disk: samples that were written, and reading them and others back."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from ..plots import grid, save_picture
from ..types import Labels
from .base import to_bytes
from .folders import ImageFolder
from .images import Mode


def write_samples(
    place: Path,
    make: Callable[[], Tensor],
    labels: Labels | None,
    class_names: Sequence[str],
    form: str = "png",
    overwrite: bool = False,
) -> None:
    """Writes samples to a folder, whole or not at all, and a picture of the first hundred beside it.

    ``png``: files NNNNNN.png, in a folder for each class where there are labels. ``npz``: samples.npz with arr_0
    (n, h, w, c), 8-bit, and arr_1 (n,), the labels, as ADM's evaluation reads them.

    Args:
        place: the folder.
        make: makes the samples, 8-bit pixels (n, c, h, w); called once the folder is known to be free.
        labels: (n,), or None.
        class_names: by class index.
        form: ``"png"`` or ``"npz"``.
        overwrite: replace what is there.

    Raises:
        UserError: the folder is there and not empty, or the picture is there, and ``overwrite`` is off.
    """
    place = place.resolve()
    picture_file = place.with_name(place.name + ".png")
    taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    if not overwrite and (taken or picture_file.exists()):
        which = f"{place} is not empty" if taken else f"{picture_file} exists"
        raise UserError(f"{which}; choose another --out, or replace it with --overwrite")
    pixels = make()
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    with replacing(place) as beside:
        beside.mkdir()
        if form == "npz":
            named = {"arr_0": arrays} if labels is None else {"arr_0": arrays, "arr_1": labels.numpy()}
            np.savez(beside / "samples.npz", allow_pickle=False, **named)
        else:
            for index, array in enumerate(arrays):
                folder = beside if labels is None else beside / class_names[int(labels[index])]
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
                picture.save(folder / f"{index:06d}.png")
    columns = min(len(pixels), 10)
    save_picture(grid(pixels[:100], columns), picture_file)


def read_images(path: Path, size: int | None = None, mode: Mode | None = None) -> tuple[Tensor, list[str] | None]:
    """Images on disk, 8-bit (n, c, h, w), and each one's class name, or None where there are no classes.

    Args:
        path: a folder or a zip of images (``CLASS/NAME.png``), or an .npz with arr_0 (n, h, w, c), 8-bit, and
            optionally arr_1, the labels.
        size: images are centre-cropped and scaled to it; None takes them as they are. Arrays are never scaled.
        mode: ``"RGB"`` or ``"L"``, for image files; None takes ``"L"`` where every file is greyscale.

    Raises:
        UserError: nothing there, or it can't be read.
    """
    if path.suffix == ".npz":
        return _read_npz(path)
    folder = ImageFolder(path, size=size, mode=mode)
    batches = [(to_bytes(batch.x), batch.cond.labels) for batch in folder.once()]
    pixels = torch.cat([x for x, _ in batches])
    names = folder.class_names
    found = [names[int(label)] for _, labels in batches if labels is not None for label in labels]
    return pixels, found or None


def _read_npz(path: Path) -> tuple[Tensor, list[str] | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["arr_0"]
            labels = arrays.get("arr_1", None)
    except FileNotFoundError as error:
        raise UserError(f"{path} doesn't exist") from error
    except KeyError as error:
        raise UserError(f"{path} holds no arr_0; expected images (n, h, w, c), 8-bit, under that name") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no readable .npz ({error}); pickled objects are refused") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(f"{path}: arr_0 must be 8-bit (n, h, w, 1 or 3), got {images.dtype} {images.shape}")
    names = None if labels is None else [str(label) for label in labels.tolist()]
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), names
