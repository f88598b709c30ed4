"""What becomes of damaged files: pictures through `decode`, clips through `read_clip`. Seeds are fixed.

    python benchmarks/damage.py [--pictures 1000] [--clips 200] [--results FOLDER]

A file has one to eight of its bytes changed, a range of zeros, or its end cut off. Then it is

- right: the pixels of the whole file (what was hit doesn't matter to them);
- rejected;
- changed: other pixels. Of a picture they are those that Pillow itself reads from the damaged bytes: nobody can tell,
  where a format has no check sums, or its decoder doesn't look at them (TIFF's deflate);
- wrong (pictures): pixels that Pillow itself doesn't read. There must be none.
- a fault: an error that isn't among those that `decode` and `read_clip` promise. There should be none.

Prints a table by format and codec; writes benchmarks/results/damage.json.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import av.logging
import measure
import numpy as np
import torch
from PIL import Image, ImageOps
from PIL import __version__ as pillow
from rich.console import Console
from rich.table import Table

from alphaflow.data.decoding.containers import ClipError
from alphaflow.data.decoding.images import FORMATS, UNREADABLE, decode
from alphaflow.data.decoding.video import read_clip

Array = np.ndarray[Any, Any]
OUTCOMES = ("right", "rejected", "changed", "wrong", "fault")
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG, progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 80}),
    "WebP, lossless": ("WEBP", {"lossless": True}),
    "BMP": ("BMP", {}),
    "GIF": ("GIF", {}),
    "TIFF, raw": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF, JPEG": ("TIFF", {"compression": "jpeg"}),
    "PPM": ("PPM", {}),
    "TGA": ("TGA", {"compression": "tga_rle"}),
    "PCX": ("PCX", {}),
    "JPEG 2000": ("JPEG2000", {}),
    "AVIF": ("AVIF", {"quality": 80}),
}
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "mp4", {"x264-params": "log-level=none"}),
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=none:pools=1"}),
    "av1": ("libsvtav1", "mp4", {"preset": "10"}),
    "mpeg4": ("mpeg4", "mp4", {}),
    "mjpeg": ("mjpeg", "avi", {}),
    "vp8": ("libvpx", "webm", {"cpu-used": "8"}),
    "vp9": ("libvpx-vp9", "webm", {"cpu-used": "8"}),
    "mpeg2video": ("mpeg2video", "mpg", {}),
    "theora": ("libtheora", "ogv", {}),
    "ffv1": ("ffv1", "mkv", {"slicecrc": "1"}),
}
"""Encoder, container, options."""
FRAMES, READ = 24, 16


def scene(noise: np.random.Generator, frames: int, height: int, width: int) -> Array:
    """(f, h, w, 3), 8-bit: soft colours that move, and some grain."""
    coarse = Image.fromarray(noise.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = noise.integers(-8, 9, (frames, height, width, 3))
    return (np.stack([np.roll(soft, 2 * i, axis=1) for i in range(frames)]) + grain).clip(0, 255).astype(np.uint8)


def damaged(data: bytes, noise: np.random.Generator) -> bytes:
    """The same bytes, some of them changed, some of them zero, or some of them missing at the end."""
    found = np.frombuffer(data, np.uint8).copy()
    kind = noise.integers(3)
    if kind == 0:
        found[noise.integers(0, len(found), noise.integers(1, 9))] ^= np.uint8(noise.integers(1, 256))
    elif kind == 1:
        start = noise.integers(len(found))
        found[start : start + max(len(found) // int(noise.integers(20, 200)), 4)] = 0
    else:
        found = found[: noise.integers(1, len(found))]
    return found.tobytes()


def plain(data: bytes) -> Array | None:
    """Pillow's own reading, over white; None where it fails."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
            rgba = np.asarray(upright.convert("RGBA")).astype(int)
    except Exception:
        return None
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    return np.asarray((2 * (colours * alpha + 255 * (255 - alpha)) + 255) // 510)


def picture(file: str, options: dict[str, Any], seed: int) -> str:
    """What becomes of one damaged picture."""
    noise, out = np.random.default_rng(seed), io.BytesIO()
    Image.fromarray(scene(noise, 1, 72, 96)[0]).save(out, file, **options)
    data = damaged(out.getvalue(), noise)
    try:
        found = np.asarray(decode(data))
    except (*UNREADABLE, Image.DecompressionBombError):
        return "rejected"
    except Exception as error:
        print(f"picture {seed}, {file}: {type(error).__name__}: {error}")
        return "fault"
    if np.array_equal(found, np.asarray(decode(out.getvalue()))):
        return "right"
    theirs = plain(data)
    return "changed" if theirs is not None and np.array_equal(found, theirs) else "wrong"


def encode(file: Path, encoder: str, options: dict[str, str], frames: Array) -> None:
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(encoder, rate=12, options={"threads": "1", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.gop_size = 8
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def clip(codec: str, seed: int, folder: Path) -> str:
    """What becomes of one damaged clip."""
    encoder, ending, options = CLIPS[codec]
    noise, whole, file = np.random.default_rng(seed), folder / f"whole.{ending}", folder / f"damaged.{ending}"
    encode(whole, encoder, options, scene(noise, FRAMES, 64, 96))
    file.write_bytes(damaged(whole.read_bytes(), noise))
    expected = read_clip(whole, READ)
    try:
        found = read_clip(file, READ)
    except ClipError:
        return "rejected"
    except Exception as error:
        print(f"clip {seed}, {codec}: {type(error).__name__}: {error}")
        return "fault"
    same = np.array_equal(found.frames, expected.frames) and np.allclose(found.times, expected.times)
    return "right" if same else "changed"


def has_encoder(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:  # av.codec.UnknownCodecError
        return False
    return True


def tallied(names: list[str], count: int, work: Callable[[str, int], str]) -> Iterator[dict[str, Any]]:
    """So many damaged files in turn; a row for each name: how many became what."""
    found: dict[str, Counter[str]] = {name: Counter() for name in names}
    for seed in range(count):
        name = names[seed % len(names)]
        found[name][work(name, seed)] += 1
    for name, counts in found.items():
        yield {"name": name, **{outcome: counts[outcome] for outcome in OUTCOMES}}


def main() -> None:
    """Damages, reads, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    arguments = parser.parse_args()
    measure.RESULTS = arguments.results
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    av.logging.set_level(av.logging.PANIC)
    os.environ["SVT_LOG"] = "1"
    formats = [name for name, (file, _) in PICTURES.items() if file in FORMATS and file in Image.SAVE]
    codecs = [name for name, (encoder, *_) in CLIPS.items() if has_encoder(encoder)]
    pictures = list(tallied(formats, arguments.pictures, lambda name, seed: picture(*PICTURES[name], seed)))
    with tempfile.TemporaryDirectory() as folder:
        clips = list(tallied(codecs, arguments.clips, lambda name, seed: clip(name, seed, Path(folder))))
    table = Table("", *OUTCOMES)
    for rows in (pictures, clips):
        for row in rows:
            table.add_row(*map(str, row.values()))
        table.add_row("all", *(str(sum(row[outcome] for row in rows)) for outcome in OUTCOMES), end_section=True)
    Console(width=100).print(table)
    settings = {"pictures": arguments.pictures, "clips": arguments.clips, "pillow": pillow, "av": av.__version__}
    measure.write("damage", torch.device("cpu"), settings=settings, pictures=pictures, clips=clips)


if __name__ == "__main__":
    main()
