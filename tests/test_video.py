"""Decoding clips: frames by their time stamps, against PyAV's own full decode; damaged files; encoding clips."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ClipTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from alphaflow.data_tools.verify import verify
from PIL import Image

import alphaflow as af
from alphaflow.data.decoding.containers import ClipError
from alphaflow.data.decoding.video import read_clip, video_info
from alphaflow.data.listing.kinetics import list_csv
from alphaflow.data.listing.listing import list_files

Cli = Callable[..., Any]


def write_video(file: Path, times: list[float], size: tuple[int, int] = (48, 32), rotation: int = 0) -> None:
    """A clip whose frame k is of brightness 10·k + 5, shown at times[k]; with key frames every five."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=Fraction(1000))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size, stream.bit_rate = 5, 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for k, time in enumerate(times):
            array = np.full((size[1], size[0], 3), 10 * k + 5, np.uint8)
            array[: size[1] // 2, : size[0] // 2] = 255  # the upper left corner is white
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def brightness(frames: np.ndarray[Any, Any]) -> list[int]:
    """Which frame each one is, by the brightness of its lower right corner."""
    return [round((float(frame[-8:, -8:].mean()) - 5) / 10) for frame in frames]


EVEN = [k / 10 for k in range(24)]
UNEVEN = [0.0, 0.04, 0.5, 0.52, 0.54, 0.9, 1.4, 1.45, 1.5, 1.55, 1.6, 2.2]


@pytest.mark.parametrize("start", [0.0, 0.33, 0.5, 1.0, 1.37])
def test_native_frames_from_any_start(start: float, tmp_path: Path) -> None:
    write_video(tmp_path / "even.mp4", EVEN)
    clip = read_clip(tmp_path / "even.mp4", 6, start=start)
    first = int(np.ceil(start * 10 - 1e-9))
    assert brightness(clip.frames) == list(range(first, first + 6))
    assert np.allclose(clip.times, [k / 10 for k in range(first, first + 6)])


@pytest.mark.parametrize("fps", [2.0, 5.0, 20.0])
@pytest.mark.parametrize("start", [0.0, 0.51, 0.7])
def test_variable_rates_are_resampled_by_time(fps: float, start: float, tmp_path: Path) -> None:
    """At start + k/fps the frame on screen is the last one whose time stamp is not after it."""
    write_video(tmp_path / "uneven.mp4", UNEVEN)
    wanted = [start + k / fps for k in range(3)]
    expected = [max(i for i, time in enumerate(UNEVEN) if time <= moment + 1e-6) for moment in wanted]
    clip = read_clip(tmp_path / "uneven.mp4", 3, fps=fps, start=start)
    assert brightness(clip.frames) == expected
    assert np.allclose(clip.times, [UNEVEN[i] for i in expected])


def paint(
    file: Any, codec: str = "libx264", count: int = 24, container: dict[str, Any] | None = None, **options: Any
) -> None:
    """Frame k is of brightness 10·k + 5, at k/10 s; a key frame every ten."""
    container = container or {}
    with av.open(file if hasattr(file, "write") else str(file), "w", **container) as out:
        stream: Any = out.add_stream(codec, rate=10, options={"g": "10"} | {k: str(v) for k, v in options.items()})
        stream.width, stream.height = 32, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * k + 5, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


MPEG4 = {"bf": 0, "b": 4_000_000}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("a.mp4", "a.avi", "a.mpg", "a.3gp", "a.nut"), ("mpeg4", MPEG4)),
    **{name: ("mpeg4", MPEG4 | {"bf": 2}) for name in ("b.mov", "b.mkv", "b.avi", "b.ts", "b.m2ts", "b.mpg")},
    **{name: ("libx264", {"bf": 3}) for name in ("c.mp4", "c.avi", "c.ts", "c.m2ts", "c.flv", "c.mpg")},
    **{name: ("libx264", {"bf": 3, "x264-params": "open-gop=1"}) for name in ("d.mp4", "d.mkv", "d.avi")},
    **{name: ("libvpx", {"b": 2_000_000}) for name in ("e.webm", "e.ogv")},
    "f.mpg": ("mpeg2video", {"bf": 2, "b": 4_000_000}),
    "g.mkv": ("libx265", {"x265-params": "log-level=none"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_start_in_every_container(name: str, tmp_path: Path) -> None:
    """From any time on, and by time: frame k is at k/10 s, and the one before it is known."""
    file, (codec, options) = tmp_path / name, KINDS[name]
    formats = {".m2ts": "mpegts", ".ogv": "ogg"}
    paint(file, codec, container={"format": formats.get(file.suffix)}, **options)
    assert np.allclose(read_clip(file, 24).times, np.arange(24) / 10, atol=1e-3)
    for k in range(0, 21, 2):
        clip = read_clip(file, 3, start=k / 10)
        assert brightness(clip.frames) == [k, k + 1, k + 2]
        assert np.allclose(clip.times, np.arange(k, k + 3) / 10, atol=1e-3)
        assert clip.before == (None if k == 0 else pytest.approx((k - 1) / 10, abs=1e-3))
        assert brightness(read_clip(file, 2, fps=10, start=k / 10 + 0.01).frames) == [k, k + 1]


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_time_stamps_that_begin_anew(name: str, tmp_path: Path) -> None:
    """The 33 bits of an MPEG stream's clock run out after a second."""
    with av.open(str(tmp_path / name), "w") as out:
        stream: Any = out.add_stream("mpeg2video", rate=25, options={"bf": "2", "b": "4M"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        pictures = (np.full((32, 32, 3), 4 * k + 5, np.uint8) for k in range(50))
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
        for packet in [packet for frame in [*frames, None] for packet in stream.encode(frame)]:
            packet.pts, packet.dts = (2**33 - 135_000 + 3600 * stamp for stamp in (packet.pts, packet.dts))
            packet.time_base = Fraction(1, 90_000)
            out.mux(packet)
    for start in (0, 20, 24, 40):
        clip = read_clip(tmp_path / name, 5, start=start / 25)
        assert [round((float(frame.mean()) - 5) / 4) for frame in clip.frames] == list(range(start, start + 5))


def remux(source: Path, to: Path) -> None:
    """Copies packets, with their decoding times as the times at which they are shown."""
    with av.open(str(source)) as old, av.open(str(to), "w") as new:
        old.flags &= ~1  # no made-up time stamps
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, stream
                new.mux(packet)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_time_stamps_in_disorder(name: str, tmp_path: Path) -> None:
    """With B-frames AVI has the order of decoding only; copied so, MP4's stamps are wrong. However few frames count."""
    paint(tmp_path / "first.avi", bf=3)
    file = tmp_path / name
    remux(tmp_path / "first.avi", file)
    assert video_info(file).duration == pytest.approx(2.4)
    for k in range(22):
        assert brightness(read_clip(file, 1, start=k / 10).frames) == [k]
        assert brightness(read_clip(file, 1, fps=7, start=k / 10 + 0.05).frames) == [k]
    assert brightness(read_clip(file, 6, fps=5, start=0.2).frames) == [2, 4, 6, 8, 10, 12]
    assert brightness(read_clip(file, 4, start=1.3, end=1.7).frames) == [13, 14, 15, 16]
    with pytest.raises(ClipError, match="has 4 frames"):
        read_clip(file, 5, start=1.3, end=1.7)


def test_disorder_without_a_constant_rate(tmp_path: Path) -> None:
    paint(tmp_path / "a.wmv", "mpeg4", container={"format": "asf"}, bf=2)
    with pytest.raises(ClipError, match="has no frame rate"):
        read_clip(tmp_path / "a.wmv", 2)
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for time in (*range(10), *range(15, 25)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), time, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(ClipError, match="frame rate isn't constant"):
        read_clip(tmp_path / "a.avi", 18)


def test_segments_end_where_they_say(tmp_path: Path) -> None:
    write_video(tmp_path / "even.mp4", EVEN)
    assert brightness(read_clip(tmp_path / "even.mp4", 5, start=1.0, end=1.5).frames) == [10, 11, 12, 13, 14]
    with pytest.raises(ClipError, match="has 5 frames from 1 s on, fewer than 6"):
        read_clip(tmp_path / "even.mp4", 6, start=1.0, end=1.5)
    with pytest.raises(ClipError, match="fewer than 30"):
        read_clip(tmp_path / "even.mp4", 30, fps=10)
    assert len(read_clip(tmp_path / "even.mp4", 24, fps=10).frames) == 24  # the last frame lasts like the others


def test_the_real_clips_agree_with_a_full_decode(real_data: Path) -> None:
    """Frame times and pixels of every real clip, from the start and from the middle, against PyAV without seeking."""
    files = sorted((real_data / "kinetics-sample" / "train").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            origin = stream.start_time or 0
            everything = [
                (float((frame.pts - origin) * stream.time_base), frame)
                for frame in container.decode(stream)
                if frame.pts is not None and stream.time_base is not None
            ]
            aspect = stream.sample_aspect_ratio or 1
        times = [time for time, _ in everything]
        if file.suffix == ".avi":  # has none for many frames, and PyAV makes some up, in disorder
            times = [k / 25 for k in range(164)]
        width, height = everything[0][1].width, everything[0][1].height
        assert video_info(file).duration == pytest.approx(times[-1] + times[1] - times[0], abs=0.05)
        assert np.allclose(read_clip(file, len(times)).times, times)
        first = len(times) // 2
        clip = read_clip(file, 4, start=times[first] - 1e-4)
        assert np.allclose(clip.times, times[first : first + 4])
        for found, (_, expected) in zip(clip.frames, everything[first : first + 4], strict=True):
            if aspect == 1:
                assert np.array_equal(found, expected.to_ndarray(format="rgb24"))
            else:
                wide = expected.to_image().resize((round(width * aspect), height), Image.Resampling.BICUBIC)
                assert np.abs(found.astype(int) - np.asarray(wide)).mean() < 2


def write_corners(file: Path, matrix: list[int] | None = None, aspect: Fraction | None = None) -> None:
    """Two frames of 48 × 32: red in the upper left corner, green in the upper right, blue in the lower left."""
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10, options={"qmin": "1", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect or Fraction(1)
        if matrix is not None:
            a, b, c, d = matrix
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        array = np.zeros((32, 48, 3), np.uint8)
        array[:16, :24, 0] = array[:16, 24:, 1] = array[16:, :24, 2] = 255
        for frame in (array, array):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def corners(frame: np.ndarray[Any, Any]) -> str:
    """Upper left and right, lower left and right."""
    return "".join(" R G   B"[int((frame[y, x] > 128) @ [1, 3, 7])] for y in (4, -5) for x in (4, -5))


@pytest.mark.parametrize(("matrix", "shown"), [
    ([1, 0, 0, 1], "RGB "), ([-1, 0, 0, 1], "GR B"), ([1, 0, 0, -1], "B RG"), ([-1, 0, 0, -1], " BGR"),
    ([0, 1, 1, 0], "RBG "), ([0, 1, -1, 0], "BR G"), ([0, -1, 1, 0], "G RB"), ([0, -1, -1, 0], " GBR"),
])  # fmt: skip
def test_the_display_matrix_is_applied(matrix: list[int], shown: str, tmp_path: Path) -> None:
    """The eight ways to hold a camera, mirrored or not: (x, y) is shown at (ax + cy, bx + dy)."""
    write_corners(tmp_path / "a.mp4", [number << 16 for number in matrix])
    frame = read_clip(tmp_path / "a.mp4", 1).frames[0]
    assert corners(frame) == shown
    assert frame.shape == ((48, 32, 3) if matrix[1] else (32, 48, 3))


def test_no_right_angle(tmp_path: Path) -> None:
    write_corners(tmp_path / "a.mp4", [46341, 46341, -46341, 46341])
    with pytest.raises(ClipError, match="not a multiple of 90 degrees"):
        read_clip(tmp_path / "a.mp4", 1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_become_square(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarter = [0, 1 << 16, -(1 << 16), 0]
    for aspect, upright, turned in (("4/3", (32, 64, 3), (64, 32, 3)), ("1/2", (64, 48, 3), (48, 64, 3))):
        write_corners(tmp_path / name, aspect=Fraction(aspect))
        assert (frame := read_clip(tmp_path / name, 1).frames[0]).shape == upright
        assert corners(frame) == "RGB "
        write_corners(tmp_path / name, quarter, Fraction(aspect))
        assert (frame := read_clip(tmp_path / name, 1).frames[0]).shape == turned
        assert corners(frame) == "BR G"
    write_corners(tmp_path / name, aspect=Fraction(20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 * 19)
    with pytest.raises(ClipError, match="frames of 960 × 32 pixels, more than"):
        read_clip(tmp_path / name, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 - 1)
    with pytest.raises(ClipError, match="frames of 48 × 32 pixels"):
        video_info(tmp_path / name)


def silence(out: Any, seconds: float) -> None:
    """Adds sound to a container, after what it has."""
    stream = next(each for each in out.streams if each.type == "audio")
    for k in range(int(seconds * 16_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 1024 * k, Fraction(1, 16_000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def write_streams(file: Path, sizes: dict[int, av.stream.Disposition], seconds: float = 0.0) -> None:
    """Streams of ten squares of these sizes, each with its disposition, at 10 a second or, without, 5; and sound."""
    moving = "flv" if file.suffix == ".flv" else "mpeg4"
    with av.open(str(file), "w") as out:
        streams: list[Any] = []
        for size, disposition in sizes.items():
            cover = disposition == av.stream.Disposition.attached_pic
            rate = 10 if disposition != av.stream.Disposition(0) else 5
            stream: Any = out.add_stream("mjpeg" if cover else moving, rate=rate)
            stream.width, stream.height, stream.pix_fmt = size, size, "yuvj420p" if cover else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        if seconds:
            sound: Any = out.add_stream("aac", rate=16_000)
            sound.layout = "mono"
        for k in range(10):
            for stream in streams if k == 0 else [each for each in streams if each.codec_context.name == moving]:
                array = np.zeros((stream.height, stream.width, 3), np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode())
        if seconds:
            silence(out, seconds)


def test_the_best_stream(tmp_path: Path) -> None:
    """The default one, wherever it is; never an attached picture."""
    none, default, cover = (av.stream.Disposition(number) for number in (0, 1, 1024))
    write_streams(tmp_path / "a.mkv", {32: none, 64: default})
    assert video_info(tmp_path / "a.mkv").fps == 10
    assert read_clip(tmp_path / "a.mkv", 10).frames.shape == (10, 64, 64, 3)
    write_streams(tmp_path / "a.mp4", {128: cover, 32: default})
    assert video_info(tmp_path / "a.mp4").fps == 10
    assert read_clip(tmp_path / "a.mp4", 10).frames.shape == (10, 32, 32, 3)
    write_streams(tmp_path / "b.mp4", {128: cover}, seconds=0.5)
    with pytest.raises(ClipError, match="no video stream"):
        video_info(tmp_path / "b.mp4")


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.flv", "a.ts", "a.wmv", "a.nut"])
def test_the_picture_ends_before_the_sound(name: str, tmp_path: Path) -> None:
    codec = av.stream.Disposition.default
    write_streams(tmp_path / name, {32: codec}, seconds=5)
    assert video_info(tmp_path / name).duration == pytest.approx(1.0, abs=0.07)


def test_a_file_that_says_no_duration(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    paint(pipe, "libvpx", container={"format": "webm"})
    file = io.BytesIO(bytes(pipe.data))
    assert video_info(file).duration == pytest.approx(2.4)
    assert brightness(read_clip(file, 2, start=1.5).frames) == [15, 16]  # a file is read anew by each call
    assert brightness(read_clip(file, 2, start=0.3).frames) == [3, 4]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Nor what a playlist names."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for file in (tmp_path / "pipe.mp4", str(tmp_path), "/dev/zero"):
        for read in (video_info, lambda file: read_clip(file, 1)):
            with pytest.raises(ClipError, match="no regular file"):
                read(file)
    paint(tmp_path / "a.ts")
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:3", "#EXTINF:2.4,", f"{tmp_path}/a.ts", "#EXT-X-ENDLIST"]
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/a.ts'\n")
    for name in ("list.m3u8", "list.mp4"):
        with pytest.raises(ClipError, match="not a readable video"):
            read_clip(tmp_path / name, 1)


DAMAGED: dict[str, tuple[str, dict[str, Any], int]] = {  # and how many of ten are found
    "a.avi": ("mjpeg", {"qmin": 2, "qmax": 2}, 5),
    "slices.mp4": ("libx264", {"crf": 10, "x264-params": "slices=4"}, 10),
    "hash.mp4": ("libx265", {"crf": 10, "x265-params": "log-level=none:hash=1"}, 9),
    "a.wmv": ("wmv2", {"qmin": 2, "qmax": 2}, 6),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_that_decoders_can_tell(name: str, tmp_path: Path) -> None:
    """A clip of noise, whole, and with three bytes changed: seldom taken where its decoder looks closely."""
    codec, options, found = DAMAGED[name]
    pictures = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    with av.open(str(tmp_path / name), "w") as out:
        stream: Any = out.add_stream(codec, rate=10, options={"g": "6"} | {k: str(v) for k, v in options.items()})
        stream.width, stream.height = 64, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    whole = (tmp_path / name).read_bytes()
    assert len(read_clip(io.BytesIO(whole), 12).times) == 12
    rejected = 0
    for seed in range(10):
        data = bytearray(whole)
        for place in np.random.default_rng(seed).integers(len(data) * 3 // 10, len(data) * 7 // 10, 3):
            data[place] ^= 0x55
        try:
            read_clip(io.BytesIO(data), 12)
        except ClipError:
            rejected += 1
    assert rejected >= found


def clips(place: Path) -> Path:
    for name in ("jumping/one.mp4", "jumping/two.mp4", "running/three é.mp4"):
        write_video(place / name, EVEN)
    return place


def bad_clips(place: Path) -> dict[str, str]:
    write_video(place / "running" / "short.mp4", EVEN[:3])
    (place / "running" / "text.mp4").write_text("not a video")
    (place / "running" / "empty.mp4").write_bytes(b"")
    whole = (place / "jumping" / "one.mp4").read_bytes()
    (place / "running" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    middle = bytearray(whole)
    middle[len(whole) // 3 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 3)
    (place / "running" / "corrupt.mp4").write_bytes(middle)
    with av.open(str(place / "running" / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44_100, 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return {
        "short.mp4": "fewer than", "text.mp4": "not a readable video", "empty.mp4": "not a readable video",
        "cut.mp4": "", "sound.mp4": "no video stream", "corrupt.mp4": "",
    }  # fmt: skip


def test_encoding_clips(tmp_path: Path) -> None:
    """Two clips a video at 5 frames a second; bad ones are listed; the record says which frames they are."""
    source = clips(tmp_path / "source")
    reasons = bad_clips(source)
    transform = ClipTransform(size=16, frames=5, fps=5.0, variants=2)
    options = EncodeOptions(samples_per_shard=4, batch_size=2, workers=1, max_rejects=1.0)
    progress = encode(list_files(source, "clips").mixed(), tmp_path / "out", af.Pixels(), transform, options)
    assert progress.encoded == 6
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    found = {Path(line["name"]).name: line["reason"] for line in lines}
    assert found.keys() == reasons.keys()
    assert all(word in found[name] for name, word in reasons.items()), found
    assert verify(tmp_path / "out").problems == []
    shards = af.LatentShards(tmp_path / "out", batch_size=6)
    assert shards.shape == (3, 5, 16, 16)
    assert list(shards.class_names) == ["jumping", "running"]
    batch = shards.all()
    pixels = ((batch.x + 1) * 127.5).round()
    shown = [[round((float(frame[:, -3:, -3:].mean()) - 5) / 10) for frame in clip.transpose(0, 1)] for clip in pixels]
    for clip in shown:  # every second of ten frames a second
        assert np.all(np.diff(clip) == 2), clip
    assert shown[0] != shown[1]


def test_a_csv_in_kinetics_format(tmp_path: Path) -> None:
    """Cut files by ID_start_end, whole ones by ID and segment; missing and broken rows are rejected."""
    folder = tmp_path / "clips"
    write_video(folder / "abc_000001_000002.mp4", EVEN)
    write_video(folder / "jumping" / "whole-xy.mp4", EVEN)
    rows = [
        "label,youtube_id,time_start,time_end,split",
        "jumping,abc,1,2,train",
        "running,whole-xy,1,2,train",
        "running,gone,0,10,train",
        "running,broken,5,x,train",
        "running,backwards,9,3,train",
        "running,whole-xy,1,2,train",
        "jumping,abc,1,2,validate",
    ]
    (tmp_path / "kinetics.csv").write_text("\n".join(rows))
    source = list_csv(tmp_path / "kinetics.csv", folder, split="train")
    assert sorted((entry.label, entry.segment) for entry in source.entries) == [(0, None), (1, (1.0, 2.0))]
    assert {reject.name.split("_")[0]: reject.reason.split(":")[0] for reject in source.rejects} == {
        "gone": "line 4", "broken": "line 5", "backwards": "line 6", "whole-xy": "line 7",
    }  # fmt: skip
    transform = ClipTransform(size=16, frames=8)
    encode(source, tmp_path / "out", af.Pixels(), transform, EncodeOptions(workers=0, max_rejects=1.0))
    pixels = ((af.LatentShards(tmp_path / "out", batch_size=2).all().x + 1) * 127.5).round()
    whole = [entry.label for entry in source.entries].index(1)
    shown = [round((float(pixels[whole, :, k, -3:, -3:].mean()) - 5) / 10) for k in range(8)]
    assert shown == list(range(shown[0], shown[0] + 8))
    assert 10 <= shown[0] <= 12  # inside the segment's frames 10 … 19
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(af.UserError, match="no column 'youtube_id'"):
        list_csv(tmp_path / "wrong.csv", folder)
    with pytest.raises(af.UserError, match="`folder=`"):
        list_csv(tmp_path / "kinetics.csv", None)


def test_video_folder(tmp_path: Path) -> None:
    source = clips(tmp_path / "source")
    data = af.VideoFolder(source, frames=4, size=16, batch_size=3, seed=1)
    assert data.shape == (3, 4, 16, 16)
    batch = next(iter(data))
    assert batch.x.shape == (3, 3, 4, 16, 16)
    again = next(iter(af.VideoFolder(source, frames=4, size=16, batch_size=3, seed=1)))
    assert torch.equal(batch.x, again.x)
    (tmp_path / "source" / "running" / "bad.mp4").write_text("x")
    with pytest.raises(af.UserError, match=r"can't read the clip .*bad\.mp4"):
        af.VideoFolder(source, frames=4, size=16, batch_size=4).all()
    with pytest.raises(af.UserError, match="doesn't exist"):
        af.VideoFolder(tmp_path / "none")


def test_the_command(here: Cli, tmp_path: Path) -> None:
    source = clips(tmp_path / "source")
    options = ["--autoencoder", "pixels", "--size", "17", "--frames", "6", "--workers", "0"]
    done = here("encode", "videos", source, tmp_path / "out", *options)
    assert done.status == 0, done.err
    assert here("preview", tmp_path / "out").status == 0
    done = here("preview", tmp_path / "out", "--out", tmp_path / "look.mp4")
    assert done.status == 0, done.err
    with av.open(str(tmp_path / "look.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (18, 18)  # even sides
        assert len(list(container.decode(stream))) == 18
        fps = json.loads((tmp_path / "out" / "dataset.json").read_text())["fps"]
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
    done = here("encode", "videos", source, tmp_path / "x", *options, "--fps", "0")
    assert done.status == 2
    assert "--fps must be positive" in done.err
