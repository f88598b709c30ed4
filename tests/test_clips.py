"""Writing clips, read back by PyAV and Pillow; contact sheets; decoding long clips in parts."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageSequence
from torch import Tensor

import alphaflow as af
from alphaflow.autoencoders.chunks import decode_in_chunks
from alphaflow.media.clips import contact_sheet, frame_rate, side_by_side, write_gif, write_mp4
from alphaflow.media.sample_files import check_form, write_samples


def clip(frames: int = 9, height: int = 24, width: int = 32, channels: int = 3) -> Tensor:
    """A bright bar on grey that moves right two pixels a frame: (c, f, h, w), 8-bit."""
    made = torch.full((channels, frames, height, width), 60, dtype=torch.uint8)
    for k in range(frames):
        made[:, k, :, 2 * k : 2 * k + 6] = 200
    return made


def read_back(file: Path) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], str, Fraction | None, float]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        assert stream.duration is not None
        assert stream.time_base is not None
        return frames, stream.codec_context.name, stream.average_rate, float(stream.duration * stream.time_base)


@pytest.mark.parametrize(("codec", "name"), [(None, "h264"), ("libx264", "h264"), ("mpeg4", "mpeg4")])
@pytest.mark.parametrize("channels", [1, 3])
def test_mp4(codec: str | None, name: str, channels: int, tmp_path: Path) -> None:
    """As many frames as there were, at the right rate, and near to them; by x264 where PyAV has it."""
    assert "libx264" in av.codecs_available
    made = clip(channels=channels)
    write_mp4(made, tmp_path / "a.mp4", 12.5, codec)
    frames, found, rate, seconds = read_back(tmp_path / "a.mp4")
    assert (found, rate, seconds) == (name, Fraction(25, 2), pytest.approx(9 / 12.5, abs=1e-3))
    assert frames.shape == (9, 24, 32, 3)
    difference = np.abs(frames.astype(int) - made.expand(3, -1, -1, -1).permute(1, 2, 3, 0).numpy())
    assert difference.mean() < 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("height", "width"), [(17, 33), (1, 7)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_odd_sides_get_a_copy_of_the_last_row_and_column(height: int, width: int, codec: str, tmp_path: Path) -> None:
    made = clip(height=height, width=width, frames=4)
    write_mp4(made, tmp_path / "a.mp4", 8, codec)
    frames, *_ = read_back(tmp_path / "a.mp4")
    assert frames.shape == (4, height + 1, width + 1, 3)
    assert np.abs(frames[:, -1].astype(int) - frames[:, -2]).mean() < 6
    assert np.abs(frames[:, :height, :width].astype(int) - made.permute(1, 2, 3, 0).numpy()).mean() < 8


@pytest.mark.parametrize(
    ("fps", "written"),
    [(29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (8, Fraction(8)), (0.5, Fraction(1, 2))],
)
def test_frame_rates(fps: float, written: Fraction, tmp_path: Path) -> None:
    assert frame_rate(fps) == written
    write_mp4(clip(), tmp_path / "a.mp4", fps)
    assert read_back(tmp_path / "a.mp4")[2] == written


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("fps", [0.01, 7.123456, 12.3456789, 29.5123, 479.52, 1000])
def test_odd_frame_rates(fps: float, codec: str, tmp_path: Path) -> None:
    """As near as containers have them: both numbers of the fraction fit in 16 bits."""
    assert float(frame_rate(fps)) == pytest.approx(fps, rel=1e-4)
    write_mp4(clip(), tmp_path / "a.mp4", fps, codec)
    frames, _, rate, *_ = read_back(tmp_path / "a.mp4")
    assert len(frames) == 9
    assert float(rate) == pytest.approx(fps, rel=1e-3)
    write_gif(clip(), tmp_path / "a.gif", fps)


@pytest.mark.parametrize("fps", [0, -1, 1e-3, 1e-9, 1001, float("nan"), float("inf")])
def test_wrong_frame_rates(fps: float) -> None:
    with pytest.raises(af.UserError, match="fps must be above 0"):
        frame_rate(fps)


def test_gif(tmp_path: Path) -> None:
    write_gif(clip(), tmp_path / "a.gif", 12.5)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.info["loop"] == 0
        frames = [
            (frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(picture)
        ]
    assert [duration for duration, _ in frames] == [80] * 9
    expected = clip().permute(1, 2, 3, 0).numpy()
    assert np.abs(np.stack([frame for _, frame in frames]).astype(int) - expected).max() <= 3


def test_contact_sheet_and_side_by_side() -> None:
    """Frames are columns; at most 16 of them, evenly spread; together, clips stand in a square."""
    clips = torch.stack([torch.full((1, 33, 64, 64), k, dtype=torch.uint8) for k in (10, 200)])
    clips += torch.arange(33, dtype=torch.uint8)[None, None, :, None, None]
    sheet = np.asarray(contact_sheet(clips))
    assert sheet.shape == (2 * 65 - 1, 16 * 65 - 1)
    shown = np.linspace(0, 32, 16).round().astype(int)
    assert [int(sheet[30, 65 * k + 30]) for k in range(16)] == [10 + k for k in shown]
    assert int(sheet[65 + 30, 30]) == 200
    together = side_by_side(torch.cat([clips, clips[:1]]))
    assert together.shape == (3, 33, 129, 129)
    assert together[0, 5, 30].tolist()[30] == 15
    assert together[0, 5, 30].tolist()[95] == 205
    assert together[0, 5, 95].tolist()[30] == 15


def test_clips_in_every_form(tmp_path: Path) -> None:
    made = torch.stack([clip(frames=5), clip(frames=5).flip(-1)])
    labels, names = torch.tensor([1, 0]), ["running", "standing"]
    for form in ("png", "mp4", "gif", "npz"):
        beside = write_samples(tmp_path / form, lambda: made, labels, names, form, fps=10)  # type: ignore[arg-type]
        moving = [tmp_path / f"{form}.{form}"] if form in ("mp4", "gif") else []
        assert beside == [tmp_path / f"{form}.png", *moving]
        assert all(file.stat().st_size > 0 for file in beside)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("0*")) == sorted(
        f"{form}/{path}.{form}" for form in ("png", "mp4", "gif") for path in ("running/000001", "standing/000000")
    )
    strip = np.asarray(Image.open(tmp_path / "png" / "standing" / "000000.png"))
    assert np.array_equal(strip, made[0].permute(2, 1, 3, 0).reshape(24, 5 * 32, 3).numpy())
    with np.load(tmp_path / "npz" / "samples.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], made.permute(0, 2, 3, 4, 1).numpy())
    assert read_back(tmp_path / "mp4.mp4")[0].shape[0] == 5
    (tmp_path / "mp4.png").unlink()
    shutil.rmtree(tmp_path / "mp4")
    with pytest.raises(af.UserError, match=r"mp4/?\.mp4 exists, and nothing"):
        write_samples(tmp_path / "mp4", lambda: made, labels, names, "mp4")


def test_forms_by_kind() -> None:
    assert check_form(None, (3, 8, 8)) == "png"
    assert check_form(None, (3, 4, 8, 8)) == "mp4"
    with pytest.raises(af.UserError, match="mp4 is for clips; choose png or npz"):
        check_form("mp4", (3, 8, 8))
    with pytest.raises(af.UserError, match="fps must be"):
        check_form("mp4", (3, 4, 8, 8), 0)


def test_decoding_in_parts_is_decoding_at_once() -> None:
    """For decoders that see one latent frame to each side, or two back: of f·k frames, and of 1 + (f − 1)·k."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 2, 3, 1, 1, generator=generator, dtype=torch.float64)

    def even(z: Tensor) -> Tensor:
        return F.conv3d(F.pad(z, (0, 0, 0, 0, 1, 1)), weight).repeat_interleave(3, dim=2)

    def causal(z: Tensor) -> Tensor:
        found = F.conv3d(F.pad(z, (0, 0, 0, 0, 2, 0)), weight)
        return torch.cat([found[:, :, :1], found[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)

    for length in (12, 13, 29, 50):
        z = torch.randn(1, 2, length, 3, 3, generator=generator, dtype=torch.float64)
        for decode in (even, causal):
            seen: list[int] = []

            def watched(part: Tensor, decode=decode, seen=seen) -> Tensor:  # type: ignore[no-untyped-def]
                seen.append(part.shape[2])
                return decode(part)  # type: ignore[no-any-return]

            assert torch.allclose(decode_in_chunks(watched, z, 12, 8), decode(z), atol=1e-12)
            assert max(seen) <= 12
    with pytest.raises(ValueError, match="share 2 up to 11"):
        decode_in_chunks(even, torch.zeros(1, 2, 20, 3, 3).double(), 12, 12)


def test_a_wide_view_fades() -> None:
    """A decoder that gives the mean of all its frames jumps where it is cut; faded, by no more than the ramp's step."""
    z = torch.arange(60.0).view(1, 1, 60, 1, 1).expand(1, 1, 60, 2, 2)
    joined = decode_in_chunks(lambda part: part * 0 + part.mean(), z, 20, 8)[0, 0, :, 0, 0]
    assert joined[0] == 9.5
    assert float(joined.diff().abs().max()) <= (31 - 9.5) / 4 + 1e-4
