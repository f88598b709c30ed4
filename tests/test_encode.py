"""Pictures into shards: what any WebDataset reader sees, kills, damaged files, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import Decoder, ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from alphaflow.data_tools.preview import preview
from alphaflow.data_tools.verify import verify
from PIL import Image

import alphaflow as af
from alphaflow.data.decoding.images import centre_crop, decode
from alphaflow.data.listing.entry import Entry, Reject
from alphaflow.data.listing.listing import Listing, list_files

PATH = str(Path(af.__file__).resolve().parent.parent)

Cli = Callable[..., Any]


class Halving(af.Autoencoder):
    """An autoencoder of a user's own: a posterior of half the size; deterministic."""

    posterior = True

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(pixels, 2)
        return torch.cat([mean, 0.1 + mean.abs()], dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (3, size // 2, size // 2)


def pictures(place: Path, count: int = 12, classes: int = 3, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed)
    for i in range(count):
        folder = place / f"class {i % classes} é"
        folder.mkdir(parents=True, exist_ok=True)
        array = noise.integers(0, 256, (40 + i, 36, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"picture {i:03d} ü.png")
    return place


def digests(out: Path) -> dict[str, str]:
    files = [*out.glob("*.tar"), out / "index.npy", out / "dataset.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def small(source: Path, out: Path, autoencoder: Any = None, **options: Any) -> Any:
    settings = {"samples_per_shard": 5, "batch_size": 2, "workers": 0, "max_rejects": 0.5, **options}
    variants = settings.pop("variants", 1)
    return encode(
        list_files(source, "images").mixed(),
        out,
        autoencoder or af.Pixels(),
        ImageTransform(16, "adm", variants),
        EncodeOptions(**settings),
    )


def test_pixels_round_trip_is_exact_and_any_reader_reads_it(tmp_path: Path) -> None:
    """The stored pixels are those of decoding and cropping; the plain webdataset package finds every member."""
    import webdataset

    source = pictures(tmp_path / "source")
    small(source, tmp_path / "out", variants=2)
    expected = {}
    for index, entry in enumerate(list_files(source, "images").mixed().entries):
        image = np.asarray(centre_crop(decode(entry.read()), 16))
        expected[2 * index], expected[2 * index + 1] = (entry, image), (entry, image[:, ::-1])
    urls = sorted(str(file) for file in (tmp_path / "out").glob("*.tar"))
    assert len(urls) == 5
    seen = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        index = int(sample["__key__"])
        entry, image = expected[index]
        latent = np.load(io.BytesIO(sample["latent.npy"]))
        assert latent.dtype == np.float16
        pixels = ((latent.astype(np.float32) + 1) * 127.5).round().astype(np.uint8)
        assert np.array_equal(pixels.transpose(1, 2, 0), image)
        assert int(sample["cls"]) == entry.label
        record = json.loads(sample["json"])
        assert record["source"] == entry.name
        assert record["mirrored"] == bool(index % 2)
        seen[index] = True
    assert sorted(seen) == list(range(24))
    decoded, names = preview(tmp_path / "out", count=24)
    assert decoded.shape == (24, 3, 16, 16)
    shards = af.LatentShards(tmp_path / "out", batch_size=4)
    for index in range(24):
        assert np.array_equal(decoded[index].permute(1, 2, 0).numpy(), expected[index][1])
        assert names[index] == shards.class_names[expected[index][0].label or 0]


def test_posterior_is_stored_and_normalised(tmp_path: Path) -> None:
    """Mean and deviation as the autoencoder gives them; shift and scale, measured, make drawn latents unit variance."""
    source = pictures(tmp_path / "source", count=30)
    small(source, tmp_path / "out", Halving(), samples_per_shard=30)
    shards = af.LatentShards(tmp_path / "out", batch_size=30)
    assert shards.shape == (3, 8, 8)
    batch = next(iter(shards))
    assert batch.std is not None
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert record["posterior"]
    assert record["measured"]
    assert record["autoencoder"] is None
    latents = torch.cat([batch.drawn(torch.Generator().manual_seed(i)).x for i in range(50)])
    assert latents.mean((0, 2, 3)).abs().max() < 0.02
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.02
    shift, scale = (torch.tensor(record[name])[:, None, None] for name in ("shift", "scale"))
    for row, entry in enumerate(list_files(source, "images").mixed().entries):
        image = torch.from_numpy(np.asarray(centre_crop(decode(entry.read()), 16)).copy())
        moments = Halving().encode(image.permute(2, 0, 1)[None].float() / 127.5 - 1)[0].half().float()
        stored = shards.fetch(np.array([row]))
        assert torch.allclose(stored.x[0], (moments[:3] - shift) * scale, atol=1e-6)
        assert torch.allclose(stored.std[0], moments[3:] * scale, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("each", ["channel", "element"])
@pytest.mark.parametrize("on", [2048, 12])
def test_shift_and_scale_by_channel_or_by_element(each: Any, on: int, tmp_path: Path) -> None:
    """Mean and deviation over N samples, spread evenly; recorded; undone by the autoencoder that decodes."""
    source = pictures(tmp_path / "source", count=30)
    small(source, tmp_path / "out", Halving(), samples_per_shard=7, measure=each, measure_on=on)
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert record["measured"] == {"each": each, "samples": min(on, 30)}
    images = [centre_crop(decode(entry.read()), 16) for entry in list_files(source, "images").mixed().entries]
    pixels = torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images])
    moments = Halving().encode(pixels.float() / 127.5 - 1).half().double()
    picked = moments[[round(i * 29 / (min(on, 30) - 1)) for i in range(min(on, 30))]]
    axes = (0,) if each == "element" else (0, 2, 3)
    shift = picked[:, :3].mean(axes)
    scale = ((picked[:, :3] ** 2 + picked[:, 3:] ** 2).mean(axes) - shift**2) ** -0.5
    assert record["shift"] == pytest.approx(shift.flatten().tolist(), rel=1e-6, abs=1e-9)
    assert record["scale"] == pytest.approx(scale.flatten().tolist(), rel=1e-6)
    shards = af.LatentShards(tmp_path / "out", batch_size=30)
    batch = shards.fetch(np.arange(30))
    view = (1, 3, 8, 8) if each == "element" else (1, 3, 1, 1)
    assert batch.std is not None
    assert torch.allclose(batch.x.double(), (moments[:, :3] - shift.view(view)) * scale.view(view), atol=1e-5)
    assert torch.allclose(batch.std.double(), moments[:, 3:] * scale.view(view), atol=1e-5)
    back = shards.description.measured(Halving()).decode(batch.x)
    assert torch.allclose(back, Halving().decode(moments[:, :3].float()), atol=1e-5)


def test_what_is_normalised_by_element_keeps_its_size(tmp_path: Path) -> None:
    """A run on it samples without the data; in another size it says why not."""
    source = pictures(tmp_path / "source", count=12)
    small(source, tmp_path / "out", measure="element")
    shards = af.LatentShards(tmp_path / "out", batch_size=4)
    recipe = af.Recipe(
        model=af.DiT(shards.shape, patch=8, depth=1, width=16, heads=2, classes=shards.classes),
        objective=af.AlphaFlow(), dataset=shards, steps=1, samplers=(af.ODE(1),), autoencoder=shards.autoencoder,
    )  # fmt: skip
    af.Trainer(recipe, out=tmp_path / "run", device="cpu").fit()
    shutil.rmtree(tmp_path / "out")
    run = af.Run(tmp_path / "run", device="cpu")
    assert len(run.autoencoder.normalisation.shift) == 3 * 16 * 16  # type: ignore[attr-defined]
    assert run.sample(2).shape == (2, 3, 16, 16)
    assert len(repr(run.autoencoder)) < 200
    with pytest.raises(af.UserError, match="one number for each channel or for each element, not by 768"):
        run.resize(size=32)


def test_the_official_crop_is_the_middle_square_then_lanczos(tmp_path: Path) -> None:
    """As α-Flow's data code has it: nothing outside the square bleeds in."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    white = np.zeros_like(noise)
    white[:, 30:70] = 255
    for name, array in (("noise", noise), ("white", white)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        found, record = ImageTransform(16, "centre")(Entry(f"{name}.png", str(tmp_path)), 0)
        expected = Image.fromarray(array[:, 30:70]).resize((16, 16), Image.Resampling.LANCZOS)
        assert np.array_equal(found, np.asarray(expected))
        assert record["crop"] == "centre"
    assert (found == 255).all()


def test_jobs_and_their_order_make_the_same_files(tmp_path: Path) -> None:
    """Three jobs, the last first, workers or none: the same bytes as one."""
    source = pictures(tmp_path / "source", count=23)
    small(source, tmp_path / "one")
    for shard in (2, 0, 1):
        small(source, tmp_path / "three", shard=shard, shards=3, workers=shard % 2)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    assert json.loads((tmp_path / "three" / "dataset.json").read_text())["finished"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").glob("*.tar")}
    assert small(source, tmp_path / "one").encoded == 0  # all is done
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "one").glob("*.tar")}


def test_an_unfinished_folder_is_not_read(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source")
    small(source, tmp_path / "out", shard=0, shards=2)
    with pytest.raises(af.UserError, match="isn't finished"):
        af.LatentShards(tmp_path / "out")
    with pytest.raises(af.UserError, match="was started with size 16, not 32"):
        encode(
            list_files(source, "images").mixed(),
            tmp_path / "out",
            af.Pixels(),
            ImageTransform(32),
            EncodeOptions(samples_per_shard=5, batch_size=2),
        )
    with pytest.raises(af.UserError, match="autoencoder class Pixels, not Halving"):
        small(source, tmp_path / "out", Halving())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(af.UserError, match="holds no shards of ours"):
        small(source, tmp_path / "full")


def damaged(place: Path) -> dict[str, str]:
    """Files that can't be encoded, and a word of each one's reason."""
    folder = place / "class 0 é"
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(whole, "JPEG")
    (folder / "truncated.jpg").write_bytes(whole.getvalue()[:5000])
    (folder / "text.jpg").write_text("not a picture at all")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    return {
        "truncated.jpg": "truncated",
        "text.jpg": "not a picture",
        "empty.png": "not a picture",
        "bomb.png": "too large",
    }


def odd(place: Path) -> int:
    """Files that are unusual but whole."""
    folder = place / "class 1 é"
    Image.new("CMYK", (50, 40), (10, 20, 30, 40)).save(folder / "cmyk.jpg")
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(folder / "sixteen bits.png")
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("L", (30, 30), 77).save(folder / "grey.png")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (folder / "loop").symlink_to(place, target_is_directory=True)
    return 4


def test_damaged_files_are_listed_and_the_rest_encoded(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", count=20)
    reasons, more = damaged(source), odd(source)
    progress = small(source, tmp_path / "out", workers=1)
    assert (progress.encoded, progress.rejected) == (20 + more, 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    found = {Path(line["name"]).name: line["reason"] for line in lines}
    assert found.keys() == reasons.keys()
    for name, word in reasons.items():
        assert word in found[name], found
    assert verify(tmp_path / "out").problems == []
    assert len(af.LatentShards(tmp_path / "out")) == 24


def test_too_many_rejects_stop_it_and_what_is_done_stays(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", count=20)
    damaged(source)
    with pytest.raises(af.UserError, match=r"more than `max_rejects=` allows \(1\).*what is done stays"):
        small(source, tmp_path / "out", max_rejects=0.05, samples_per_shard=2)
    assert len((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()) == 2
    done = len(list((tmp_path / "out").glob("*.tar")))
    assert small(source, tmp_path / "out", max_rejects=0.5, samples_per_shard=2).encoded > 0
    assert len(list((tmp_path / "out").glob("*.tar"))) > done
    assert verify(tmp_path / "out").problems == []


def test_names_that_are_no_utf8_and_rejects_of_the_source(tmp_path: Path) -> None:
    """Listed by their bytes; and what the source rejects is judged against all of it, whatever the job."""
    source = pictures(tmp_path / "source", count=20)
    (tmp_path / "source" / "class 0 é" / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"x")
    assert small(source, tmp_path / "out", samples_per_shard=50).rejected == 1
    assert verify(tmp_path / "out").samples == 20
    listed = list_files(source, "images")
    whole = [entry for entry in listed.entries if entry.name.isprintable()]
    again = Listing(listed.path, "images", whole, listed.class_names, [Reject(f"{i}", "double") for i in range(3)])
    for shard in range(8):
        options = EncodeOptions(samples_per_shard=3, batch_size=2, workers=0, max_rejects=0.15, shard=shard, shards=8)
        encode(again, tmp_path / "jobs", af.Pixels(), ImageTransform(16), options)
    assert json.loads((tmp_path / "jobs" / "dataset.json").read_text())["rejects"] == 3


def test_zips_and_tars(tmp_path: Path) -> None:
    """A zip gives what its folder gives; a WebDataset tar has classes by .cls; unsafe and double names are rejected."""
    source = pictures(tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for file in sorted(source.rglob("*.png")):
            archive.write(file, file.relative_to(source))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("class 0 é/picture 000 ü.png", b"twice")
        archive.writestr("../outside.png", b"x")
    listed = list_files(tmp_path / "source.zip", "images")
    assert [entry.name for entry in listed.entries] == [entry.name for entry in list_files(source, "images").entries]
    assert {reject.reason for reject in listed.rejects} == {
        "a second file of this name",
        "its name leads out of the archive: an absolute path, or one with '..'",
    }
    small(source, tmp_path / "folder")
    small(tmp_path / "source.zip", tmp_path / "zip")
    for name in (f"train-{i:06d}.tar" for i in range(3)):
        assert (tmp_path / "folder" / name).read_bytes() == (tmp_path / "zip" / name).read_bytes()

    with tarfile.open(tmp_path / "web.tar", "w") as tar:
        for i, file in enumerate(sorted(source.rglob("*.png"))):
            for name, data in ((f"{i:04d}.png", file.read_bytes()), (f"{i:04d}.cls", str(i % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        for name in ("../up.png", "/absolute.png", "0000.png", "unlabelled.png"):
            tar.addfile(tarfile.TarInfo(name))
    listed = list_files(tmp_path / "web.tar", "images")
    assert all(entry.label == int(entry.name[-8:-4]) % 3 for entry in listed.entries)
    assert len(listed.entries) == 12
    assert listed.class_names == ["0", "1", "2"]
    reasons = {Path(reject.name).name: reject.reason for reject in listed.rejects}
    assert (
        reasons["up.png"]
        == reasons["absolute.png"]
        == "its name leads out of the archive: an absolute path, or one with '..'"
    )
    assert reasons["0000.png"] == "a second file of this name"
    assert reasons["unlabelled.png"] == "no label beside it (.cls, or label or cls in its .json)"
    assert small(tmp_path / "web.tar", tmp_path / "tar").encoded == 12
    assert verify(tmp_path / "tar").class_counts == [4, 4, 4]


def test_imagenets_own_tars_are_classes(tmp_path: Path) -> None:
    """A folder of n01440764.tar …, as ILSVRC2012_img_train.tar unpacks to; a compressed one is refused."""
    source = pictures(tmp_path / "source")
    (tmp_path / "tars").mkdir()
    for name, folder in zip(("n01440764", "n01443537", "n01484850"), sorted(source.iterdir()), strict=True):
        with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, f"{name}_{file.name}")
    listed = list_files(tmp_path / "tars", "images")
    assert listed.class_names == ["n01440764", "n01443537", "n01484850"]
    assert all(listed.class_names[entry.label or 0] == entry.name[:9] for entry in listed.entries)
    assert small(tmp_path / "tars", tmp_path / "out").encoded == 12
    assert verify(tmp_path / "out").class_counts == [4, 4, 4]
    with tarfile.open(tmp_path / "tars" / "n01484850.tar", "w:gz") as tar:
        tar.add(next(source.rglob("*.png")), "a.png")
    with pytest.raises(af.UserError, match=r"n01484850\.tar holds nothing that can be read, and tars are the classes"):
        list_files(tmp_path / "tars", "images")


def test_shards_mix_classes(tmp_path: Path) -> None:
    """A stream reads shard after shard: each has of all classes, not one after another, and always the same."""
    source = pictures(tmp_path / "source", count=60)
    entries = list_files(source, "images").mixed().entries
    assert all(len({entry.label for entry in entries[start : start + 10]}) == 3 for start in range(0, 60, 10))
    assert entries == list_files(source, "images").mixed().entries
    assert sorted(entry.name for entry in entries) == sorted(
        file.relative_to(source).as_posix() for file in source.rglob("*.png")
    )


CRASH = """
import os, signal
from alphaflow.data_tools.decode import ImageTransform

class Crash(ImageTransform):
    def __call__(self, entry, variant):
        if "005" in entry.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(entry, variant)
"""
"""A recipe that kills its process on one file, as a broken decoder would; in a module that workers can import."""


def test_a_file_that_kills_its_worker_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_files(pictures(tmp_path / "source"), "images").entries
    entries = sorted(listed, key=lambda entry: Path(entry.name).name)
    tasks = [(i, entry, 0) for i, entry in enumerate(entries)]
    (tmp_path / "crashing.py").write_text(CRASH)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = importlib.import_module("crashing").Crash(16)
    with Decoder(recipe, workers=2, chunk=2) as decoder:
        samples = list(decoder(iter(tasks)))
    assert [sample.index for sample in samples] == list(range(12))
    crashed = [sample for sample in samples if sample.pixels is None]
    assert [sample.record["reason"] for sample in crashed] == ["its decoder crashed, or took more than 300 s, twice"]
    assert "005" in crashed[0].record["source"]
    many = [
        (i, entry, 0) for i, entry in enumerate(entries[:5] * 10 + entries[5:])
    ]  # it dies while nobody waits for it
    found = []
    with Decoder(recipe, workers=1, chunk=2) as decoder:
        for sample in decoder(iter(many)):
            found.append(sample)
            time.sleep(0.05)
    assert [sample.index for sample in found] == list(range(len(many)))
    assert sum(sample.pixels is None for sample in found) == 1


def workers() -> int:
    """How many decoding processes there are on this machine."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    return sum("--multiprocessing-fork" in line for line in listed.splitlines())


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL twenty times, then once through: no sample missing, none twice, the files those of an undisturbed run."""
    source = pictures(tmp_path / "source", count=240, classes=4)
    call = [sys.executable, "-m", "alphaflow", "encode", "images", str(source)]
    options = ["--autoencoder", "pixels", "--size", "64", "--samples-per-shard", "12", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(
        [*call, str(tmp_path / "whole"), *options], env=environment, capture_output=True, check=False
    )
    assert whole.returncode == 0, whole.stderr
    chance, before = random.Random(3), workers()
    out, kills = tmp_path / "killed", 0
    for _ in range(20):
        process = subprocess.Popen(
            [*call, str(out), *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.4, 1.4))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills > 5
    last = subprocess.run([*call, str(out), *options], env=environment, capture_output=True, check=False)
    assert last.returncode == 0, last.stderr
    assert digests(out) == digests(tmp_path / "whole")
    assert {file.name for file in out.glob(".*")} <= {".encoded-0-of-1.lock", ".encoded-0-of-1.json"}
    assert verify(out).samples == 240
    time.sleep(2)  # workers follow a killed main process
    assert workers() <= before


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No broken shard under its final name; it goes on once there is space."""
    import errno

    from alphaflow.data_tools import shard_writer as shards

    source = pictures(tmp_path / "source")
    original = shards._Hashing.write

    def full(self: Any, data: bytes) -> int:
        if self.count > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")
        return original(self, data)

    monkeypatch.setattr(shards._Hashing, "write", full)
    with pytest.raises(OSError, match="No space left"):
        small(source, tmp_path / "out", samples_per_shard=12)
    assert not list((tmp_path / "out").glob("*.tar"))
    assert {file.name for file in (tmp_path / "out").glob(".*")} <= {".encoded-0-of-1.lock", ".encoded-0-of-1.json"}
    monkeypatch.undo()
    small(source, tmp_path / "out", samples_per_shard=12)
    assert verify(tmp_path / "out").samples == 12


def test_torchrun_and_cluster_arrays_set_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    from alphaflow.cli.encode import _options

    rest = (10, 2, 0, 0.01, False, None, None)
    assert _options("train", None, *rest).shards == 1
    assert (_options("train", "2/5", *rest).shard, _options("train", "2/5", *rest).shards) == (2, 5)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    made = _options("train", None, *rest)
    assert (made.shard, made.shards) == (3, 4)


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source")
    small(source, tmp_path / "out")
    file = tmp_path / "out" / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[4000] ^= 1
    file.write_bytes(data)
    problems = verify(tmp_path / "out").problems
    assert any("train-000001.tar" in problem and "SHA-256 differs" in problem for problem in problems)
    file.unlink()
    assert any("train-000001.tar: No such file" in problem for problem in verify(tmp_path / "out").problems)


def test_the_commands(here: Cli, tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", count=20)
    options = ["--autoencoder", "pixels", "--size", "16", "--samples-per-shard", "8", "--workers", "1"]
    done = here("encode", "images", source, tmp_path / "out", *options, "--mirror")
    assert done.status == 0, done.err
    assert "40 encoded, 0 rejected" in done.out
    done = here("verify", tmp_path / "out")
    assert done.status == 0, done.err
    assert "40 samples in 5 shards: all whole" in done.out
    assert here("preview", tmp_path / "out").status == 0
    assert Image.open(tmp_path / "out" / "preview.png").size[0] > 64
    data = bytearray((tmp_path / "out" / "train-000000.tar").read_bytes())
    data[3000] ^= 1
    (tmp_path / "out" / "train-000000.tar").write_bytes(data)
    assert here("verify", tmp_path / "out").status == 1


def test_wrong_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error and status 2 each; in this process, for speed."""
    from alphaflow.cli.main import main

    source = pictures(tmp_path / "source", count=4)
    options = ["--autoencoder", "pixels", "--size", "16", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["alphaflow", "encode", "images", str(source), str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    for words, message in [
        (["encode", "images", tmp_path / "none", tmp_path / "x"], "doesn't exist"),
        (["encode", "images", source, tmp_path / "out", *options, "--mirror"], "was started with variants 1, not 2"),
        (
            ["encode", "images", source, tmp_path / "x", *options, "--shard", "3/3"],
            "--shard needs 0 <= shard < shards, got 3 of 3",
        ),
        (["encode", "images", source, tmp_path / "x", *options, "--shard", "x"], "--shard takes I/N"),
        (
            ["encode", "images", source, tmp_path / "x", "--autoencoder", str(tmp_path / "no-vae")],
            "can't load the autoencoder",
        ),
        (["encode", "images", source, tmp_path / "x", "--autoencoder", "nowhere:thing"], "can't be imported"),
        (["verify", tmp_path], "holds no dataset.json"),
        (["preview", tmp_path / "none"], "is not a folder of shards"),
        (["preview", tmp_path / "out", "--out", tmp_path / "x.jpg"], "a preview is a .png"),
        (["preview", tmp_path / "out", "--out", tmp_path / "x.mp4"], "only clips as an .mp4"),
    ]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["alphaflow", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2, (words, error)
        assert message in error, error
        assert len(error.strip().splitlines()) == 1, error
