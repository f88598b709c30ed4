"""The line for clips by the command line: sampling in every form, resizing, evaluating, starting from an image run."""

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
from alphaflow.data_tools.moving_digits import moving_digits
from PIL import Image

import alphaflow as af
from alphaflow.media.clips import write_mp4
from alphaflow.runs.record import Origin
from alphaflow.runs.starting import find_weights, start_from

Cli = Callable[..., Any]


def fails(done: Any, *words: str) -> None:
    """Status 2 and one line on standard error that holds all the words."""
    assert done.status == 2, (done.out, done.err)
    assert done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the moving-digits recipe, of few steps."""
    place = tmp_path_factory.mktemp("video")
    found = af.find_recipe("moving-digits")
    options = {"cache": place, "digits": 40, "steps": 6, "batch_size": 4, "width": 32, "depth": 1}
    torch.manual_seed(0)
    arguments = {**options, "cache": str(place)}
    af.Trainer(
        found(**options), out=place / "run", device="cpu", origin=Origin(found.name, found.text, arguments=arguments)
    ).fit()
    return place / "run"


def probed(file: Path) -> tuple[str, int, Fraction | None, float, tuple[int, int]]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(stream))
        assert stream.duration is not None
        assert stream.time_base is not None
        seconds = float(stream.duration * stream.time_base)
        return stream.codec_context.name, count, stream.average_rate, seconds, (stream.width, stream.height)


def test_a_run_writes_pictures_and_clips_while_it_trains(run: Path) -> None:
    assert probed(run / "samples" / "step-00000006.mp4")[:3] == ("h264", 8, Fraction(8))
    sheet = Image.open(run / "samples" / "step-00000006.png")
    assert sheet.width / sheet.height == pytest.approx(8 / 10, rel=0.02)  # frames as columns, a clip a class
    assert json.loads((run / "run.json").read_text())["data"]["fps"] == 8


def test_sampling_in_every_form(here: Cli, run: Path, tmp_path: Path) -> None:
    done = here("sample", run, "--count", 3, "--out", tmp_path / "a")
    assert done.status == 0, done.err
    assert "8 frames a second" in done.out
    assert probed(tmp_path / "a" / "1" / "000001.mp4") == ("h264", 8, Fraction(8), pytest.approx(1.0), (12, 12))
    assert probed(tmp_path / "a.mp4")[1:3] == (8, Fraction(8))
    assert Image.open(tmp_path / "a.png").size[0] > 8 * 60
    done = here("sample", run, "--count", 3, "--format", "gif", "--fps", 20, "--out", tmp_path / "b")
    assert done.status == 0, done.err
    with Image.open(tmp_path / "b" / "0" / "000000.gif") as picture:
        assert (picture.info["duration"], getattr(picture, "n_frames", 1)) == (50, 8)
    assert here("sample", run, "--count", 3, "--format", "png", "--out", tmp_path / "c").status == 0
    assert Image.open(tmp_path / "c" / "2" / "000002.png").size == (8 * 12, 12)
    assert here("sample", run, "--count", 3, "--format", "npz", "--out", tmp_path / "d").status == 0
    with np.load(tmp_path / "d" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (3, 8, 12, 12, 1)
        frames = np.asarray(Image.open(tmp_path / "c" / "2" / "000002.png")).reshape(12, 8, 12).transpose(1, 0, 2)
        assert np.array_equal(arrays["arr_0"][2, ..., 0], frames)


def test_other_lengths_and_sizes(here: Cli, run: Path, tmp_path: Path) -> None:
    done = here("sample", run, "--count", 2, "--frames", 16, "--size", 20, "--out", tmp_path / "long")
    assert done.status == 0, done.err
    name, count, rate, seconds, size = probed(tmp_path / "long" / "0" / "000000.mp4")
    assert (name, count, size) == ("h264", 16, (20, 20))
    assert float(rate or 0) == pytest.approx(8 * 15 / 7, rel=1e-4)  # 16 frames from the first to the last moment of 8
    assert seconds == pytest.approx(16 / (8 * 15 / 7), rel=1e-3)
    done = here("sample", run, "--count", 2, "--frames", 16, "--fps", 8, "--out", tmp_path / "slow")
    assert done.status == 0, done.err
    assert probed(tmp_path / "slow" / "0" / "000000.mp4")[1:3] == (16, Fraction(8))
    done = here("sample", run, "--count", 2, "--frames", 4, "--out", tmp_path / "short")
    assert probed(tmp_path / "short" / "0" / "000000.mp4")[1:3] == (4, Fraction(8))
    fails(here("sample", run, "--frames", 9, "--out", tmp_path / "x"), "make this size", "patch (4, 4, 4) divides")
    fails(here("sample", run, "--size", 13, "--out", tmp_path / "x"), "can't make this size")
    fails(here("sample", run, "--fps", 0, "--out", tmp_path / "x"), "fps must be above 0", "8 is a usual choice")
    assert not (tmp_path / "x").exists()


def test_images_are_no_clips(here: Cli, tmp_path: Path) -> None:
    digits = af.Digits(batch_size=4)
    model = af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2, classes=10)
    recipe = af.Recipe(model=model, objective=af.MeanFlow(), dataset=digits, samplers=(af.ODE(1),), steps=1, ema=0.9)
    af.Trainer(recipe, out=tmp_path / "run").fit()
    fails(here("sample", tmp_path / "run", "--format", "mp4"), "these samples are images", "choose png or npz")
    fails(here("sample", tmp_path / "run", "--frames", 8), "which have no frames")
    fails(here("sample", tmp_path / "run", "--fps", 8), "which have no frame rate; leave --fps out")
    clips = moving_digits(tmp_path, digits=4).parent / "clips"
    fails(here("evaluate", tmp_path / "run", "--reference", clips, "--count", 20), "holds clips, and images are wanted")
    done = here("sample", tmp_path / "run", "--count", 2, "--size", 12, "--out", tmp_path / "large")
    assert done.status == 0, done.err
    assert Image.open(tmp_path / "large" / "0" / "000000.png").size == (12, 12)


def test_measuring_without_any_file(here: Cli, run: Path, tmp_path: Path) -> None:
    """Against the training data, against shards, against a folder of MP4s; at two NFEs; nothing is called FVD."""
    clips = moving_digits(run.parent, digits=40)
    result = tmp_path / "result.json"
    metrics = "pixel-fd,agreement,shrunk-fd,random-fd,motion"
    options = ["--nfe", "1,2", "--count", 40, "--metrics", metrics, "--json", result]
    done = here("evaluate", run, *options)
    assert done.status == 0, done.err
    against_data = json.loads(result.read_text())["rows"]
    assert [row["nfe"] for row in against_data] == [1, 2, None]
    names = {"pixel-fd", "agreement", "shrunk-fd", "random-fd", "motion-energy", "motion-speed"}
    assert all(set(row["values"]) == names for row in against_data)
    assert "fvd" not in json.dumps(against_data)
    assert "not FVD" in " ".join(done.out.split())
    done = here("evaluate", run, *options, "--reference", clips)
    assert json.loads(result.read_text())["rows"][0]["values"] == against_data[0]["values"]
    done = here("evaluate", run, *options, "--reference", clips.parent / "clips", "--save", tmp_path / "saved")
    assert done.status == 0, done.err
    by_files = json.loads(result.read_text())["rows"][0]["values"]
    assert by_files["pixel-fd"] == pytest.approx(against_data[0]["values"]["pixel-fd"], rel=0.05)
    saved = tmp_path / "saved" / "nfe-1-seed-0"
    assert len(list(saved.rglob("*.mp4"))) == 40
    done = here("evaluate", saved, "--reference", clips, "--metrics", "pixel-fd,motion", "--json", result)
    assert done.status == 0, done.err
    again = json.loads(result.read_text())["rows"][0]["values"]
    assert again["pixel-fd"] == pytest.approx(against_data[0]["values"]["pixel-fd"], rel=0.05)
    files = ["evaluate", saved, "--reference", clips.parent / "clips", "--metrics", "motion", "--size", 12]
    fails(here(*files), "has 8 frames", "fewer than 16", "take fewer frames")
    done = here(*files, "--frames", 8, "--json", result)
    assert done.status == 0, done.err
    by_files = json.loads(result.read_text())["rows"][0]["values"]
    assert by_files["motion-speed"] == pytest.approx(again["motion-speed"], rel=0.05)


def test_fvd_says_what_is_missing_and_what_goes_without(here: Cli, run: Path, monkeypatch: pytest.MonkeyPatch,
                                                        tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    fails(here("evaluate", run, "--metrics", "fvd", "--count", 20), "i3d", "random-fd,shrunk-fd,motion", "are not FVD")
    fails(here("evaluate", run, "--metrics", "random-fd", "--reference", "digits"), "reference of the same shape")


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_a_video_run_starts_from_an_image_run(tmp_path: Path) -> None:
    """Patches are inflated, the classes' embeddings are new, all else is the image run's; the line says so."""
    digits = af.Digits(batch_size=4)
    options: dict[str, Any] = {"depth": 2, "width": 16, "heads": 2}
    of_images = af.Recipe(
        model=af.DiT(digits.shape, patch=4, classes=10, **options), objective=af.MeanFlow(), dataset=digits,
        samplers=(af.ODE(1),), steps=2, ema=0.9, lr=1e-2,
    )  # fmt: skip
    af.Trainer(of_images, out=tmp_path / "images").fit()
    clips = af.LatentShards(moving_digits(tmp_path, digits=4), batch_size=4)
    model = af.DiT(clips.shape, patch=(2, 4, 4), classes=clips.classes, factorised=True, **options)
    recipe = af.Recipe(model=model, objective=af.MeanFlow(), dataset=clips, samplers=(af.ODE(1),), steps=2)
    trainer = af.Trainer(recipe, start=tmp_path / "images")
    said = start_from(find_weights(tmp_path / "images"), model)
    assert "fitted to another shape: " in said
    for name in ("patches.proj.weight", "final.out.weight", "its classes are others: only 'no class' is taken over"):
        assert name in said
    assert "blocks.0.time_attention.qkv.weight the first" in said
    average = af.Run(tmp_path / "images").model.state_dict()
    ours = trainer.model.state_dict()
    assert torch.equal(ours["blocks.1.mlp.out.weight"], average["blocks.1.mlp.out.weight"])
    assert torch.equal(ours["embed_class.weight"][-1], average["embed_class.weight"][-1])
    inflated = ours["patches.proj.weight"].view(16, 1, 2, 4, 4)
    assert torch.allclose(inflated.sum(2).flatten(1), average["patches.proj.weight"])


def test_bad_clips_are_one_line(here: Cli, tmp_path: Path) -> None:
    """Too short, of two sizes, images among them: status 2, and what to do."""
    frames = torch.randint(0, 256, (3, 6, 16, 24), dtype=torch.uint8)
    for k in range(2):
        (tmp_path / "short").mkdir(exist_ok=True)
        write_mp4(frames, tmp_path / "short" / f"{k}.mp4", 8)
    encode = ("encode", "videos", tmp_path / "short", tmp_path / "out", "--autoencoder", "pixels", "--size", 16)
    fails(here(*encode, "--frames", 17, "--workers", 0), "fewer than 17", "--max-rejects")
    with pytest.raises(af.UserError, match=r"can't read the clip .*fewer than 7"):
        af.VideoFolder(tmp_path / "short", frames=7, size=16).all()
    (tmp_path / "mixed").mkdir()
    write_mp4(frames, tmp_path / "mixed" / "a.mp4", 8)
    write_mp4(frames.transpose(2, 3), tmp_path / "mixed" / "b.mp4", 8)
    with pytest.raises(af.UserError, match=r"b\.mp4 is 16×24 pixels, but a\.mp4 is 24×16; give a size"):
        af.VideoFolder(tmp_path / "mixed", frames=4, size=None).all()
    assert af.VideoFolder(tmp_path / "mixed", frames=4, size=None).shape == (3, 4, 16, 24)
    assert af.VideoFolder(tmp_path / "mixed", frames=4, size=16, mode="L").all().x.shape == (2, 1, 4, 16, 16)
    for options in ({"fps": 0}, {"frames": 0}, {"size": 0}):
        with pytest.raises(af.UserError, match="above 0"):
            af.VideoFolder(tmp_path / "mixed", **options)  # type: ignore[arg-type]
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "a.png")
    fails(here("encode", "videos", tmp_path / "images", tmp_path / "o"), "holds images, and clips are wanted")
    fails(here("encode", "images", tmp_path / "short", tmp_path / "o"), "holds clips, and images are wanted")
    fails(here("train", "cifar10", "--data", tmp_path / "short"), "holds clips, and images are wanted")
    fails(here("train", "kinetics700", "--data", tmp_path / "images"), "not a folder of shards")
