"""Pictures: every mode and crop against definitions written here with NumPy; bombs, damage, and what is no picture."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps, features
from PIL import __version__ as pillow

from alphaflow.data.decoding.images import FORMATS, HEAD, UNREADABLE, Crop, centre_crop, crop, decode, is_picture
from alphaflow.data.listing.endings import IMAGES

Array = np.ndarray[Any, Any]
NOISE = np.random.default_rng(0)
COLOURS = NOISE.integers(0, 256, (7, 9, 3), dtype=np.uint8)
GREYS, ALPHA = COLOURS[..., 0], COLOURS[..., 1]
WORDS = NOISE.integers(0, 65536, (7, 9), dtype=np.uint16)
INDICES = NOISE.integers(0, 6, (7, 9), dtype=np.uint8)
PALETTE = NOISE.integers(0, 256, (6, 3), dtype=np.uint8)


def stored(image: Image.Image | Array, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def of_mode(mode: str, array: Array) -> Image.Image:
    return Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes())


def packed(values: Array, bits: int) -> Array:
    """Rows of values of so many bits, as bytes."""
    words = np.unpackbits(values.astype(">u2").reshape(len(values), -1, 1).view(np.uint8), axis=2)
    return np.packbits(words[..., 16 - bits :].reshape(len(values), -1), axis=1)


def png(depth: int, values: Array, clear: int | tuple[int, ...]) -> bytes:
    """A greyscale (h, w) or colour (h, w, 3) PNG of so many bits, with a transparent value."""
    raw = b"".join(b"\0" + row.tobytes() for row in packed(values, depth))
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], depth, 2 * (values.ndim - 2), 0, 0, 0)
    return chunks(IHDR=header, tRNS=np.array(clear, ">u2").tobytes(), IDAT=zlib.compress(raw))


def chunks(**parts: bytes) -> bytes:
    """A PNG of these chunks."""
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in {**parts, "IEND": b""}.items():
        out += struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
    return out


def tiff(array: Array, tags: dict[int, int], order: str = "<") -> bytes:
    """An uncompressed TIFF; ``tags`` are words, one of each."""
    height, width = array.shape[:2]
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    entries = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: 1, 277: array[0, 0].size, 278: height}
    entries = dict(sorted({**entries, **tags, 273: 8, 279: len(data)}.items()))
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data)) + data
    out += struct.pack(order + "H", len(entries))
    return out + b"".join(struct.pack(order + "HHI" + "HH", tag, 3, 1, v, 0) for tag, v in entries.items()) + bytes(4)


def like(alpha: Array, colours: Array) -> Array:
    return np.asarray(alpha[..., None] if colours.ndim > alpha.ndim else alpha, int)


def over_white(colours: Array, alpha: Array) -> Array:
    """(c · a + 255 · (255 − a)) / 255, to the nearest."""
    a = like(alpha, colours)
    return np.asarray((2 * (colours.astype(int) * a + 255 * (255 - a)) + 255) // 510)


def rgb(greys: Array) -> Array:
    return np.repeat(np.asarray(greys)[..., None], 3, axis=-1)


def from_ycc(ycc: Array) -> Array:
    """JFIF's matrix in Pillow's arithmetic: products in 64ths, rounded, sums rounded down."""
    y, cb, cr = (ycc[..., i].astype(int) - (0, 128, 128)[i] for i in range(3))

    def part(factor: float, chroma: Array) -> Array:
        return np.trunc(factor * 64 * chroma + 0.5).astype(int)

    red, blue = y + (part(1.402, cr) >> 6), y + (part(1.772, cb) >> 6)
    return np.stack([red, y + ((part(-0.34414, cb) + part(-0.71414, cr)) >> 6), blue], -1).clip(0, 255)


def from_cmyk(cmyk: Array) -> Array:
    ink, rest = cmyk[..., :3].astype(int), 255 - cmyk[..., 3:].astype(int)
    return np.asarray((rest - (2 * ink * rest + 255) // 510).clip(0, 255))


def straight(colours: Array, alpha: Array) -> Array:
    """Premultiplied colours undone as Pillow does: rounded down, clipped; 0 where all is clear."""
    a = like(alpha, colours)
    return np.where(a == 0, 0, (colours.astype(int) * 255 // np.maximum(a, 1)).clip(0, 255))


CMYK = np.concatenate([COLOURS, GREYS[::-1, :, None]], -1)
RGBA = np.concatenate([COLOURS, ALPHA[::-1, :, None]], -1)
INK = np.kron(NOISE.integers(0, 256, (3, 4, 4)), np.ones((8, 8, 1))).astype(np.uint8)  # a colour a block: JPEG is exact
INDEXED = of_mode("P", INDICES)
INDEXED.putpalette(PALETTE.tobytes())
WITH_ALPHA = INDEXED.convert("PA")
WITH_ALPHA.putalpha(of_mode("L", ALPHA))
COLOUR = tuple(COLOURS[4, 4].tolist())
FEW = np.arange(32).reshape(4, 8)
TWELVE = packed(WORDS[:, :8] >> 4, 12)
SEEN = np.where(WORDS[2, 3] == WORDS, 255, WORDS >> 8)

CASES = {
    "1": (stored(of_mode("L", GREYS).convert("1", dither=Image.Dither.NONE)), rgb(np.where(GREYS > 127, 255, 0))),
    "L": (stored(GREYS), rgb(GREYS)),
    "L, one clear": (stored(GREYS, transparency=int(GREYS[1, 1])), rgb(np.where(GREYS[1, 1] == GREYS, 255, GREYS))),
    "4 bits, one clear": (png(4, FEW % 16, 5), rgb(np.where(FEW % 16 == 5, 255, FEW % 16 * 17))),
    "2 bits, one clear": (png(2, FEW % 4, 2), rgb(np.where(FEW % 4 == 2, 255, FEW % 4 * 85))),
    "LA": (stored(of_mode("LA", np.stack([GREYS, ALPHA], -1))), rgb(over_white(GREYS, ALPHA))),
    "La": (tiff(np.stack([GREYS, ALPHA], -1), {338: 1}), rgb(over_white(straight(GREYS, ALPHA), ALPHA))),
    "P": (stored(INDEXED), PALETTE[INDICES]),
    "P, one clear": (stored(INDEXED, transparency=3), np.where(rgb(INDICES == 3), 255, PALETTE[INDICES])),
    "P, bytes": (stored(INDEXED, transparency=bytes(range(0, 240, 40))), over_white(PALETTE[INDICES], INDICES * 40)),
    "PA": (stored(WITH_ALPHA, "TIFF"), over_white(PALETTE[INDICES], ALPHA)),
    "GIF, one clear": (stored(INDEXED, "GIF", transparency=2), np.where(rgb(INDICES == 2), 255, PALETTE[INDICES])),
    "I, from PGM": (b"P5\n9 7\n65535\n" + WORDS.astype(">u2").tobytes(), rgb(WORDS >> 8)),
    "I;16": (stored(WORDS), rgb(WORDS >> 8)),
    "I;16, one clear": (stored(WORDS, transparency=int(WORDS[2, 3])), rgb(SEEN)),
    "I;16, TIFF": (tiff(WORDS, {}), rgb(WORDS >> 8)),
    "I;16, white is zero": (tiff(WORDS, {262: 0}), rgb((65535 - WORDS) >> 8)),
    "12 bits, TIFF": (tiff(TWELVE, {256: 8, 258: 12}), rgb(WORDS[:, :8] >> 8)),
    "I;16B": (tiff(WORDS, {}, ">"), rgb(WORDS >> 8)),
    "RGB": (stored(COLOURS), COLOURS),
    "RGB, one clear": (
        stored(COLOURS, transparency=COLOUR),
        np.where((COLOURS == COLOUR).all(-1)[..., None], 255, COLOURS),
    ),
    "RGBA": (stored(of_mode("RGBA", RGBA)), over_white(COLOURS, RGBA[..., 3])),
    "RGBa": (tiff(RGBA, {262: 2, 338: 1}), over_white(straight(COLOURS, RGBA[..., 3]), RGBA[..., 3])),
    "RGBX": (tiff(RGBA, {262: 2, 338: 0}), COLOURS),
    "CMYK": (stored(of_mode("CMYK", CMYK), "TIFF"), from_cmyk(CMYK)),
    "CMYK, Adobe": (stored(of_mode("CMYK", INK), "JPEG", quality=100, subsampling=0), from_cmyk(INK)),
    "YCbCr": (tiff(COLOURS, {262: 6}), from_ycc(COLOURS)),
    "WebP": (stored(of_mode("RGBA", RGBA), "WEBP", lossless=True, exact=True), over_white(COLOURS, RGBA[..., 3])),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mode_by_its_definition(name: str) -> None:
    data, expected = CASES[name]
    if name in ("La", "YCbCr") and int(pillow.split(".")[0]) < 13:
        pytest.skip("this Pillow can't read it from a TIFF")
    assert is_picture(io.BytesIO(data))
    found = decode(data)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)
    grey = (expected.astype(int) @ np.array([19595, 38470, 7471]) + 32768) >> 16  # ITU-R 601-2
    assert np.array_equal(np.asarray(decode(data, "L")), grey)


def test_lab_as_near_as_tables_are() -> None:
    """CIE L*a*b* under D50 by its formulas."""
    ab = (COLOURS[..., 1:] % 32).astype(float) - 16
    lab = np.concatenate([np.linspace(120, 220, 63).reshape(7, 9, 1).round(), ab], -1)
    lightness, a, b = lab[..., 0] * 100 / 255, lab[..., 1], lab[..., 2]
    f = (lightness + 16) / 116
    f = np.stack([f + a / 500, f, f - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * (0.9642, 1.0, 0.8249)
    linear = xyz @ np.array(
        [[3.1338561, -0.9787684, 0.0719453], [-1.6168667, 1.9161415, -0.2289914], [-0.4906146, 0.0334540, 1.4052427]]
    )
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found = np.asarray(decode(tiff((lab % 256).astype(np.uint8), {262: 8}))).astype(int)
    assert np.abs(found - expected).max() < 2


ORIENTED: dict[str, tuple[Any, str, dict[str, Any], Array]] = {
    "L": (GREYS, "PNG", {}, rgb(GREYS)),
    "I;16": (WORDS, "PNG", {"transparency": int(WORDS[2, 3])}, rgb(SEEN)),
    "I;16B": (of_mode("I;16B", WORDS.astype(">u2")), "TIFF", {}, rgb(WORDS >> 8)),
    "P": (INDEXED, "PNG", {"transparency": 3}, np.where(rgb(INDICES == 3), 255, PALETTE[INDICES])),
    "RGBA": (of_mode("RGBA", RGBA), "PNG", {}, over_white(COLOURS, RGBA[..., 3])),
    "CMYK": (of_mode("CMYK", CMYK), "TIFF", {"compression": "tiff_lzw"}, from_cmyk(CMYK)),
    "JPEG": (of_mode("CMYK", INK), "JPEG", {"quality": 100, "subsampling": 0}, from_cmyk(INK)),
    "WebP": (COLOURS, "WEBP", {"lossless": True}, COLOURS),
}
SIDES = ["top left", "top right", "bottom right", "bottom left", "left top", "right top", "right bottom", "left bottom"]


@pytest.mark.parametrize("kind", ORIENTED)
@pytest.mark.parametrize("sides", SIDES)
def test_orientations_by_the_sides_that_exif_names(kind: str, sides: str) -> None:
    """At which side of the picture the first row lies, and at which the first column."""
    image, file, options, expected = ORIENTED[kind]
    exif = Image.Exif()
    exif[274] = 1 + SIDES.index(sides)
    upright = expected.swapaxes(0, 1) if sides.startswith(("left", "right")) else expected
    upright = upright[:: -1 if "bottom" in sides else 1, :: -1 if "right" in sides else 1]
    assert np.array_equal(np.asarray(decode(stored(image, file, exif=exif, **options))), upright)


REFUSED = {
    "float TIFF": (stored(WORDS.astype(np.float32), "TIFF"), "which one is white isn't known"),
    "32-bit TIFF": (stored(WORDS.astype(np.int32), "TIFF"), "which one is white isn't known"),
    "PFM": (b"Pf\n9 7\n-1\n" + bytes(252), "which one is white isn't known"),
    "a thumbnail first": (tiff(GREYS, {254: 1}), "a small copy of another"),
    "a 16-bit colour clear": (png(16, rgb(WORDS), tuple(rgb(WORDS)[0, 0])), "one of its 16-bit colours is transparent"),
    "a check sum": (CASES["RGB"][0][:-20] + bytes(4) + CASES["RGB"][0][-16:], "a check sum of its pixels is wrong"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_shown_wrongly_is_refused(name: str) -> None:
    data, reason = REFUSED[name]
    assert is_picture(io.BytesIO(data))
    with pytest.raises(ValueError, match=reason):
        decode(data)


def box(values: Array, axis: int) -> Array:
    """Half as many values, each the mean of those whose centres lie under it, in 2⁻²² steps, rounded to 8 bits."""
    values = np.moveaxis(values.astype(int), axis, 0)
    count = len(values) // 2
    scale, rows = len(values) / count, []
    for i in range(count):
        centre = (i + 0.5) * scale
        low, high = int(centre - scale / 2 + 0.5), min(int(centre + scale / 2 + 0.5), len(values))
        under = [j for j in range(low, high) if -0.5 < (j - centre + 0.5) * (1 / scale) <= 0.5]
        rows.append((values[under].sum(0) * int(0.5 + 2**22 / len(under)) + 2**21) >> 22)
    return np.moveaxis(np.stack(rows), 0, axis)


def adm(pixels: Array, size: int, first: int) -> Array:
    """center_crop_arr of guided-diffusion's image_datasets.py, the halving in NumPy, along one side first."""
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = box(box(pixels, first), 1 - first)
    scale = size / min(pixels.shape[:2])
    sides = tuple(round(side * scale) for side in pixels.shape[1::-1])
    pixels = np.array(Image.fromarray(pixels.astype(np.uint8)).resize(sides, resample=Image.Resampling.BICUBIC))
    y, x = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[y : y + size, x : x + size]


