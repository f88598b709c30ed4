"""Clips wherever they lie: files, archives, folders of frames, Kinetics' CSV; and never one twice."""

from __future__ import annotations

import errno
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ClipTransform, decode_one
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from PIL import Image

import alphaflow as af
from alphaflow.data.clip_files import take
from alphaflow.data.decoding.containers import ClipError
from alphaflow.data.listing.entry import Entry
from alphaflow.data.listing.kinetics import list_csv
from alphaflow.data.listing.listing import list_files
from alphaflow.media.clips import write_mp4

FPS = 10


def video(file: Path, count: int = 30, first: int = 0) -> Path:
    """Frame i has grey 8·(i + first); ten a second."""
    file.parent.mkdir(parents=True, exist_ok=True)
    greys = 8 * (torch.arange(count) + first)
    write_mp4(greys.to(torch.uint8)[None, :, None, None].expand(3, count, 16, 16), file, FPS)
    return file


def shown(frames: np.ndarray[Any, Any]) -> list[int]:
    """Which frames they are."""
    return [round(float(frame.mean()) / 8) for frame in frames]


def test_the_same_clips_from_files_zips_and_tars(tmp_path: Path) -> None:
    """Labels, frames and what training sees."""
    for name in ("run", "jump"):
        for i in range(2):
            video(tmp_path / "in" / name / f"{i}.mp4", first=i)
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed,
        tarfile.open(tmp_path / "a.tar", "w") as tar,
    ):
        for file in sorted((tmp_path / "in").rglob("*.mp4")):
            packed.write(file, file.relative_to(tmp_path / "in"))
            tar.add(file, file.relative_to(tmp_path / "in"))
    (tmp_path / "tars").mkdir()
    for name in ("run", "jump"):  # one a class, as Kinetics-600's
        with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w") as tar:
            for file in sorted((tmp_path / "in" / name).iterdir()):
                tar.add(file, f"{name}/{file.name}")
    (tmp_path / "in" / "run" / "._0.mp4").write_bytes(b"litter")
    (tmp_path / "in" / "run" / "0.jpg").write_bytes(b"a thumbnail")
    first = None
    for place in ("in", "a.zip", "a.tar", "tars"):
        data = af.VideoFolder(tmp_path / place, frames=5, size=16, batch_size=4)
        assert list(data.class_names) == ["jump", "run"]
        assert data.fps == pytest.approx(FPS)
        batch = data.all()
        first = batch if first is None else first
        assert torch.equal(batch.x, first.x)
        assert torch.equal(batch.cond.labels, first.cond.labels)  # type: ignore[arg-type]
        sampled = next(iter(af.VideoFolder(tmp_path / place, frames=5, size=16, batch_size=4, seed=1)))
        assert sampled.x.shape == (4, 3, 5, 16, 16)
        out = tmp_path / "out" / place
        encode(
            list_files(tmp_path / place, "clips").mixed(),
            out,
            af.Pixels(),
            ClipTransform(16, 5),
            EncodeOptions(workers=0),
        )
        assert sorted(af.LatentShards(out).all().cond.labels.tolist()) == [0, 0, 1, 1]  # type: ignore[union-attr]


def frames_of(folder: Path, numbers: list[int], start: int = 0) -> None:
    folder.mkdir(parents=True)
    for i, number in enumerate(numbers):
        Image.new("RGB", (20, 16), (8 * (start + i),) * 3).save(folder / f"frame{number}.png")


def test_folders_of_frames(tmp_path: Path) -> None:
    """In the order of their numbers, from the middle; the rate must be said; a gap is a reject."""
    for name in ("run", "jump"):
        for i in range(2):
            frames_of(tmp_path / "in" / name / f"video {i}", list(range(1, 13)), start=i)
    frames_of(tmp_path / "in" / "run" / "gap", [1, 2, 4, 5])
    (tmp_path / "in" / "run" / "video 0" / "frame1.json").write_text("{}")
    with pytest.raises(af.UserError, match=r"holds images, and clips are wanted; .*say how many a second"):
        list_files(tmp_path / "in", "clips")
    found = list_files(tmp_path / "in", "clips", frames=True)
    assert [entry.name for entry in found.entries] == [f"{n}/video {i}" for n in ("jump", "run") for i in range(2)]
    assert found.class_names == ["jump", "run"]
    assert [(reject.name, reject.reason) for reject in found.rejects] == [
        ("run/gap", "frames are not numbered one after another: run/gap/frame4.png"),
    ]
    taken = take(found.entries[1], 4, 8.0)
    assert shown(taken.frames) == [5, 6, 7, 8]  # of 1 … 12, the middle
    assert taken.times.tolist() == [0.5, 0.625, 0.75, 0.875]
    assert taken.fps == 8.0
    with pytest.raises(ClipError, match="12 frames, fewer than 13"):
        take(found.entries[0], 13, 8.0)
    options = EncodeOptions(workers=0, max_rejects=0.5)
    progress = encode(found.mixed(), tmp_path / "out", af.Pixels(), ClipTransform(16, 4, 8.0, variants=3), options)
    assert progress.encoded == 12
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["fps"] == 8.0


