"""The real photographs and clips encode whole."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ClipTransform, ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from alphaflow.data_tools.verify import verify
from PIL import Image

import alphaflow as af
from alphaflow.data.decoding.images import centre_crop, decode
from alphaflow.data.listing.listing import list_files
from alphaflow.media.previews import write_preview


@pytest.mark.slow
def test_two_hundred_photographs(real_data: Path, tmp_path: Path) -> None:
    source = list_files(real_data / "imagenet-sample" / "train", "images").mixed()
    assert len(source.entries) == len(source.class_names) == 200
    progress = encode(
        source, tmp_path / "out", af.Pixels(), ImageTransform(64), EncodeOptions(workers=1, samples_per_shard=64)
    )
    assert (progress.encoded, progress.rejected) == (200, 0)
    assert verify(tmp_path / "out").problems == []
    shards = af.LatentShards(tmp_path / "out", batch_size=50)
    for index in (0, 63, 64, 199):
        expected = np.asarray(centre_crop(decode(source.entries[index].read()), 64))
        found = ((shards.fetch(np.array([index])).x[0] + 1) * 127.5).round().to(torch.uint8)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
def test_six_clips_from_files_to_a_playing_sample(real_data: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """By the commands: encoded by an autoencoder of images with random weights, trained on, sampled to MP4."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    shards = tmp_path / "shards" / "train"
    how = [
        "--autoencoder",
        tmp_path / "vae",
        "--size",
        32,
        "--frames",
        5,
        "--fps",
        5,
        "--workers",
        0,
        "--measure",
        "channel",
    ]
    done = cli("encode", "videos", real_data / "kinetics-sample" / "train", shards, *how)
    assert done.status == 0, done.err
    assert (af.LatentShards(shards).shape, af.LatentShards(shards).fps) == ((4, 5, 4, 4), 5)
    run = ["--out", tmp_path / "run", "--size", "s", "--batch-size", 2, "--steps", 2]
    done = cli("train", "kinetics700", "--data", tmp_path / "shards", *run)
    assert done.status == 0, done.err
    done = cli("sample", tmp_path / "run", "--count", 2, "--frames", 40, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    with av.open(str(tmp_path / "out" / "other" / "000001.mp4")) as container:
        stream = container.streams.video[0]
        rate = Fraction(5) * 39 / 4  # 40 frames from the first to the last moment of 5
        assert (stream.codec_context.name, stream.average_rate, stream.width) == ("h264", rate, 32)
        assert sum(1 for _ in container.decode(stream)) == 40


@pytest.mark.slow
def test_six_clips(real_data: Path, tmp_path: Path) -> None:
    """Every clip at 5 frames a second, as far as the shortest goes; a sheet of frames."""
    source = list_files(real_data / "kinetics-sample" / "train", "clips").mixed()
    assert len(source.entries) == 6
    progress = encode(
        source, tmp_path / "out", af.Pixels(), ClipTransform(64, 5, fps=5.0), EncodeOptions(workers=1, batch_size=2)
    )
    assert (progress.encoded, progress.rejected) == (6, 0)
    assert verify(tmp_path / "out").problems == []
    shards = af.LatentShards(tmp_path / "out", batch_size=6)
    assert shards.shape == (3, 5, 64, 64)
    assert list(shards.class_names) == ["arm wrestling", "other"]
    pixels = ((shards.all().x + 1) * 127.5).round().to(torch.uint8)
    write_preview(pixels, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (5 * 65 - 1, 6 * 65 - 1)
