"""Reading shards: every sample once an epoch, exact resume, damaged shards, streams, and training on moments."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions

import alphaflow as af
from alphaflow.autoencoders.autoencoder import Normalisation
from alphaflow.autoencoders.opening import open_autoencoder
from alphaflow.data import open_files as reading
from alphaflow.data.listing.entry import Entry
from alphaflow.data.listing.listing import Listing
from alphaflow.pixel_values import to_bytes
from alphaflow.training.display import Display


class Numbered(ImageTransform):
    """Sample i is an image of brightness i: no file is read."""

    def __call__(self, entry: Entry, variant: int) -> Any:
        return np.full((4, 4, 3), int(entry.name), np.uint8), {"source": entry.name}


class Moments(af.Autoencoder):
    """Mean = pixels, deviation = a half: a posterior that is easy to check."""

    posterior = True
    normalisation = Normalisation((0.5,) * 3, (2.0,) * 3)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels, torch.full_like(pixels, 0.5)], dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.normalisation.inverse(latents).clamp(-1, 1)

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (3, size, size)


N = 53


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "train"
    entries = [Entry(str(i), "", i % 5) for i in range(N)]
    options = EncodeOptions(samples_per_shard=10, batch_size=4, workers=0)
    encode(Listing(Path("numbers"), "images", entries, list("abcde")), out, Moments(), Numbered(4), options)
    return out


def numbers(batch: af.Batch) -> list[int]:
    """Which samples a batch holds, from their means."""
    pixels = (batch.x[:, 0, 0, 0] / 2 + 0.5 + 1) * 127.5
    return [int(value) for value in pixels.round()]


def test_every_sample_once_an_epoch(folder: Path) -> None:
    shards = af.LatentShards(folder, batch_size=10, seed=1)
    assert (len(shards), shards.shape, shards.classes) == (N, (3, 4, 4), 5)
    stream = iter(shards)
    seen = [number for _ in range(53) for number in numbers(next(stream))]
    epochs = [seen[start : start + N] for start in range(0, 10 * N, N)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    batch = next(stream)
    assert batch.cond.labels is not None
    assert [n % 5 for n in numbers(batch)] == batch.cond.labels.tolist()
    assert batch.std is not None
    assert (batch.std == 1.0).all()  # a half, times the scale


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch(world: int, folder: Path) -> None:
    """Together, step for step, they see what one reader of a batch as large as all of theirs sees."""
    of_all = [af.LatentShards(folder, batch_size=6 * world, seed=4) for _ in range(world)]
    readers = [iter(data.share(rank, world)) for rank, data in enumerate(of_all)]
    whole = iter(af.LatentShards(folder, batch_size=6 * world, seed=4))
    seen: list[int] = []
    for _ in range(N):
        parts = [number for reader in readers for number in numbers(next(reader))]
        assert sorted(parts) == sorted(numbers(next(whole)))
        seen += parts
    assert all(seen.count(i) in (len(seen) // N, len(seen) // N + 1) for i in range(N))


def test_the_very_next_sample_after_a_resume(folder: Path) -> None:
    shards = af.LatentShards(folder, batch_size=7, seed=2, draw=True)
    stream = iter(shards)
    for _ in range(11):
        next(stream)
    state = json.loads(json.dumps(shards.state_dict()))
    expected = [next(stream).x for _ in range(5)]
    again = af.LatentShards(folder, batch_size=7, seed=99, draw=True)
    again.load_state_dict(state)
    resumed = iter(again)
    for x in expected:  # the same samples, and the same latents drawn of them
        assert torch.equal(next(resumed).x, x)


def test_drawn_latents_are_the_posterior(folder: Path) -> None:
    shards = af.LatentShards(folder, batch_size=N, seed=3, draw=True)
    mean = af.LatentShards(folder).all()
    draws = torch.stack([shards.fetch(np.arange(N), np.random.default_rng(i)).x for i in range(400)])
    assert (draws.mean(0) - mean.x).abs().max() < 0.3
    assert draws.std(0).mean().item() == pytest.approx(1.0, abs=0.01)


def test_measured_shift_and_scale_decode_to_the_same_pixels(tmp_path: Path) -> None:
    """An autoencoder with a normalisation of its own, measured anew: decode undoes what was measured, and only that."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **blocks).save_pretrained(tmp_path / "vae")
    vae = af.DiffusersVAE(str(tmp_path / "vae"), device="cpu")
    entries = [Entry(str(4 * i), "") for i in range(40)]
    options = EncodeOptions(samples_per_shard=10, batch_size=4, workers=0, measure="channel")
    encode(Listing(Path("numbers"), "images", entries, []), tmp_path / "out", vae, Numbered(4), options)
    shards = af.LatentShards(tmp_path / "out", batch_size=40)
    batch = shards.all()
    assert batch.std is not None
    draws = torch.cat([batch.drawn(torch.Generator().manual_seed(i)).x for i in range(30)])
    assert (draws.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert shards.autoencoder is not None
    raw = vae.encode(torch.full((1, 3, 4, 4), 4 * 7 / 127.5 - 1))[:, :4]
    expected = vae.decode(vae.normalisation.forward(raw))
    assert torch.allclose(shards.autoencoder.decode(batch.x[7:8]), expected, atol=5e-3)


class Plain(af.Autoencoder):
    """An own autoencoder without a normalisation, whose latents are far from unit variance."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return 10 * pixels + 3

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - 3) / 10

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (3, size, size)


def test_a_preview_with_an_own_autoencoder(tmp_path: Path) -> None:
    from alphaflow.data_tools.preview import preview

    entries = [Entry(str(4 * i), "") for i in range(40)]
    options = EncodeOptions(samples_per_shard=10, batch_size=4, workers=0)
    encode(Listing(Path("numbers"), "images", entries, []), tmp_path / "out", Plain(), Numbered(4), options)
    pixels, _ = preview(tmp_path / "out", count=40, autoencoder=Plain())
    assert (pixels[:, 0, 0, 0].int() - 4 * torch.arange(40)).abs().max() <= 1
    own = Plain()
    own.normalisation = af.Normalisation((3.0,), (0.1,))  # one number for all channels
    encode(Listing(Path("numbers"), "images", entries, []), tmp_path / "own", own, Numbered(4), options)
    assert af.LatentShards(tmp_path / "own").description.normalisation == af.Normalisation((3.0,) * 3, (0.1,) * 3)


@pytest.mark.parametrize("measure", [None, "channel", "element"])
@pytest.mark.parametrize("make", [Plain, Moments, lambda: af.Normalised(Moments(), (0.1,) * 3, (3.0,) * 3)])
def test_what_was_measured_is_undone(make: Callable[[], Any], measure: Any, tmp_path: Path) -> None:
    """Whether or not an own autoencoder has a normalisation, and declares it: the picture comes back."""
    from alphaflow.data_tools.preview import preview

    entries = [Entry(str(4 * i), "") for i in range(40)]
    options = EncodeOptions(samples_per_shard=10, batch_size=4, workers=0, measure=measure)
    own = make()
    encode(Listing(Path("numbers"), "images", entries, []), tmp_path / "out", own, Numbered(4), options)
    shards = af.LatentShards(tmp_path / "out")
    pixels = shards.description.measured(make()).decode(shards.all().x)  # of means: nothing is drawn
    assert (((pixels[:, 0, 0, 0] + 1) * 127.5) - 4 * torch.arange(40)).abs().max() < 0.5
    if not own.posterior:
        assert torch.equal(preview(tmp_path / "out", count=40, autoencoder=make())[0], to_bytes(pixels))


def test_what_is_no_autoencoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every door, by the name of the class to derive from."""
    from alphaflow.data_tools.preview import preview

    class Loose:
        """Has the methods, and derives from nothing."""

        encode, decode, latent_shape = Plain.encode, Plain.decode, Plain.latent_shape

    entries, wrong = [Entry("0", "")], cast(Any, Loose())
    encode(
        Listing(Path("numbers"), "images", entries, []),
        tmp_path / "out",
        Plain(),
        Numbered(4),
        EncodeOptions(workers=0),
    )
    doors: list[Callable[[], Any]] = [
        lambda: encode(
            Listing(Path("none"), "images", entries, []), tmp_path / "none", wrong, Numbered(4), EncodeOptions()
        ),
        lambda: preview(tmp_path / "out", autoencoder=wrong),
        lambda: af.Normalised(wrong, (0.0,), (1.0,)),
        lambda: replace(af.find_recipe("digits")(width=32, depth=1), autoencoder=wrong),
        lambda: open_autoencoder("loose:Loose", None, False, "cpu"),
    ]
    monkeypatch.setitem(sys.modules, "loose", cast(Any, SimpleNamespace(Loose=Loose)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for door in doors:
        with pytest.raises(af.UserError, match=r"derives from af\.Autoencoder, not a Loose"):
            door()


def test_damaged_shards(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    file = place / "train-000002.tar"
    file.write_bytes(file.read_bytes()[:3000])
    (place / "train-000004.tar").unlink()
    with pytest.raises(af.UserError, match=r"train-000002\.tar has 3000 bytes instead of"):
        af.LatentShards(place)
    left = af.LatentShards(place, batch_size=33, seed=1, damaged="skip")
    assert len(left) == 33
    assert sorted(numbers(next(iter(left)))) == [*range(20), *range(30, 40), 50, 51, 52]
    with pytest.raises(af.UserError, match=r"holds no dataset\.json"):
        af.LatentShards(tmp_path)
    with pytest.raises(af.UserError, match="is not a folder of shards"):
        af.LatentShards(tmp_path / "none")
    (place / "dataset.json").write_text("{")
    with pytest.raises(af.UserError, match="is damaged"):
        af.LatentShards(place)


CUT = """
import os, sys
import alphaflow as af
shards = af.LatentShards(sys.argv[1], batch_size=8, seed=1)
shards.all()
os.truncate(sys.argv[2], 3000)
try:
    shards.all()
except af.UserError as error:
    print(error)
"""


def test_a_shard_that_is_cut_while_it_is_read(folder: Path, tmp_path: Path) -> None:
    """One line, not the end of the process by a signal; one that is gone before it is first read likewise."""
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "train-000002.tar"
    shards = af.LatentShards(tmp_path / "copy")
    call = [sys.executable, "-c", CUT, str(tmp_path / "copy"), str(file)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, ""), done
    assert f"{file} was cut while it was in use" in done.stdout
    file.unlink()
    with pytest.raises(af.UserError, match=r"train-000002\.tar can't be read any more: No such file"):
        shards.all()


def test_more_shards_than_files_may_be_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a copy, as another process gets it, opens its own."""
    shards = af.LatentShards(folder, batch_size=N, seed=1)
    expected = shards.all().x
    monkeypatch.setattr(reading, "ROOM", 2)
    for few in (af.LatentShards(folder, batch_size=N, seed=1), pickle.loads(pickle.dumps(shards))):
        assert not few._files._opened
        assert sorted(numbers(next(iter(few)))) == list(range(N))
        assert torch.equal(few.all().x, expected)
        assert len(few._files._opened) == 2


def test_no_shard_is_left(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*.tar"):
        file.unlink()
    with pytest.raises(af.UserError, match="holds no sample that can be read"):
        af.LatentShards(tmp_path / "copy", damaged="skip")


def test_damaged_bits(folder: Path, tmp_path: Path) -> None:
    """Values that are no numbers are found as they are read, others by the files' hashes; both name the shard."""
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    shards = af.LatentShards(place, batch_size=N, seed=1)
    _, offset, _ = shards._index[23].tolist()
    file = place / "train-000002.tar"
    data = bytearray(file.read_bytes())
    data[offset + 11] ^= 0x01
    file.write_bytes(data)
    assert len(next(iter(af.LatentShards(place, batch_size=N, seed=1))).x) == N  # another number: not seen
    with pytest.raises(af.UserError, match=r"train-000002\.tar is damaged: its SHA-256 is another"):
        af.LatentShards(place, hashes=True)
    data[offset + 10 : offset + 12] = b"\xff\xff"
    file.write_bytes(data)
    with pytest.raises(af.UserError, match=rf"train-000002\.tar is damaged: its sample at byte {offset} is not finite"):
        next(iter(af.LatentShards(place, batch_size=N, seed=1)))
    left = af.LatentShards(place, batch_size=43, seed=1, hashes=True, damaged="skip")
    assert sorted(numbers(next(iter(left)))) == [*range(20), *range(30, 53)]


def test_a_damaged_stream(folder: Path, tmp_path: Path) -> None:
    """A shard cut short, a shard that isn't there, a sample that is not a number: named, or skipped and noted."""
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    _, offset, _ = af.LatentShards(place)._index[23].tolist()
    whole = (place / "train-000002.tar").read_bytes()
    (place / "train-000002.tar").write_bytes(whole[:offset] + b"\xff\xff" + whole[offset + 2 :])
    (place / "train-000004.tar").write_bytes((place / "train-000004.tar").read_bytes()[:9000])
    (place / "train-000005.tar").unlink()
    for files, reason in (
        (["2"], r"sample 000000023 of .*train-000002\.tar can't be read: not finite"),
        (["4"], r"the shard .*train-000004\.tar can't be read"),
        (["5"], r"the shard .*train-000005\.tar can't be read: No such file"),
    ):
        urls = [str(place / f"train-00000{number}.tar") for number in files]
        with pytest.raises(af.UserError, match=reason):
            next(iter(af.RemoteShards(urls, place / "dataset.json", batch_size=10, seed=1)))
    urls = [str(place / f"train-00000{number}.tar") for number in range(6)]
    stream = af.RemoteShards(urls, place / "dataset.json", batch_size=39, seed=1, damaged="skip")
    batches = iter(stream)
    seen = {*numbers(next(batches)), *numbers(next(batches))}  # an epoch, 39 and what the cut shard still gave, or more
    assert set(range(40)) - {23} <= seen <= set(range(50)) - {23}
    assert {"train-000002.tar", "train-000004.tar", "train-000005.tar"} == {
        part.split("/")[-1] for line in stream.skipped for part in line.split() if ".tar" in part
    }


def test_streams_see_every_sample(folder: Path) -> None:
    """By paths, a pipe, and braces: all samples of an epoch, another order in the next, the same by seed."""
    files = sorted(str(file) for file in folder.glob("*.tar"))
    pattern = f"{folder}/train-{{000000..000005}}.tar"
    for urls in (files, pattern, f"pipe:cat '{pattern}'", [f"pipe:cat '{file}'" for file in files]):
        how: dict[str, Any] = {"batch_size": N, "buffer": 20, "seed": 1, "pipes": isinstance(urls, list)}
        stream = iter(af.RemoteShards(urls, folder / "dataset.json", **how))
        first, second = next(stream), next(stream)
        assert sorted(numbers(first)) == sorted(numbers(second)) == list(range(N))
        assert numbers(first) != numbers(second)
        again = next(iter(af.RemoteShards(urls, folder / "dataset.json", **how)))
        assert numbers(again) == numbers(first)
        assert first.std is not None
        assert [n % 5 for n in numbers(first)] == first.cond.labels.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("urls", [
    ["pipe:touch {mark}"], ["here.tar", " pipe:touch {mark}"], ["PIPE:touch {mark}"], ["pi\npe:touch {mark}"],
    "here.tar::pipe:touch {mark}", "${{LIST}}",
])  # fmt: skip
def test_commands_of_a_list_are_not_run(
    urls: str | list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have written them; nor those that a pattern comes to without being one. One's own are."""
    mark = tmp_path / "executed"
    monkeypatch.setenv("WDS_LIST", f"pipe:touch {mark}")
    given = urls.format(mark=mark) if isinstance(urls, str) else [url.format(mark=mark) for url in urls]
    for damaged in ("raise", "skip"):
        with pytest.raises(af.UserError, match="is a command for a shell, which is not run from a list"):
            next(iter(af.RemoteShards(given, folder / "dataset.json", damaged=damaged)))
    assert not mark.exists()
    with pytest.raises(af.UserError):  # no shard comes from it
        next(iter(af.RemoteShards(f"pipe:touch {mark}", folder / "dataset.json")))
    assert mark.exists()


def npy(descr: str, shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """An array whose header says this, whatever follows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(("array", "label", "message"), [
    (npy("<f2", (10**12, 2048)), b"1", "ends early"), (npy("<f2", (-1, 3)), b"1", "ends early"),
    (npy("<f2", (6, 4, 4), b"ab"), b"1", "ends early"), (npy("<U1", (6, 4, 4), bytes(384)), b"1", "floats"),
    (npy("<f2", (6, 4, 3), bytes(144)), b"1", "floats"), (b"PK\x03\x04", b"1", "no array's header"),
    (npy("|O", (6, 4, 4), bytes(768)), b"1", "pickled"), (npy("<f2", (6, 4, 4), bytes(192)), b"5", "its label 5"),
    (npy("<f2", (6, 4, 4), bytes(192)), b"-2", "its label -2"), (npy("<f2", (6, 4, 4), bytes(192)), b"x", "invalid"),
])  # fmt: skip
def test_a_streamed_sample_is_not_believed(
    array: bytes, label: bytes, message: str, folder: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("000.cls", label), ("000.latent.npy", array)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(af.UserError, match=rf"sample 000 of .*a\.tar can't be read: .*{message}"):
        next(iter(af.RemoteShards([tmp_path / "a.tar"], folder / "dataset.json", batch_size=1)))


def test_a_streams_description_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    for name in ("none", "bytes"):
        with pytest.raises(af.UserError, match=f"{name} can't be read"):
            af.RemoteShards("x.tar", tmp_path / name)


def test_over_http(folder: Path) -> None:
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        urls = f"http://127.0.0.1:{server.server_address[1]}/train-{{000000..000005}}.tar"
        batch = next(iter(af.RemoteShards(urls, folder / "dataset.json", batch_size=N, seed=1)))
        assert sorted(numbers(batch)) == list(range(N))
    finally:
        server.shutdown()


def test_training_draws_on_its_own_generator(folder: Path, tmp_path: Path) -> None:
    """The Trainer draws latents itself: bit for bit again after a resume; pictures are decoded by the shards' VAE."""

    def recipe() -> af.Recipe:
        torch.manual_seed(0)
        latents = af.LatentShards(folder, batch_size=8, seed=1)
        model = af.DiT(latents.shape, patch=2, depth=1, width=16, heads=2, classes=latents.classes)
        settings: dict[str, Any] = {"samplers": (af.ODE(1),), "steps": 6, "lr": 1e-2, "autoencoder": Moments()}
        return af.Recipe(model=model, objective=af.MeanFlow(), dataset=latents, **settings)

    straight = af.Trainer(recipe(), out=tmp_path / "straight", checkpoint_every=3)
    straight.fit()
    stopped = af.Trainer(recipe(), out=tmp_path / "stopped", checkpoint_every=3)
    for _ in range(3):
        stopped.train_step()
    stopped.save()
    resumed = af.Trainer(recipe(), out=tmp_path / "stopped", resume=True)
    resumed.fit()
    digest = [
        hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())).hexdigest()
        for trainer in (straight, resumed)
    ]
    assert digest[0] == digest[1]
    assert (tmp_path / "straight" / "samples" / "step-00000006.png").is_file()


def test_an_index_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """Offsets, shards and labels that can't be, one at a time; and what is said of the files."""
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    right = np.load(place / "index.npy")

    def changed(name: str, row: int, value: int) -> Any:
        wrong = right.copy()
        wrong[name][row] = value
        return wrong

    shifted = right.copy()
    shifted["offset"] += 4
    for wrong, message in (
        (changed("offset", 3, -512), "outside of their shards"),
        (changed("offset", 3, 2**40), "outside of their shards"),
        (changed("offset", 3, 2**63 - 384), "outside of their shards"),
        (changed("offset", 3, int(right["offset"][2])), "in one another"),
        (shifted, "don't match the members of the tars"),
        (changed("shard", 0, 99), "other samples"), (changed("shard", 0, -1), "other samples"),
        (right[:-1], "other samples"), (np.concatenate([right, right[:1]]), "other samples"),
        (changed("label", 5, 5), "among the 5 classes"), (changed("label", 5, -2), "among the 5 classes"),
        (np.zeros(53), "its rows are float64"),
    ):  # fmt: skip
        np.save(place / "index.npy", wrong)
        with pytest.raises(af.UserError, match=f"index.npy doesn't belong to these shards: .*{message}"):
            af.LatentShards(place, batch_size=4)
    np.savez(tmp_path / "other.npz", right)
    for data in (b"cut", npy("<i8", (10**12, 2048)), npy("<i8", (-5,)), (tmp_path / "other.npz").read_bytes()):
        (place / "index.npy").write_bytes(data)
        with pytest.raises(af.UserError, match=r"index\.npy can't be read"):
            af.LatentShards(place, batch_size=4)
    np.save(place / "index.npy", right)
    assert len(af.LatentShards(place, batch_size=4)) == N

    record = json.loads((place / "dataset.json").read_text())
    other = {"file": "../elsewhere.tar", "bytes": 1, "samples": 1, "sha256": ""}
    for change, message in (
        ({"shards": [other]}, "not a file in this folder"), ({"shards": [{}]}, "no 'file'"),
        ({"stored_shape": [1, 4, 4]}, "hold no samples"), ({"shape": "x"}, "invalid literal"),
        ({"shift": [0.0, 0.0]}, "one number for each channel"), ({"shift": [float("nan")] * 3}, "finite numbers"),
        ({"scale": ["1"] * 3}, "finite numbers"), ({"scale": [0.0] * 3}, "no scale is 0"), ({"fps": "x"}, "fps is 'x'"),
        ({"posterior": 1}, "posterior is 1"), ({"class_names": "ab"}, "not a list of names"),
        ({"class_names": [1]}, "not a list of names"), ({"shape": [float("inf")]}, "infinity"),
        ({"shape": [3, 10**7, 4], "stored_shape": [6, 10**7, 4]}, "doesn't belong"),
        ({"shape": [3, 10**30, 4], "stored_shape": [6, 10**30, 4]}, "hold no samples"),
        ({"shape": []}, "hold no samples"),
        ({"shards": [{**record["shards"][0], "bytes": 10**30}]}, "so many bytes"),
        ({"shards": [{**record["shards"][0], "samples": "9"}]}, "so many bytes"),
    ):  # fmt: skip
        (place / "dataset.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(af.UserError, match=f"(dataset.json is damaged|index.npy) .*{message}"):
            af.LatentShards(place, batch_size=4)
    for text in (b"\xff\xfe\xfd", b"[" * 100_000, b"[]"):
        (place / "dataset.json").write_bytes(text)
        with pytest.raises(af.UserError, match=r"dataset\.json is damaged"):
            af.LatentShards(place, batch_size=4)


def test_an_autoencoder_that_is_missing_does_not_stop_training(folder: Path, tmp_path: Path) -> None:
    latents = af.LatentShards(folder, batch_size=8, seed=1)
    model = af.DiT(latents.shape, patch=2, depth=1, width=16, heads=2, classes=latents.classes)
    settings: dict[str, Any] = {"samplers": (af.ODE(1),), "steps": 2}
    vae = af.DiffusersVAE(str(tmp_path / "no-such-folder"))
    recipe = af.Recipe(model=model, objective=af.MeanFlow(), dataset=latents, autoencoder=vae, **settings)
    said: list[str] = []

    class Listening(Display):
        def say(self, message: str) -> None:
            said.append(message)

    trainer = af.Trainer(recipe, out=tmp_path / "run", display=Listening())
    trainer.fit()
    assert trainer.step == 2
    assert sum("no picture at step 1: can't load the autoencoder" in line for line in said) == 1  # told once


def test_kinetics(tmp_path: Path) -> None:
    class Clips(Numbered):
        def __call__(self, entry: Entry, variant: int) -> Any:
            return np.zeros((3, 8, 8, 3), np.uint8), {"source": entry.name}

    entries = [Entry(str(i), "", i % 2) for i in range(8)]
    source = Listing(Path("clips"), "clips", entries, ["a", "b"])
    encode(source, tmp_path / "train", af.Pixels(), Clips(8), EncodeOptions(workers=0, batch_size=4))
    made = af.find_recipe("kinetics700")(data=tmp_path, steps=2, batch_size=2, size="s")
    trainer = af.Trainer(made)
    assert trainer.train_step().total.isfinite()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader_share_an_epoch(context: str, folder: Path) -> None:
    """Two ranks with two workers each, 13 samples a batch: 52 of 53 samples, none twice."""
    seen: list[int] = []
    for rank in range(2):
        shards = af.LatentShards(folder, batch_size=26, seed=5)
        shards.share(rank, 2)
        loader = torch.utils.data.DataLoader(shards, batch_size=None, num_workers=2, multiprocessing_context=context)
        batches = itertools.islice(iter(loader), 2)  # one of each worker
        seen += [number for batch in batches for number in numbers(batch)]
    assert len(seen) == 52
    assert len(set(seen)) == 52


def test_streaming_workers_see_each_sample_once(folder: Path) -> None:
    """Four shards of ten, two workers of a loader: every sample once in forty batches of one."""
    urls = [str(folder / f"train-{i:06d}.tar") for i in range(4)]
    shards = af.RemoteShards(urls, folder / "dataset.json", batch_size=1, seed=3)
    loader = torch.utils.data.DataLoader(shards, batch_size=None, num_workers=2)
    seen = [number for batch in itertools.islice(iter(loader), 40) for number in numbers(batch)]
    whole = af.LatentShards(folder, batch_size=1)
    first = [number for row in range(40) for number in numbers(whole.fetch(np.array([row])))]
    assert sorted(seen) == sorted(first)


def test_a_stream_that_ends_early_looks_whole(folder: Path, tmp_path: Path) -> None:
    """Cut where a sample begins, with a tar's end put behind: by the count that dataset.json states."""
    file = tmp_path / "train-000001.tar"
    data = (folder / file.name).read_bytes()
    with tarfile.open(folder / file.name) as tar:
        end = next(member.offset for member in tar if member.name.endswith(".cls") and member.offset > len(data) // 2)
    file.write_bytes(data[:end] + bytes(10240))
    with pytest.raises(af.UserError, match=r"train-000001\.tar can't be read: it ends after \d of 10 samples"):
        list(itertools.islice(af.RemoteShards([str(file)], folder / "dataset.json", batch_size=1), 11))
    file.with_name("train-000002.tar").write_bytes(bytes(20480))  # not one sample
    urls = [str(folder / "train-000000.tar"), str(file.with_name("train-000002.tar"))]
    with pytest.raises(af.UserError, match="it ends after 0 of 10 samples"):
        list(itertools.islice(af.RemoteShards(urls, folder / "dataset.json", batch_size=1), 11))
    skipping = af.RemoteShards([str(file)], folder / "dataset.json", batch_size=1, damaged="skip")
    list(itertools.islice(skipping, 11))
    assert len(skipping.skipped) == 1