@pytest.mark.parametrize("sides", [(64, 64), (99, 67), (70, 200), (16, 33), (31, 16), (7, 90), (257, 64), (1, 40)])
@pytest.mark.parametrize("size", [16, 31])
def test_crops_by_their_definitions(sides: tuple[int, int], size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (*sides, 3), dtype=np.uint8)
    side = min(sides)
    y, x = (sides[0] - side) // 2, (sides[1] - side) // 2
    for array in (pixels, np.ascontiguousarray(pixels[..., 0])):
        image, middle = Image.fromarray(array), Image.fromarray(array[y : y + side, x : x + side])
        found = {how: np.asarray(crop(image, size, how)) for how in get_args(Crop)}
        either = [adm(array, size, first) for first in (1, 0)]  # which side is halved first depends on Pillow's version
        assert any(np.array_equal(found["adm"], expected) for expected in either)
        assert np.array_equal(found["centre"], np.asarray(middle.resize((size, size), Image.Resampling.LANCZOS)))
        assert np.array_equal(found["resize"], np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))


def test_crops_have_their_size_whatever_the_sides() -> None:
    """No rounding makes the shorter side too short, and no halving makes a side vanish."""
    for size in (1, 2, 3, 7, 49, 255):
        for width, height in [[1, 1], [1, 99], [99, 1], [size, 1], *NOISE.integers(1, 600, (60, 2)).tolist()]:
            image = centre_crop(Image.new("L", (width, height), 9), size)
            assert image.size == (size, size)
            assert image.getextrema() == (9, 9)  # nothing from outside the picture


