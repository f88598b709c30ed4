"""Image files: finding them in a folder or a zip, decoding them, cropping them."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from .kinds import IMAGES, nothing_of
from .processes import PerProcess

Mode = Literal["RGB", "L"]

UNREADABLE = (
    UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, RuntimeError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What Pillow and zipfile raise for damaged, encrypted, or foreign files."""


class ImageSource:
    """The image files under a folder, or in a zip, in sorted order.

    Args:
        path: a folder (links are followed, each real folder once) or a .zip file.

    Attributes:
        names: the files' paths inside the source, with forward slashes.

    Raises:
        UserError: the path doesn't exist, is no folder and no zip, or holds no images.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip = None if self.path.is_dir() else PerProcess(partial(_open_zip, self.path))
        self._lock = PerProcess(threading.Lock)
        if self._zip is None:
            found = list(walk(self.path))
        elif self.path.is_file():
            found = self._zip().namelist()
        else:
            raise UserError(f"{self.path} doesn't exist; give a folder or a zip of images, CLASS/NAME.jpg or .png")
        self.names = sorted(name for name in found if _is_image(name))
        if not self.names:
            raise nothing_of("images", self.path, found)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        if self._zip is None:
            return (self.path / name).read_bytes()
        with self._lock():
            return self._zip().read(name)

    def image(self, name: str, mode: Mode, size: int | None = None) -> np.ndarray:
        """A decoded image, (h, w, 3) or (h, w) for mode ``"L"``, 8-bit; centre-cropped to ``size`` if given.

        Raises:
            UserError: the file can't be decoded.
        """
        try:
            image = decode(self.read(name), mode)
        except UNREADABLE as error:
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise UserError(f"can't read the image {self.path / name}: {reason}; repair or remove it") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"the image {self.path / name} is too large to decode safely; remove it") from error
        return np.asarray(image if size is None else centre_crop(image, size))

    def mode(self) -> Mode:
        """``"L"`` where every file is a greyscale image, else ``"RGB"``; stops at the first that isn't."""
        grey = all(self._header_mode(name) in ("1", "L", "LA", "I", "I;16") for name in self.names)
        return "L" if grey else "RGB"

    def _header_mode(self, name: str) -> str:
        try:
            with Image.open(io.BytesIO(self.read(name))) as image:
                return image.mode
        except (*UNREADABLE, Image.DecompressionBombError):
            return "unreadable"  # reported when it is decoded


def class_folders(names: list[str]) -> tuple[list[str], list[int]]:
    """Classes from folders: the class names, sorted, and each file's class index.

    A file's class is the folder it lies in; what all folders share at the front is no part of the name. Files that all
    lie in one folder have no classes: two empty lists.

    Raises:
        UserError: some files lie in class folders and others above them.
    """
    parents = [PurePosixPath(name).parent.parts for name in names]
    distinct = sorted(set(parents))
    if len(distinct) == 1:
        return [], []
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*distinct, strict=False)))
    stray = next((name for name, parent in zip(names, parents, strict=True) if len(parent) == shared), None)
    if stray is not None:
        raise UserError(f"{stray} lies above the class folders; move it into one, or remove it")
    index = {parent: i for i, parent in enumerate(distinct)}
    return ["/".join(parent[shared:]) for parent in distinct], [index[parent] for parent in parents]


def image_mode(channels: int) -> Mode:
    """The mode of images with so many channels: greyscale for one."""
    return "L" if channels == 1 else "RGB"


def decode(data: bytes, mode: Mode = "RGB") -> Image.Image:
    """Decodes an image of any mode (greyscale, palette, CMYK, 16-bit, alpha) to 8-bit ``mode``.

    The EXIF orientation is applied; transparency is laid over white; 16 bits become 8 by their upper half.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombWarning as warning:
            raise Image.DecompressionBombError(str(warning)) from warning
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square, ``size`` pixels wide, as ADM, DiT and MeanFlow crop (arXiv 2105.05233).

    Halves by box averaging while the shorter side is at least twice the size, then scales the shorter side to it with
    a bicubic filter, then cuts out the middle.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    if scale != 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no folder and no readable zip ({error}); give one of both") from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in IMAGES and not hidden


def walk(root: Path) -> Iterator[str]:
    """The files under a folder, as paths inside it with forward slashes; links are followed, each real folder once.

    Raises:
        UserError: a folder can't be read: its files would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"can't read the folder {error.filename}: {error.strerror}; make it readable, or move it away")

    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        for file in files:
            yield (Path(folder) / file).relative_to(root).as_posix()
