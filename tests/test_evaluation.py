"""What is read, run and recorded by an evaluation: every form of pictures, statistics, processes, wrong input."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.make_statistics import make_statistics
from PIL import Image
from torch import Tensor

import alphaflow as af
from alphaflow.evaluation.gatherer import Gatherer
from alphaflow.evaluation.npz_samples import NpzSamples
from alphaflow.evaluation.sample_sets import open_sample_set
from alphaflow.evaluation.statistics import needs_of
from alphaflow.evaluation.statistics_file import FORMAT, holds_statistics, is_ours, read_statistics
from alphaflow.features.extractors import open_extractor
from alphaflow.runs.record import Origin

CPU = torch.device("cpu")
Own = Callable[[Path], str]
Rows = Callable[..., dict[str, float]]
Cli = Callable[..., Any]
Torchrun = Callable[..., Any]


def pixels_of(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_form_gives_the_same_figures(tmp_path: Path, cli: Cli, rows: Rows) -> None:
    """PNG files, a zip, arrays (compressed or not), shards, statistics; any batch size."""
    from alphaflow.media.sample_files import write_samples

    pixels, labels = pixels_of(40, 0), torch.arange(40) % 4
    write_samples(tmp_path / "png", lambda: pixels, labels, list("abcd"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "png").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "png"))
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "plain.npz", arr_0=arrays, arr_1=np.array(list("abcd"))[labels.numpy()])
    np.savez_compressed(tmp_path / "packed.npz", arr_0=arrays, arr_1=np.array(list("abcd"))[labels.numpy()])
    done = cli("encode", "images", tmp_path / "png", tmp_path / "shards", "--size", "8", "--autoencoder", "pixels",
               "--workers", "0")  # fmt: skip
    assert done.status == 0, done.err
    metrics = ("pixel-fd", "pixel-pr", "agreement")
    make_statistics(tmp_path / "png", tmp_path / "stats.npz", metrics=metrics)
    fake = af.InMemorySamples(pixels_of(60, 1) // 2, torch.arange(60) % 4, list("abcd"))
    expected = rows(fake, af.InMemorySamples(pixels, labels, list("abcd")), *metrics)
    for name in ("png", "set.zip", "plain.npz", "packed.npz", "shards", "stats.npz"):
        for batch_size in (7, 128):
            assert rows(fake, tmp_path / name, *metrics, batch_size=batch_size) == pytest.approx(expected, rel=1e-9), (
                name
            )
    assert rows(tmp_path / "shards", tmp_path / "png", "pixel-fd")["pixel-fd"] == pytest.approx(0, abs=1e-9)
    blocks = list(open_sample_set(tmp_path / "packed.npz").batches(16, 1, 2))
    assert [block.start for block in blocks] == [16]
    assert torch.equal(blocks[0].pixels, pixels[16:32])


@pytest.mark.slow
def test_statistics_of_adms_form(tmp_path: Path, inception: Path, rows: Rows, own: Own) -> None:
    """mu and sigma are taken as they are; other metrics look at the pictures beside them; ours reads back."""
    weights = {"inception": own(inception)}
    real, fake = pixels_of(12, 0), pixels_of(11, 1) // 2
    plain = rows(af.InMemorySamples(fake), af.InMemorySamples(real), "fid", "pr", weights=weights)
    make_statistics(_npz(tmp_path / "real.npz", real), tmp_path / "stats.npz", metrics=("fid",), weights=weights)
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as arrays:
        mu, sigma = arrays["mu"], arrays["sigma"]
        assert sigma.shape == (2048, 2048)
    stored, expected = read_statistics(tmp_path / "stats.npz").statistics.spaces["inception"], mu
    assert stored.moments is not None
    assert np.array_equal(stored.moments.mean.numpy(), expected)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, arr_0=real.permute(0, 2, 3, 1).numpy())
    assert rows(af.InMemorySamples(fake), tmp_path / "adm.npz", "fid", "pr", weights=weights) == pytest.approx(plain)
    np.savez(tmp_path / "fid.npz", mu=mu, sigma=sigma)
    for name in ("fid.npz", "stats.npz"):
        with pytest.raises(
            af.UserError, match="the reference has nothing for pr; make its statistics again, for pr too"
        ):
            rows(af.InMemorySamples(fake), tmp_path / name, "pr", weights=weights)
    state = torch.load(inception, weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, tmp_path / "others.pth")
    with pytest.raises(af.UserError, match="made with weights"):
        rows(af.InMemorySamples(fake), tmp_path / "stats.npz", "fid", weights={"": own(tmp_path / "others.pth")})
    np.savez(tmp_path / "narrow.npz", mu=mu[:64], sigma=sigma[:64, :64])
    with pytest.raises(af.UserError, match="64 features, but inception has 2048: it was made with another extractor"):
        rows(af.InMemorySamples(fake), tmp_path / "narrow.npz", "fid", weights=weights)


def _npz(file: Path, pixels: Tensor) -> Path:
    np.savez(file, arr_0=pixels.permute(0, 2, 3, 1).numpy())
    return file


def test_damaged_statistics(tmp_path: Path, here: Cli) -> None:
    good = np.eye(4)
    np.savez(tmp_path / "nan.npz", mu=np.full(4, np.nan), sigma=good)
    np.savez(tmp_path / "skew.npz", mu=np.zeros(4), sigma=np.triu(np.ones((4, 4))))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=good)
    np.savez(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object), sigma=good)
    np.savez(tmp_path / "whole.npz", mu=np.zeros(4), sigma=good)
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    (tmp_path / "flipped.npz").write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    fake = _npz(tmp_path / "fake.npz", pixels_of(12, 0))
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("nan.npz", "is damaged"), ("skew.npz", "is damaged"), ("shapes.npz", "don't belong together"),
        ("pickled.npz", "pickled objects are refused"), ("cut.npz", "no readable"), ("flipped.npz", "is it whole"),
        ("empty", "holds no images"), ("none.npz", "doesn't exist"),
    ]:  # fmt: skip
        done = here("evaluate", fake, "--reference", tmp_path / name, "--metrics", "pixel-pr")
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), (name, done.err)
        assert message in done.err, (name, done.err)


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Of an array, whatever follows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npz(file: Path, members: dict[str, Any], how: int = zipfile.ZIP_STORED, lies: int = 0) -> Path:
    """An .npz of arrays, or of bytes as they are; ``lies``: bytes that each member is said to have."""
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, value in members.items():
            stream = io.BytesIO()
            if isinstance(value, bytes):
                stream.write(value)
            else:
                np.lib.format.write_array(stream, np.asarray(value))
            archive.writestr(f"{name}.npy", stream.getvalue())
        for info in archive.infolist() if lies else []:
            info.file_size = info.compress_size = lies
    return file


def own_statistics(*, about: Any = None, **changes: Any) -> dict[str, Any]:
    """The members of a small file of ours, with changes; None leaves one out."""
    noise = np.random.default_rng(0).normal(size=(12, 4))
    said = {
        "format": FORMAT, "source": "here", "count": 12, "shape": [1, 2, 2], "class_names": ["a", "b"],
        "extractors": {"pixels": {"count": 12, "sha256": ""}},
    }  # fmt: skip
    members = {
        "about": json.dumps({**said, **(about or {})}), "labels": np.arange(12) % 2,
        "pixels_mu": noise.mean(0), "pixels_sigma": np.cov(noise.T), "pixels_features": noise.astype(np.float32),
    }  # fmt: skip
    kept = {name: value for name, value in {**members, **changes}.items() if value is not None}
    return {name.replace("_", "/"): value for name, value in kept.items()}


def one_line(call: Callable[[], Any], message: str, most: int = 2**23) -> None:
    """A UserError of one line, and no memory for what a file says it holds."""
    tracemalloc.start()
    with pytest.raises(af.UserError, match=message) as raised:
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 1000


NAN, HUGE, EYE = float("nan"), (10**12, 2048), np.eye(4)
TWISTED = np.eye(4) + 2 * (np.eye(4, k=1) + np.eye(4, k=-1))
"""Symmetric, but its products are larger than its variances."""


@pytest.mark.parametrize(("changes", "message"), [
    ({"about": {"count": -1}}, "its count is -1"), ({"about": {"count": "12"}}, "its count is '12'"),
    ({"about": {"count": NAN}}, "its count is nan"), ({"about": {"count": 10**30}}, "its count is 1000"),
    ({"about": {"count": True}}, "its count is True"), ({"about": {"count": None}}, "its count is None"),
    ({"about": {"count": 13}}, "of pixels it says"), ({"about": {"shape": "x"}}, "its shape is 'x'"),
    ({"about": {"shape": [1, -2, 2]}}, "its shape is"), ({"about": {"shape": [1, "2", 2]}}, "its shape is"),
    ({"about": {"shape": [4]}}, "its shape is"), ({"about": {"class_names": [1, 2]}}, "no list of names"),
    ({"about": {"class_names": "ab"}}, "no list of names"),
    ({"about": {"class_names": ["a", "9" * 5000]}}, "no list of names"),
    ({"about": {"class_names": None}}, "no list of names"),
    ({"about": {"source": 3}}, "its source is 3"), ({"about": {"extractors": []}}, "its extractors are"),
    ({"about": {"extractors": {"../x": {}}}}, "its extractors are"),
    ({"about": {"extractors": {"pixels": 12}}}, "of pixels it says 12"),
    ({"about": {"extractors": {"pixels": {"count": "12", "sha256": ""}}}}, "of pixels it says"),
    ({"about": {"extractors": {"pixels": {"count": 12, "sha256": None}}}}, "of pixels it says"),
    ({"about": {"format": ["x"] * 1000}}, "another format"), ({"about": {"format": None}}, "another format"),
    ({"labels": np.arange(12) % 2 - 1}, "labels from -1 to 0"), ({"labels": np.arange(12) % 3}, "labels from 0 to 2"),
    ({"labels": np.full(12, 2**63, np.uint64)}, "labels from 9"), ({"labels": np.zeros(12)}, "labels must be whole"),
    ({"labels": np.zeros(11, int)}, "labels must be"), ({"labels": np.zeros((12, 1), int)}, "labels must be"),
    ({"labels": np.array(["0"] * 12)}, "labels must be"), ({"labels": header("<i8", (10**12,))}, "ends early"),
    ({"pixels_mu": np.zeros(3)}, "don't belong"), ({"pixels_sigma": np.eye(3)}, "don't belong"),
    ({"pixels_mu": np.zeros(0), "pixels_sigma": np.zeros((0, 0))}, r"mu must be floats \(n\)"),
    ({"pixels_mu": np.array(0.0), "pixels_sigma": np.array(0.0)}, "mu must be floats"),
    ({"pixels_sigma": None}, "no pixels/sigma"), ({"pixels_sigma": np.zeros((4, 4), int)}, "sigma must be floats"),
    ({"pixels_mu": np.zeros(4, complex)}, "mu must be floats"), ({"pixels_mu": np.array(list("abcd"))}, "must be"),
    ({"pixels_mu": np.array([{}] * 4, object)}, "pickled objects are refused"),
    ({"pixels_mu": np.full(4, NAN)}, "is damaged"), ({"pixels_mu": np.full(4, 1e200)}, "is damaged"),
    ({"pixels_sigma": np.full((4, 4), np.inf)}, "is damaged"), ({"pixels_sigma": -EYE}, "no covariance"),
    ({"pixels_sigma": np.triu(np.ones((4, 4)))}, "no covariance"), ({"pixels_sigma": TWISTED}, "no covariance"),
    ({"pixels_mu": header("<f8", HUGE)}, "ends early"), ({"pixels_sigma": header("<f8", HUGE)}, "ends early"),
    ({"pixels_mu": header("<f8", (-4,))}, "ends early"), ({"pixels_features": header("<f4", HUGE)}, "ends early"),
    ({"pixels_features": np.full((12, 4), np.inf, np.float32)}, "features is not finite"),
    ({"pixels_features": np.zeros((11, 4), np.float32)}, "features must be"),
    ({"pixels_features": np.zeros((12, 5), np.float32)}, "don't belong together"),
    ({"pixels_features": np.zeros((12, 4), int)}, "features must be floats"),
    ({"pixels_features": b"no array"}, "no array's header"), ({"pixels_features": b""}, "no array's header"),
])  # fmt: skip
def test_statistics_are_not_believed(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        one_line(lambda how=how: read_statistics(npz(tmp_path / "a.npz", own_statistics(**changes), how)), message)


@pytest.mark.parametrize(("about", "message"), [
    ("[]", "no JSON object"), ("{", "no JSON"), ("[" * 100_000, "no JSON"), (b"{}", "no array's header"),
    (np.array(["{}", "{}"]), "about must be text"), (np.array(b"{}"), "about must be text"),
    (header("<U100000000", ()), "ends early"),
])  # fmt: skip
def test_an_account_that_is_none(about: Any, message: str, tmp_path: Path) -> None:
    place = npz(tmp_path / "a.npz", {**own_statistics(), "about": about})
    one_line(lambda: read_statistics(place), message)
    assert holds_statistics(place)
    assert not is_ours(place)


def test_statistics_that_are_believed(tmp_path: Path) -> None:
    """What the tests above change one thing of: also packed, of another byte order, in Fortran's, of frames."""
    features = own_statistics()["pixels/features"]
    assert is_ours(npz(tmp_path / "a.npz", own_statistics()))
    for other in (features.astype(">f4"), np.asfortranarray(features), features.astype(np.float64)):
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            found = read_statistics(npz(tmp_path / "a.npz", own_statistics(pixels_features=other), how)).statistics
            assert np.array_equal(np.asarray(found.spaces["pixels"].features), features)
            assert np.array_equal(np.asarray(found.labels), np.arange(12) % 2)
    clips = {"count": 6, "shape": [1, 2, 2, 2]}
    read_statistics(npz(tmp_path / "a.npz", own_statistics(about=clips, labels=None)))


