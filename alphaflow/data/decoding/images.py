"""Pictures: telling them by their content, decoding them, cropping them."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .sizes import Size, sides

Mode = Literal["RGB", "L", "RGBA"]

Crop = Literal["adm", "centre", "resize"]

NAMES = {
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT", "JPEG",
    "JPEG2000", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP",
    "XBM", "XPM", "XVTHUMB",
}  # fmt: skip
"""Pillow's names of the formats that are pictures and that it decodes by itself.

Not EPS, which Ghostscript decodes; not IPTC, which may hold any other format, EPS too; not FPX and MIC, which need
another package; not FITS, MCIDAS and SPIDER, which hold measurements, whose white isn't known; not those without a
decoder (BUFR, GRIB, HDF5, MPEG, WMF) or a reader (PALM, PDF).
"""

Image.preinit()

Image.init()

FORMATS = tuple(
    sorted(NAMES.intersection(Image.ID), key=lambda name: (Image.OPEN[name][1] is None, Image.ID.index(name)))
)
"""The formats that this Pillow reads, as `Image.open` takes them; those without a magic number are tried last."""

BY_MAGIC = {
    "AVIF", "BLP", "DCX", "DDS", "FLI", "FTEX", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PNG", "PSD", "QOI", "TIFF",
    "WEBP", "XPM", "XVTHUMB",
}  # fmt: skip
"""Formats with a magic number of three bytes or more, whose headers may reach far into the file or need decoding."""

HEAD = 4096
"""Bytes in which the headers of all others lie."""

UNREADABLE = (
    UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, RuntimeError, TypeError, AttributeError,
    LookupError, ArithmeticError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What Pillow and zipfile raise for damaged, encrypted, or foreign files."""


def image_mode(channels: int) -> Mode:
    """The mode of images with so many channels: greyscale for one, with transparency for four."""
    modes: dict[int, Mode] = {1: "L", 4: "RGBA"}
    return modes.get(channels, "RGB")


