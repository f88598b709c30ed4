"""The real photographs and clips encode whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from alphaflow.data_tools.about import Options
from alphaflow.data_tools.decode import ClipRecipe, ImageRecipe
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.sources import image_source, video_source
from alphaflow.data_tools.verify import verify
from alphaflow.data_tools.writing import write_preview
from PIL import Image

import alphaflow as af
from alphaflow.data.images import centre_crop, decode


@pytest.mark.slow
def test_two_hundred_photographs(real_data: Path, tmp_path: Path) -> None:
    source = image_source(real_data / "imagenet-sample" / "train")
    assert len(source.entries) == len(source.class_names) == 200
    progress = encode(source, tmp_path / "out", af.Pixels(), ImageRecipe(64), Options(workers=1, samples_per_shard=64))
    assert (progress.encoded, progress.rejected) == (200, 0)
    assert verify(tmp_path / "out").problems == []
    shards = af.LatentShards(tmp_path / "out", batch_size=50)
    for index in (0, 63, 64, 199):
        expected = np.asarray(centre_crop(decode(Path(source.entries[index].file).read_bytes()), 64))
        found = ((shards.fetch(np.array([index])).x[0] + 1) * 127.5).round().to(torch.uint8)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
def test_six_clips(real_data: Path, tmp_path: Path) -> None:
    """Every clip at 5 frames a second, as far as the shortest goes; a sheet of frames."""
    source = video_source(real_data / "kinetics-sample" / "train")
    assert len(source.entries) == 6
    progress = encode(
        source, tmp_path / "out", af.Pixels(), ClipRecipe(64, 5, fps=5.0), Options(workers=1, batch_size=2)
    )
    assert (progress.encoded, progress.rejected) == (6, 0)
    assert verify(tmp_path / "out").problems == []
    shards = af.LatentShards(tmp_path / "out", batch_size=6)
    assert shards.shape == (3, 5, 64, 64)
    assert list(shards.class_names) == ["arm wrestling", "other"]
    pixels = ((shards.all().x + 1) * 127.5).round().to(torch.uint8)
    write_preview(pixels, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (5 * 65 - 1, 6 * 65 - 1)