@pytest.mark.parametrize("fps", [None, 5.0])
@pytest.mark.parametrize("count", [30, 12, 10])
def test_no_clip_of_a_video_is_written_twice(fps: float | None, count: int, tmp_path: Path) -> None:
    """Of six clips, evenly spaced, those that have other frames than the one before; the others are rejects."""
    file = video(tmp_path / "in" / "a.mp4", count)
    need, step = (5, 2) if fps else (10, 1)  # of ten a second
    transform, entry = ClipTransform(16, need, fps, variants=6), Entry("a.mp4", str(file.parent))
    starts = [(variant + 0.5) / 6 * (count - need * step) for variant in range(6)]
    expected = [tuple(int(start if fps else np.ceil(start)) + step * k for k in range(need)) for start in starts]
    for variant in range(6):
        if variant and expected[variant] == expected[variant - 1]:
            with pytest.raises(ClipError, match="the same frames"):
                transform(entry, variant)
        else:
            times = transform(entry, variant)[1]["times"]
            assert [round(10 * time) for time in times] == list(expected[variant])


def test_copies_are_left_out_and_are_no_loss(tmp_path: Path) -> None:
    video(tmp_path / "in" / "a.mp4", 10)
    listing = list_files(tmp_path / "in", "clips")
    progress = encode(
        listing, tmp_path / "out", af.Pixels(), ClipTransform(16, 10, variants=4), EncodeOptions(workers=0)
    )
    assert progress.encoded == 1
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["rejects"] == 0
    assert (tmp_path / "out" / "rejects.jsonl").read_text().count("the same frames") == 3


def stale(_: Any) -> Any:
    raise ClipError("not readable") from OSError(errno.ESTALE, "Stale file handle")


def test_another_file_of_a_clip_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate of an id, cut ones first, before it is a reject; in folders and in tars."""
    folder = tmp_path / "clips"
    video(folder / "a" / "xyz_000001_000002.mp4").write_bytes(b"damaged")
    video(folder / "b" / "xyz.mp4").write_bytes(b"damaged")
    video(folder / "c" / "xyz.mkv.mp4")
    (folder / "c" / "xyz.mkv.mp4").rename(folder / "c" / "xyz.m4v")
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\nrun,xyz,1,2,train\n")
    (entry,) = list_csv(tmp_path / "k.csv", folder).entries
    assert shown(take(entry, 4).frames) == [13, 14, 15, 16]
    with monkeypatch.context() as patch:  # a fault of the machine is none of the file's
        patch.setattr("alphaflow.data.clip_files.video_info", stale)
        with pytest.raises(OSError, match="Stale"):
            decode_one(ClipTransform(16, 4), 0, entry, 0)
    (folder / "c" / "xyz.m4v").unlink()
    (entry,) = list_csv(tmp_path / "k.csv", folder).entries
    with pytest.raises(ClipError):
        take(entry, 4)
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "run.tar", "w") as tar:
        tar.add(video(tmp_path / "xyz.mp4"), "run/xyz.mp4")
    (entry,) = list_csv(tmp_path / "k.csv", tmp_path / "tars").entries
    assert shown(take(entry, 4).frames) == [13, 14, 15, 16]


def test_csvs_as_they_are(tmp_path: Path) -> None:
    """Spaces, short rows, missing labels, UTF-16, lists without labels, splits: each by its name."""
    folder, file = tmp_path / "clips", tmp_path / "k.csv"
    for name in ("a", "b", "c"):
        video(folder / f"{name}.mp4", 12)
    head = "label, youtube_id ,time_start,time_end,split\n"
    file.write_text(head + " run , a , 0 , 1 , train \nrun,b\n,c,0,1,train\njump,b,0,1,train\n\nrun,c,0,inf,train\n")
    found = list_csv(file, folder)
    assert {(entry.name, found.class_names[entry.label or 0]) for entry in found.entries} == {
        ("a.mp4", "run"), ("b.mp4", "jump"),
    }  # fmt: skip
    assert {reject.reason.partition(":")[0]: reject.reason.partition(": ")[2][:9] for reject in found.rejects} == {
        "line 3": "too short", "line 4": "no label", "line 7": "times are",
    }  # fmt: skip
    file.write_text(head.replace("label, ", "") + "a,0,1,test\nb,0,1,test\n", encoding="utf-16")
    found = list_csv(file, folder)
    assert found.class_names == []
    assert "unlabelled" in found.summary()
    assert [entry.label for entry in found.entries] == [None, None]
    file.write_text(head + "run,a,0,1,train\nrun,b,0,1,validate\n")
    with pytest.raises(af.UserError, match="holds the splits train, validate; choose one with `split=`"):
        list_csv(file, folder)
    with pytest.raises(af.UserError, match="has no split 'val'; it has train, validate"):
        list_csv(file, folder, split="val")
    assert [entry.name for entry in list_csv(file, folder, split="validate").entries] == ["b.mp4"]
    file.write_bytes(head.encode() + b"r\xe9,a,0,1,train\n")
    with pytest.raises(af.UserError, match="line 2, is not UTF-8"):
        list_csv(file, folder)
    with pytest.raises(af.UserError, match="`folder=`"):
        list_csv(file, None)
