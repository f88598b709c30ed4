"""Decoding clips: frames by their time stamps, against PyAV's own full decode; damaged files; encoding clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from alphaflow.data_tools.about import Options
from alphaflow.data_tools.decode import ClipRecipe
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.sources import video_source
from alphaflow.data_tools.verify import verify

import alphaflow as af
from alphaflow.data.video import ClipError, frame_times, read_clip, video_info

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


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_start_in_every_container(name: str, b_frames: int, tmp_path: Path) -> None:
    """Frames from any time stamp on, and by time, are those of a decode from the beginning."""
    file = tmp_path / name
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.bit_rate = 10, b_frames, 4_000_000
        for k in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * k + 5, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    times = frame_times(file)
    whole = brightness(read_clip(file, len(times)).frames)
    for first in range(0, len(times) - 3, 2):
        assert brightness(read_clip(file, 3, start=times[first]).frames) == whole[first : first + 3]
        by_time = read_clip(file, 3, fps=10, start=times[first] + 0.01)
        assert brightness(by_time.frames) == whole[first : first + 3]


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
                (float((frame.pts - origin) * stream.time_base), frame.to_ndarray(format="rgb24"))
                for frame in container.decode(stream)
                if frame.pts is not None and stream.time_base is not None
            ]
        times = [time for time, _ in everything]
        assert np.allclose(frame_times(file), times)
        info = video_info(file)
        assert (info.height, info.width) == everything[0][1].shape[:2]
        for start in (0.0, times[len(times) // 2] - 1e-4):
            first = next(i for i, time in enumerate(times) if time >= start - 1e-6)
            clip = read_clip(file, 4, start=max(start, 0.0))
            assert np.allclose(clip.times, times[first : first + 4])
            for found, (_, expected) in zip(clip.frames, everything[first : first + 4], strict=True):
                assert np.array_equal(found, expected)


def test_rotation_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone's portrait clip: stored lying, turned by its metadata."""
    write_video(tmp_path / "even.mp4", EVEN[:3], size=(48, 32))
    plain = read_clip(tmp_path / "even.mp4", 1).frames[0]
    from alphaflow.data import video

    class Turned:
        rotation = 90

        def __init__(self, frame: Any) -> None:
            self.frame = frame

        def to_ndarray(self, format: str, threads: int) -> Any:
            return self.frame.to_ndarray(format=format, threads=threads)

    original = video._upright
    monkeypatch.setattr(video, "_upright", lambda frame: original(Turned(frame)))
    turned = read_clip(tmp_path / "even.mp4", 1).frames[0]
    assert turned.shape == (48, 32, 3)
    assert np.array_equal(turned, np.rot90(plain))


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
    recipe = ClipRecipe(size=16, frames=5, fps=5.0, variants=2)
    options = Options(samples_per_shard=4, batch_size=2, workers=1, max_rejects=1.0)
    progress = encode(video_source(source), tmp_path / "out", af.Pixels(), recipe, options)
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
    source = video_source(tmp_path / "kinetics.csv", folder, "train")
    assert sorted((entry.label, entry.segment) for entry in source.entries) == [(0, None), (1, (1.0, 2.0))]
    assert {reject.name.split("_")[0]: reject.reason.split(":")[0] for reject in source.rejects} == {
        "gone": "no such file in the clips' folder", "broken": "line 5", "backwards": "line 6", "whole-xy": "line 7",
    }  # fmt: skip
    recipe = ClipRecipe(size=16, frames=8)
    encode(source, tmp_path / "out", af.Pixels(), recipe, Options(workers=0, max_rejects=1.0))
    pixels = ((af.LatentShards(tmp_path / "out", batch_size=2).all().x + 1) * 127.5).round()
    whole = [entry.label for entry in source.entries].index(1)
    shown = [round((float(pixels[whole, :, k, -3:, -3:].mean()) - 5) / 10) for k in range(8)]
    assert shown == list(range(shown[0], shown[0] + 8))
    assert 10 <= shown[0] <= 12  # inside the segment's frames 10 … 19
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(af.UserError, match="no column 'label'"):
        video_source(tmp_path / "wrong.csv", folder)
    with pytest.raises(af.UserError, match="--clips-folder"):
        video_source(tmp_path / "kinetics.csv")


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


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    source = clips(tmp_path / "source")
    options = ["--autoencoder", "pixels", "--size", "17", "--frames", "6", "--workers", "0"]
    done = cli("encode", "videos", source, tmp_path / "out", *options)
    assert done.status == 0, done.err
    assert cli("preview", tmp_path / "out").status == 0
    done = cli("preview", tmp_path / "out", "--out", tmp_path / "look.mp4")
    assert done.status == 0, done.err
    with av.open(str(tmp_path / "look.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (18, 18)  # even sides
        assert len(list(container.decode(stream))) == 18
        fps = json.loads((tmp_path / "out" / "dataset.json").read_text())["fps"]
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
    done = cli("encode", "videos", source, tmp_path / "x", *options, "--fps", "0")
    assert done.status == 2
    assert "--fps must be positive" in done.err