def peak() -> int:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_thin_pictures_are_refused_before_they_grow() -> None:
    data = stored(Image.new("RGB", (1, 500_000)))
    began, before = time.perf_counter(), peak()
    with pytest.raises(ValueError, match=r"^1 × 500,000 pixels: its sides are too unequal to be scaled to 256$"):
        crop(decode(data), 256, "adm")
    assert time.perf_counter() - began < 2
    assert peak() - before < 100
    for how in ("centre", "resize"):
        assert crop(decode(data), 256, how).size == (256, 256)
    assert crop(decode(data), 4, "adm").size == (4, 4)


def test_large_pictures_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own size, by that of a picture inside an icon, by that of a tile."""
    before = peak()
    large = chunks(IHDR=struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0), IDAT=zlib.compress(bytes(12_510_000)))
    for data in (large, b"P5\n20000 20000\n255\n"):  # Pillow warns of the first, and refuses the second
        assert is_picture(io.BytesIO(data))
        with pytest.raises(Image.DecompressionBombError):
            decode(data)
    tile = tiff(GREYS, {259: 8, 322: 40_000, 323: 40_000, 324: 8, 325: 63})
    with pytest.raises(Image.DecompressionBombError, match="tiles"):
        decode(tile)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(large), 22) + large
    assert is_picture(io.BytesIO(icon))
    with pytest.raises(Image.DecompressionBombError):
        decode(icon)
    assert peak() - before < 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREYS.size)
    assert decode(stored(GREYS)).size == (9, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREYS.size - 1)
    with pytest.raises(Image.DecompressionBombError):
        decode(stored(GREYS))


SAVED: dict[str, dict[str, Any]] = {
    "JPEG": {}, "PNG": {}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}, "TGA": {},
    "PCX": {}, "JPEG2000": {"irreversible": False}, "AVIF": {}, "DDS": {}, "ICO": {}, "ICNS": {}, "SGI": {}, "DIB": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", SAVED)
def test_truncated_files_are_pictures_and_are_rejected(kind: str) -> None:
    if kind not in FORMATS or (kind == "AVIF" and not features.check("avif")) or (kind == "DDS" and pillow < "13"):
        pytest.skip(f"this Pillow can't write {kind}, or doesn't see where it ends")
    data = stored(NOISE.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind, **SAVED[kind])
    assert decode(data).size == (64, 64) or kind == "ICNS"
    assert is_picture(io.BytesIO(data))
    assert is_picture(io.BytesIO(data[: len(data) * 2 // 3]))
    with pytest.raises(UNREADABLE):
        decode(data[: len(data) * 2 // 3])


def test_what_is_no_picture() -> None:
    """Text, archives, code, arrays, and any damage to a head; no more than the head is read."""
    zipped, array = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=zipped, mode="w:gz") as archive:
        archive.add(__file__, "x.py")
    np.save(array, GREYS)
    texts = [b"#define WIDTH 3\n#define HEIGHT 4\n", b"Date: today\n\nDear\n", b"P3 b", b"BM", b"", b"%PDF-1.7\n"]
    for data in (*texts, Path(__file__).read_bytes(), zipped.getvalue(), array.getvalue()):
        assert not is_picture(io.BytesIO(data)), data[:30]
    for byte in (b"\0", b"\n", b"P", b" ", b"\xff"):
        stream = io.BytesIO(byte * 10**6)
        assert not is_picture(stream)
        assert stream.tell() <= HEAD
    heads = [*(data for data, _ in CASES.values()), *(stored(COLOURS, kind) for kind in ("BMP", "TGA", "PCX", "PPM"))]
    for seed in range(1000):
        noise = np.random.default_rng(seed)
        head = np.frombuffer(heads[seed % len(heads)], np.uint8).copy()
        head[noise.integers(0, min(len(head), 64), 4)] = noise.integers(0, 256, 4)
        is_picture(io.BytesIO(head.tobytes()))
    assert not any(is_picture(io.BytesIO(NOISE.bytes(4000))) for _ in range(300))


def test_formats() -> None:
    assert {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"} <= set(FORMATS) <= set(Image.OPEN)
    assert not {"EPS", "IPTC", "WMF", "HDF5", "GRIB", "BUFR", "MPEG", "FITS"} & set(FORMATS)


def test_no_outside_program_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Pillow calls the `gs` that it finds for an EPS, also for one inside an IPTC file."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n%%EndComments\n%%EOF\n"
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x09"), (3, 30, b"\0\7"), (3, 120, b"\5"), (8, 10, eps)]
    iptc = b"".join(struct.pack(">BBBH", 28, section, number, len(d)) + d for section, number, d in fields)
    for data in (eps, iptc):
        assert not is_picture(io.BytesIO(data))
        with pytest.raises(UNREADABLE):
            decode(data)
        assert not (tmp_path / "called").exists()
        with pytest.raises((OSError, subprocess.CalledProcessError)), Image.open(io.BytesIO(data)) as image:
            image.load()
        assert (tmp_path / "called").exists()
        (tmp_path / "called").unlink()
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


def plain(data: bytes) -> tuple[str, Array | None]:
    """The format that Pillow itself finds, and its pixels over white, or None where it fails."""
    kind = ""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, upright = image.format or "", ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                return kind, rgb(np.asarray(upright) >> 8)
            rgba = np.asarray((upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA"))
            return kind, over_white(rgba[..., :3], rgba[..., 3])
    except Exception:
        return kind, None


def installed(_: Path) -> Iterator[tuple[str, bytes]]:
    for file in (file for file in Path(np.__file__).parents[1].rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            if is_picture(stream) or file.suffix.lower() in IMAGES:
                yield str(file), file.read_bytes()


def published(place: Path) -> Iterator[tuple[str, bytes]]:
    if not os.environ.get("ALPHAFLOW_NETWORK"):
        pytest.skip("downloads 47 MB: set ALPHAFLOW_NETWORK=1 where there is a network")
    wanted = ["--no-deps", "--no-binary", ":all:", f"pillow=={pillow}", "--dest", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "download", *wanted], check=True, capture_output=True)
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        for member in archive:
            if member.isfile() and "/Tests/images/" in member.name:
                yield member.name, archive.extractfile(member).read()  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", [installed, published])
def test_pictures_of_others(source: Callable[[Path], Iterator[tuple[str, bytes]]], tmp_path: Path) -> None:
    """Those in installed packages, and those with which Pillow is tested: read as by Pillow, or refused for cause.

    But for two: 12 bits that Pillow leaves dark, and a clear grey of 16 bits that it leaves opaque.
    """
    counts: Counter[str] = Counter()
    for name, data in source(tmp_path):
        kind, theirs = plain(data)
        try:
            ours = np.asarray(decode(data))
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            counts["nobody reads" if theirs is None else "only we refuse"] += 1
            known = re.search("which one is white|small copy|transparent", str(error))
            assert theirs is None or kind not in FORMATS or known, name
            continue
        assert is_picture(io.BytesIO(data)), name
        assert theirs is not None, name
        counts["both read"] += 1
        assert np.array_equal(ours, theirs) or name.endswith(("12bit.cropped.tif", "i_trns.png"))
    print(dict(counts))
    assert counts["both read"] > 20