def is_picture(stream: BinaryIO) -> bool:
    """Whether a stream holds a picture of one of `FORMATS`, by its first bytes; what follows them may be missing.

    Reads at most `HEAD` bytes from where the stream stands, and raises what reading them raises, nothing else.
    """
    head = stream.read(HEAD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(_takes(name, head) for name in FORMATS)


def _takes(name: str, head: bytes) -> bool:
    factory, accept = Image.OPEN[name]
    try:
        if accept is not None and accept(head[:16]) is not True:  # words say that this Pillow lacks the decoder
            return False
        if name not in BY_MAGIC:
            factory(io.BytesIO(head), "")
    except Exception:
        return False
    return True


def decode(data: bytes, mode: Mode = "RGB") -> Image.Image:
    """Decodes a picture of `FORMATS`, of any mode (greyscale, palette, CMYK, 16-bit, alpha), to 8-bit ``mode``.

    The EXIF orientation is applied; transparency is laid over white, unless ``mode`` keeps it; 16 bits become 8 by
    their upper half. Of several pictures in a file the first is taken.

    Raises:
        DecompressionBombError: of Pillow's: it has more than `Image.MAX_IMAGE_PIXELS` pixels.
        UNREADABLE: any of these: no picture, a damaged one, or one whose greys or transparency can't be told.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            _mend(image)
            if image.format == "PNG":
                _check_sums(data)
            image.load()
        except Image.DecompressionBombWarning as warning:
            raise Image.DecompressionBombError(str(warning)) from warning
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = _upper_half(upright, _tags(image))
    if upright.mode == "La":
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if mode == "RGBA":
            return upright
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    if upright.mode not in ("1", "L", "RGB"):
        upright = upright.convert("RGB")
    return upright if upright.mode == mode else upright.convert(mode)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """A TIFF's tags by their numbers; none of other formats."""
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def _mend(image: Image.Image) -> None:
    """Before decoding: refuses what Pillow would show wrongly, and scales a PNG's clear grey as its pixels are."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # those are scaled to 16 bits
        raise ValueError("its values are numbers, and which one is white isn't known; store 8 or 16 bits instead")
    tags = _tags(image)
    if tags.get(254) == 1:
        raise ValueError("its first picture is a small copy of another, as in a camera's raw file; develop that")
    if tags.get(322, 0) * tags.get(323, 0) > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError("its tiles are larger than any picture may be")
    if tags.get(262) == 6 and image.mode == "RGB" and image.tile and image.tile[0][0] == "raw":  # type: ignore[attr-defined]
        raise ValueError("Pillow before 13 misreads uncompressed YCbCr; install a newer one")
    clear = image.info.get("transparency")
    stored = str(image.tile[0][3]) if isinstance(image, PngImageFile) and image.tile else ""
    if stored in ("L;2", "L;4") and clear is not None:
        bits = int(stored[-1])
        image.info["transparency"] = clear % 2**bits * 255 // (2**bits - 1)
    if stored == "RGB;16B" and clear is not None:
        raise ValueError("one of its 16-bit colours is transparent, and can't be told from its neighbours at 8 bits")


def _check_sums(data: bytes) -> None:
    """Those of a PNG's pixels, at which Pillow doesn't look."""
    at = 8
    kind = b""
    rest = memoryview(data)
    while at + 12 <= len(data) and kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if kind == b"IDAT" and rest[end : end + 4] != struct.pack(">I", zlib.crc32(rest[at + 4 : end])):
            raise ValueError("damaged: a check sum of its pixels is wrong")
        at = end + 4


def _upper_half(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """A greyscale image of 16 bits (or 12, by its TIFF tags) as one of 8, its transparent value white."""
    values, bits = np.asarray(image), tags.get(258, (16,))[0]
    clear = values == image.info.get("transparency", -1)
    greys = (~values if tags.get(262) == 0 else values) >> (bits - 8)  # white is zero: Pillow leaves it so
    return Image.fromarray(np.where(clear, 255, greys).astype(np.uint8))


def crop(image: Image.Image, size: Size, how: Crop) -> Image.Image:
    """An image as a square, ``size`` pixels wide, or as a rectangle of (h, w).

    Args:
        image: image of mode RGB, RGBA or L.
        size: pixels along each side, or (h, w).
        how: ``"adm"``: `centre_crop` (ADM, DiT, MeanFlow); ``"centre"``: the largest part of the wanted aspect in the
            centre, Lanczos (α-Flow's official runs); ``"resize"``: bicubic to this size, whatever its aspect.

    Raises:
        ValueError: by `centre_crop`.
    """
    if how == "adm":
        return centre_crop(image, size)
    height, width = sides(size)
    if how == "resize":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    w, h = image.size
    if w * height >= h * width:
        w = max(round(h * width / height), 1)
    else:
        h = max(round(w * height / width), 1)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h)).resize((width, height), Image.Resampling.LANCZOS)


def centre_crop(image: Image.Image, size: Size) -> Image.Image:
    """The centre square, ``size`` pixels wide, as ADM, DiT and MeanFlow crop (arXiv 2105.05233); or a rectangle (h, w).

    Halves by box averaging while both sides are at least twice what is wanted, then scales with a bicubic filter so
    that the rectangle just fits in, then cuts out the middle.

    Raises:
        ValueError: scaled so, it would have more than `Image.MAX_IMAGE_PIXELS` pixels.
    """
    given, (h, w) = image.size, sides(size)
    while image.width >= 2 * w and image.height >= 2 * h:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(w / image.width, h / image.height)
    if scale != 1:
        width, height = round(image.width * scale), round(image.height * scale)
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
            unequal = f"{given[0]:,} × {given[1]:,} pixels"
            raise ValueError(f"{unequal}: its sides are too unequal to be scaled to {size}")
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h))