PIXELS = np.zeros((12, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(("members", "message"), [
    ({"arr_0": header("|u1", (10**12, 8, 8, 3))}, "ends early"), ({"arr_0": header("|u1", (-1, 8, 8, 3))}, "early"),
    ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "must be 8-bit"), ({"arr_0": PIXELS[:, :0]}, "must be 8-bit"),
    ({"arr_0": PIXELS.astype(np.int16)}, "must be 8-bit"), ({"arr_0": PIXELS[0]}, "must be 8-bit"),
    ({"arr_0": PIXELS[..., :2]}, "must be 8-bit"), ({"arr_0": np.asfortranarray(PIXELS)}, "must be 8-bit"),
    ({"arr_0": PIXELS.astype(object)}, "pickled objects are refused"), ({"arr_0": b""}, "no array's header"),
    ({"arr_0": PIXELS, "arr_1": np.zeros(12)}, "arr_1 must be whole numbers or text"),
    ({"arr_0": PIXELS, "arr_1": np.full(12, NAN)}, "arr_1 must be"), ({"arr_0": PIXELS, "arr_1": PIXELS}, "must be"),
    ({"arr_0": PIXELS, "arr_1": np.zeros(11, int)}, r"arr_1 must be .* \(12\), got int64 \(11,\)"),
    ({"arr_0": PIXELS, "arr_1": np.full(12, -1)}, "the label -1"),
    ({"arr_0": PIXELS, "arr_1": np.array(["9" * 5000] * 12)}, "more than 1,000 characters"),
    ({"arr_0": PIXELS, "arr_1": np.array([{}] * 12, object)}, "pickled objects are refused"),
    ({"arr_0": PIXELS, "arr_1": header("<i8", HUGE)}, "ends early"), ({"arr_0": PIXELS, "arr_1": b"x"}, "no array's"),
    ({"arr_1": np.zeros(12, int)}, "holds no arr_0"), ({}, "holds no arr_0"),
])  # fmt: skip
def test_arrays_are_not_believed(members: dict[str, Any], message: str, tmp_path: Path) -> None:
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        one_line(lambda how=how: NpzSamples(npz(tmp_path / "a.npz", members, how)), message)


def test_files_made_to_fill_memory(tmp_path: Path) -> None:
    """Packed a thousand to one, said to be larger than the file, or with a header without end: by their sizes."""
    zeros, bomb = bytes(2**26), header("<f8", (2896, 2896))
    packed = zipfile.ZIP_DEFLATED
    for name, members in (
        ("sigma", {"mu": np.zeros(2896), "sigma": bomb + zeros}),
        ("features", own_statistics(pixels_features=header("<f4", (12, 2**21)) + zeros + zeros)),
        ("labels", own_statistics(labels=header("<i8", (12,)) + zeros + zeros)),
    ):
        place = npz(tmp_path / f"{name}.npz", members, packed)
        one_line(lambda place=place: read_statistics(place), f"{name} would unpack from")
    for name, members in (
        ("arr_0", {"arr_0": header("|u1", (12, 2**13, 2**10, 1)) + zeros + zeros}),
        ("arr_1", {"arr_0": PIXELS, "arr_1": header("<U2000000", (12,)) + zeros + zeros}),
    ):
        place = npz(tmp_path / f"{name}.npz", members, packed)
        one_line(lambda place=place: NpzSamples(place), f"{name} would unpack from")
    lying = npz(
        tmp_path / "lying.npz", {"mu": header("<f8", (10**6,)), "sigma": header("<f8", (10**6, 10**6))}, lies=2**43
    )
    one_line(lambda: read_statistics(lying), "mu would unpack from|mu can't be read")
    lying = npz(tmp_path / "lying.npz", {"arr_0": header("|u1", (10**9, 8, 8, 3))}, lies=2**43)
    one_line(lambda: NpzSamples(lying), "arr_0 would unpack from|arr_0 can't be read")
    endless = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 2**24
    place = npz(tmp_path / "endless.npz", {"mu": endless, "sigma": endless}, packed)
    one_line(lambda: read_statistics(place), "mu can't be read")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_is_one_line(how: int, tmp_path: Path) -> None:
    """A byte changed, or the end cut off: it is read all the same, or it is a UserError."""
    place, generator = tmp_path / "a.npz", np.random.default_rng(0)

    def pictures() -> None:
        arrays = NpzSamples(place)
        arrays.read(0, len(arrays))
        arrays.read(0, 1)

    def read() -> None:
        for call in (lambda: holds_statistics(place), lambda: is_ours(place), lambda: read_statistics(place), pictures):
            with contextlib.suppress(af.UserError):
                call()

    whole = npz(place, {**own_statistics(), "arr_0": PIXELS, "arr_1": np.arange(12)}, how).read_bytes()
    for position in generator.integers(len(whole), size=300).tolist():
        place.write_bytes(whole[:position])
        read()
        changed = bytearray(whole)
        changed[position] ^= int(generator.integers(1, 256))
        place.write_bytes(changed)
        read()


def test_weights_are_never_others(tmp_path: Path, here: Cli, monkeypatch: pytest.MonkeyPatch, own: Own) -> None:
    """One line and status 2: missing, another file, a file of something else, a wrong SHA-256 of one's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    fake = _npz(tmp_path / "fake.npz", pixels_of(12, 0))
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    (tmp_path / "text.pth").write_text("no weights")
    cached = tmp_path / "cache" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    call = ("evaluate", fake, "--reference", fake)
    for more, message in [
        ((), f"put https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{cached.name} at {cached}"),
        (("--weights", tmp_path / "none.pth"), "none.pth, don't exist"),
        (("--weights", tmp_path), "are a folder"),
        (("--weights", tmp_path / "a.pth"), "is not the published file of inception's weights"),
        (
            ("--weights", f"inception={tmp_path / 'a.pth'}#1234"),
            "is not the file with that SHA-256",
        ),
        (("--weights", own(tmp_path / "a.pth")), "holds no weights of inception"),
        (("--weights", own(tmp_path / "text.pth")), "holds no weights of inception"),
        (("--weights", f"i3d={tmp_path / 'a.pth'}"), "--weights names i3d; fid use inception"),
        (("--metrics", "kid"), "kid draws subsets of 1,000, but there are 12"),
        (("--metrics", "fvd", "--weights", "x"), "fvd"),
    ]:
        metrics = () if "--metrics" in more else ("--metrics", "fid")
        done = here(*call, *metrics, *more)
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), (more, done.err)
        if "kid" not in more and "fvd" not in more:
            assert message in done.err, (more, done.err)
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"half a download")
    assert "is not the published file" in here(*call, "--metrics", "fid").err


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("Network is unreachable")


def test_a_pickle_among_weights_is_not_run(tmp_path: Path, own: Own) -> None:
    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(af.UserError, match="holds no weights of inception"):
        open_extractor("inception", CPU, own(tmp_path / "bomb.pth"))
    assert not Path(Bomb.trace).exists()


class Bomb:
    trace = "bomb-went-off"

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.trace).touch, ()


@pytest.mark.slow
def test_processes_that_train_share_evaluations(torchrun: Torchrun, tmp_path: Path) -> None:
    """What two training processes measure together is what one measures of the finished run."""
    small = ["--steps", "4", "--width", "32", "--depth", "1", "--batch-size", "16", "--evaluate-every", "4"]
    done = torchrun(2, "-m", "alphaflow", "train", "digits", *small, "--device", "cpu", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [row["eval/pixel-fd_1"] for row in logged if "eval/pixel-fd_1" in row]
    result = af.evaluate(tmp_path / "run", metrics=("pixel-fd",), count=1000, device="cpu")
    assert measured == pytest.approx(result.rows[0].values["pixel-fd"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_work(
    small_run: Path, tmp_path: Path, processes: int, cli: Cli, torchrun: Torchrun
) -> None:
    """The figures of one process, to the last digits, and every sample saved once."""
    call = ["evaluate", small_run, "--count", "90", "--nfe", "1,2", "--seed", "0,1", "--batch-size", "16"]
    alone = cli(*map(str, call), "--json", tmp_path / "one.json")
    assert alone.status == 0, alone.err
    how = ["--json", tmp_path / "many.json", "--save", tmp_path / "saved"]
    done = torchrun(processes, "-m", "alphaflow", *call, *how)
    assert done.returncode == 0, done.stderr
    one, many = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "many"))
    assert many["processes"] == processes
    for a, b in zip(one["rows"], many["rows"], strict=True):
        assert b["values"] == pytest.approx(a["values"], rel=1e-9, abs=1e-12)
    assert len(list((tmp_path / "saved" / "nfe-2-seed-1").rglob("*.png"))) == 90


def test_every_process_gets_the_result(tmp_path: Path, torchrun: Torchrun) -> None:
    done = torchrun(2, Path(__file__).parent / "workers" / "evaluating.py", tmp_path / "rank")
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank-{rank}").read_text().splitlines() for rank in range(2))
    assert first == second
    values, processes, count = json.loads(first[0])
    assert (set(values), processes, count) == ({"images", "real halves"}, 2, 24)
    assert set(values["images"]) == {"motion-energy", "motion-speed"}
    assert "which stand still" in first[1]


def test_a_run_that_is_not_trusted(tmp_path: Path) -> None:
    """Its recipe.py is run for the training data only when `trust` says so."""
    (tmp_path / "mine.py").write_text(OWN_RECIPE)
    found = af.find_recipe(str(tmp_path / "mine.py"))
    af.Trainer(found(), out=tmp_path / "run", origin=Origin("mine", found.text), device="cpu").fit()
    how: dict[str, Any] = {"count": 20, "metrics": ("pixel-fd",), "device": "cpu"}
    with pytest.raises(af.UserError, match="trust"):
        af.evaluate(tmp_path / "run", **how)
    trusted = af.evaluate(tmp_path / "run", trust=True, **how).rows[0]
    assert trusted.values == af.evaluate(tmp_path / "run", "digits", **how).rows[0].values


OWN_RECIPE = """
import alphaflow as af

def recipe() -> af.Recipe:
    digits = af.Digits(batch_size=16)
    model = af.DiT(digits.shape, patch=4, depth=1, width=32, heads=2, classes=digits.classes)
    return af.Recipe(
        model=model, objective=af.MeanFlow(), dataset=digits, samplers=(af.ODE(1),), steps=1, lr=1e-3
    )
"""


def test_a_run_and_its_record(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    """Several seeds, JSON, CSV, pictures; the same samples from disk; sample i is the same at every batch size."""
    where = {name: tmp_path / name for name in ("out.json", "out.csv", "pictures", "saved")}
    call = ("evaluate", small_run, "--count", "60", "--nfe", "1,2", "--seed", "3,4", "--json", where["out.json"])
    call = (*call, "--csv", where["out.csv"], "--pictures", where["pictures"], "--save", where["saved"])
    done = cli(*call)
    assert done.status == 0, done.err
    assert "the worst classes by pixels" in done.out
    record = json.loads(where["out.json"].read_text())
    assert [(row["nfe"], row["seed"]) for row in record["rows"]] == [
        (1, 3), (1, 4), (1, None), (2, 3), (2, 4), (2, None), (None, None),
    ]  # fmt: skip
    first, second, mean = (row["values"]["pixel-fd"] for row in record["rows"][:3])
    assert mean == pytest.approx((first + second) / 2)
    assert record["rows"][2]["std"]["pixel-fd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert len(record["run"]["weights_sha256"]) == 64
    assert len(where["out.csv"].read_text().splitlines()) == 8
    assert Image.open(where["pictures"] / "nfe-1.png").width > 64
    nearest = json.loads((where["pictures"] / "nfe-2-neighbours.json").read_text())["nearest"]
    distances = [row["distance"] for row in nearest]
    assert all(row == sorted(row) for row in distances)
    worst = json.loads((where["pictures"] / "nfe-1-classes.json").read_text())["worst"]
    assert [row["kernel distance"] for row in worst] == sorted((row["kernel distance"] for row in worst), reverse=True)
    result = af.evaluate(where["saved"] / "nfe-1-seed-3", "digits", device="cpu")
    assert result.rows[0].values == pytest.approx(record["rows"][0]["values"], rel=1e-9)
    run = af.Run(small_run, device="cpu")
    again = af.evaluate(run, count=60, seeds=(3,), batch_size=7)
    assert again.rows[0].values == pytest.approx(record["rows"][0]["values"], rel=1e-9)


def test_samples_that_are_not_finite(small_run: Path) -> None:
    run = af.Run(small_run, device="cpu")
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(af.UserError, match="sample 0 is not finite"):
        af.evaluate(run, count=20)


def test_memory_does_not_grow_with_samples() -> None:
    """What is held of kept features is in a file; of moments, a mean and a matrix."""
    needs = needs_of(("pixel-fd", "pixel-pr"))
    gatherer = Gatherer(needs, {"pixels": open_extractor("pixels", CPU)}, 5000, (3, 8, 8))
    pixels = pixels_of(500, 0)
    for start in range(0, 5000, 500):
        gatherer.add(pixels, start)
    held = [value for part in gatherer._moments["pixels"] for value in part.parts()[1:]]
    assert sum(value.numel() for value in held) == 192 + 192**2
    assert not any(isinstance(value, Tensor) for value in vars(gatherer._kept["pixels"]).values())
    found = gatherer.finish()
    assert found is not None
    features = found.spaces["pixels"].features
    assert features is not None
    assert torch.equal(features[4500:], features[:500])
