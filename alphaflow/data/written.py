"""Samples written to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from ..plots import grid, save_picture
from ..types import Labels


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
    with replacing(place) as beside:
        beside.mkdir()
        if form == "npz":
            arrays = pixels.permute(0, 2, 3, 1).numpy()
            named = {"arr_0": arrays} if labels is None else {"arr_0": arrays, "arr_1": labels.numpy()}
            np.savez(beside / "samples.npz", allow_pickle=False, **named)
        else:
            write_pictures(beside, pixels, labels, class_names)
    columns = min(len(pixels), 10)
    save_picture(grid(pixels[:100], columns), picture_file)


def write_pictures(
    folder: Path, pixels: Tensor, labels: Labels | None, class_names: Sequence[str], start: int = 0
) -> None:
    """Writes 8-bit pixels (n, c, h, w) as NNNNNN.png, in folders by class; ``start`` is the first one's number."""
    for index, array in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        into = folder if labels is None else folder / class_names[int(labels[index])]
        into.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        picture.save(into / f"{start + index:06d}.png")
