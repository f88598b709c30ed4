"""Moving digits: the motions, the rendered files, and that they come through the encoder as any clips do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.moving_digits import (
    DIGIT,
    FPS,
    FRAMES,
    PIXEL,
    SIZE,
    TRAJECTORIES,
    DigitTrajectory,
    alphaflow_cache,
    frames_of,
    moving_digits,
)

import alphaflow as af
from alphaflow.data.decoding.video import read_clip, video_info

Cli = Callable[..., Any]
MADE = "import sys, alphaflow as af; from pathlib import Path; af.moving_digits(Path(sys.argv[1]), clips=2, digits=30)"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cache")
    moving_digits(place, clips=2, digits=30)
    return place


def test_digits_move_evenly_and_bounce() -> None:
    """One axis after another against a ball that is moved a pixel at a time and turned at the sides."""
    room = SIZE - DIGIT
    for trajectory in TRAJECTORIES:
        for axis in (0, 1):
            place, speed, direction = (
                trajectory.start[axis],
                abs(trajectory.velocity[axis]),
                np.sign(trajectory.velocity[axis]),
            )
            expected = []
            for _ in range(FRAMES):
                expected.append(place)
                for _ in range(speed):
                    direction = -direction if not 0 <= place + direction <= room else direction
                    place += direction
            assert [places[axis] for places in trajectory.places()] == expected
    assert len({tuple(trajectory.places()) for trajectory in TRAJECTORIES}) == len(TRAJECTORIES)


def test_files_show_the_digits_on_their_way(cache: Path) -> None:
    """Decoded frames, shrunk to the digit's pixels, are the digit at its place; its motion is one of the known ones."""
    ink = ((af.Digits().all().x[:, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
    files = sorted((cache / "moving-digits-2-30-2" / "clips").rglob("*.mp4"))
    assert len(files) == 60
    labels = af.Digits().all().cond.labels
    assert labels is not None
    for file in files[::7]:
        info = video_info(file)
        assert info.fps == FPS
        assert info.duration == pytest.approx(FRAMES / FPS, abs=1e-3)
        index = int(file.stem.partition("-")[0])
        assert file.parent.name == str(int(labels[index]))
        decoded = read_clip(file, FRAMES).frames[..., 0].astype(float)
        assert decoded.shape == (FRAMES, PIXEL * SIZE, PIXEL * SIZE)
        errors = [np.abs(decoded - frames_of(ink[index], trajectory)).mean() for trajectory in TRAJECTORIES]
        assert min(errors) < 3
        assert sorted(errors)[1] > 8


def test_shards_hold_the_clips(cache: Path) -> None:
    data = af.LatentShards(cache / "moving-digits-2-30-2" / "shards")
    assert (data.shape, data.fps, len(data)) == ((1, FRAMES, SIZE, SIZE), FPS, 60)
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.autoencoder == af.Pixels(1)
    real, batch = af.Digits().all(), data.all()
    assert batch.cond.labels is not None
    assert real.cond.labels is not None
    drawn = torch.stack(
        [torch.stack([_still(real.x[i, 0], trajectory) for trajectory in TRAJECTORIES]) for i in range(30)]
    )
    for clip, label in zip(batch.x[::5], batch.cond.labels[::5], strict=True):
        distances = (drawn - clip[0]).abs().mean(dim=(2, 3, 4))
        nearest = int(distances.min(dim=1).values.argmin())
        assert float(distances[nearest].min()) < 0.02
        assert int(real.cond.labels[nearest]) == int(label)


def _still(digit: torch.Tensor, trajectory: DigitTrajectory) -> torch.Tensor:
    frames = torch.full((FRAMES, SIZE, SIZE), -1.0)
    for frame, (row, column) in zip(frames, trajectory.places(), strict=True):
        frame[row : row + DIGIT, column : column + DIGIT] = digit
    return frames


def test_the_command_encodes_the_same(cache: Path, cli: Cli, tmp_path: Path) -> None:
    """`alphaflow encode videos` on the same files: the same shards, byte by byte."""
    place = cache / "moving-digits-2-30-2"
    how = ["--size", SIZE, "--frames", FRAMES, "--fps", FPS, "--samples-per-shard", 1000, "--batch-size", 64]
    done = cli("encode", "videos", place / "clips", tmp_path / "out", "--autoencoder", "grey", "--workers", 0, *how)
    assert done.status == 0, done.err
    ours, theirs = (json.loads((p / "dataset.json").read_text()) for p in (place / "shards", tmp_path / "out"))
    assert ours == theirs


def test_it_is_made_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (cache / "moving-digits-2-30-2" / "shards" / "dataset.json").stat().st_mtime_ns
    assert moving_digits(cache, clips=2, digits=30) == cache / "moving-digits-2-30-2" / "shards"
    assert (cache / "moving-digits-2-30-2" / "shards" / "dataset.json").stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""
    with pytest.raises(af.UserError, match="at least one clip of 1 to 1797 digits"):
        moving_digits(cache, clips=0)


def test_processes_at_once_and_a_killed_one(cache: Path, tmp_path: Path) -> None:
    """A killed process's leftovers are gone on with; of two at once, one works and the other waits."""
    command = [sys.executable, "-c", MADE, str(tmp_path)]
    killed = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith("encoding"):
            killed.kill()
            break
    assert killed.wait() == -signal.SIGKILL
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("encoding") == 1
    assert "rendering" not in "".join(said)
    ours, theirs = (
        json.loads((place / "moving-digits-2-30-2" / "shards" / "dataset.json").read_text())
        for place in (cache, tmp_path)
    )
    assert ours == theirs


def test_files_are_the_same_each_time(cache: Path, tmp_path: Path) -> None:
    """In other processes, with whatever memory held before; what a killed rendering left is swept."""
    left = tmp_path / "0" / "moving-digits-2-30-2" / ".clips.99999999-00c0ffee.tmp"
    left.mkdir(parents=True)
    for number, junk in enumerate(("7", "201")):
        call = [sys.executable, "-c", MADE, str(tmp_path / str(number))]
        subprocess.run(call, env={**os.environ, "MALLOC_PERTURB_": junk}, check=True, capture_output=True)
    assert not left.exists()
    places = [place / "moving-digits-2-30-2" for place in (cache, tmp_path / "0", tmp_path / "1")]
    for name in ("clips/*/*.mp4", "shards/*.tar", "shards/dataset.json"):
        files = [{file.relative_to(place): file.read_bytes() for file in place.glob(name)} for place in places]
        assert files[0]
        assert files[0] == files[1] == files[2]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALPHAFLOW_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert alphaflow_cache() == Path.home() / ".cache" / "alphaflow"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert alphaflow_cache() == tmp_path / "x" / "alphaflow"
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "a"))
    assert alphaflow_cache() == tmp_path / "a"
    assert alphaflow_cache(tmp_path) == tmp_path
