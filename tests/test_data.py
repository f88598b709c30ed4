"""Datasets: the embedded digits, image folders and zips, order and resume, image modes, what can't be read."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alphaflow as af
from alphaflow.data.decoding.images import centre_crop, decode
from alphaflow.data.listing.classes import class_folders
from alphaflow.evaluation.sample_set import SampleSet
from alphaflow.evaluation.sample_sets import open_sample_set
from alphaflow.media.sample_files import folder_names, write_samples
from alphaflow.pixel_values import to_bytes, to_unit
from alphaflow.runs.labels import balanced_labels, chosen_labels, random_labels


def test_digits_are_the_real_ones() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    real = sklearn.load_digits()
    ours = af.Digits().all()
    assert ours.cond.labels is not None
    assert np.array_equal(((ours.x[:, 0] + 1) * 8).numpy(), real.images)
    assert np.array_equal(ours.cond.labels.numpy(), real.target)


def test_digits_facts() -> None:
    digits = af.Digits()
    batch = digits.all()
    assert (len(digits), digits.shape, digits.classes) == (1797, (1, 8, 8), 10)
    assert batch.x.min() == -1
    assert batch.x.max() == 1
    assert batch.cond.labels is not None
    assert torch.bincount(batch.cond.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pen_digits_facts() -> None:
    """Counts by class as the UCI repository states them; each stroke is scaled to fill 0 … 100 one way at least."""
    pen = af.PenDigits()
    batch = pen.all()
    assert (len(pen), pen.shape, pen.classes, pen.class_names[7]) == (10_992, (2, 8), 10, "7")
    assert batch.cond.labels is not None
    assert torch.bincount(batch.cond.labels).tolist() == [1143, 1143, 1144, 1055, 1144, 1055, 1056, 1142, 1055, 1055]
    low, high = batch.x.amin(2), batch.x.amax(2)
    assert ((low == -1).any(1) & (high == 1).any(1)).all()
    assert pen.fetch(np.array([0])).x[0].T.add(1).mul(50).int().tolist()[:3] == [[47, 100], [27, 81], [57, 37]]


def test_an_epoch_has_every_sample_once() -> None:
    digits = af.Digits(batch_size=100, seed=3)
    taken = np.concatenate([digits._take(digits.batch_size) for _ in range(36)])[: 2 * 1797]
    for epoch in (taken[:1797], taken[1797:]):
        assert sorted(epoch) == list(range(1797))
    assert not np.array_equal(taken[:1797], taken[1797:])


def test_the_order_follows_the_seed() -> None:
    def first(seed: int | None) -> torch.Tensor:
        return next(iter(af.Digits(seed=seed))).x

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    torch.manual_seed(5)
    from_global = first(None)
    torch.manual_seed(5)
    assert torch.equal(first(None), from_global)


@pytest.mark.parametrize("after", [0, 3, 17, 30])
def test_resume_gives_the_very_next_batch(after: int) -> None:
    straight = af.Digits(batch_size=100, seed=1)
    stream = iter(straight)
    for _ in range(after):
        next(stream)
    state = straight.state_dict()
    again = af.Digits(batch_size=100, seed=99)
    again.load_state_dict(state)
    for ours, theirs in islice(zip(iter(again), stream, strict=False), 20):
        assert torch.equal(ours.x, theirs.x)


def test_state_of_other_data_is_refused(tmp_path: Path) -> None:
    save_images(tmp_path, 3)
    folder = af.ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="6 samples, but had 1797"):
        folder.load_state_dict(af.Digits().state_dict())


def test_bytes_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_bytes(torch.tensor([-1.7, 1.2])).tolist() == [0, 255]


def save_images(place: Path, each: int, size: tuple[int, int] = (8, 8), classes: tuple[str, ...] = ("a", "b")) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (place / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / name / f"{i:02d}.png")


def test_folder_and_zip_are_the_same(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 5)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for file in (tmp_path / "images").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))  # one folder deeper, as zips often are
        archive.writestr("__MACOSX/images/a/._00.png", b"junk")
        archive.writestr("images/readme.txt", "hello")
    folder, zipped = af.ImageFolder(tmp_path / "images"), af.ImageFolder(tmp_path / "images.zip")
    assert folder.class_names == zipped.class_names == ["a", "b"]
    assert torch.equal(folder.all().x, zipped.all().x)
    labels = folder.all().cond.labels
    assert labels is not None
    assert labels.tolist() == [0] * 5 + [1] * 5
    pixels = np.array(Image.open(tmp_path / "images" / "b" / "02.png"))
    assert torch.equal(to_bytes(folder.all().x[7]), torch.from_numpy(pixels).permute(2, 0, 1))


def test_decoding_when_needed_is_the_same(tmp_path: Path) -> None:
    save_images(tmp_path, 6)
    held, lazy = (
        af.ImageFolder(tmp_path, seed=1, batch_size=5),
        af.ImageFolder(tmp_path, seed=1, batch_size=5, memory=0),
    )
    assert lazy._pixels is None
    for ours, theirs in islice(zip(held, lazy, strict=False), 4):
        assert torch.equal(ours.x, theirs.x)


def test_flips_mirror_half_and_resume_exactly(tmp_path: Path) -> None:
    save_images(tmp_path, 20)
    plain, flipped = (af.ImageFolder(tmp_path, seed=1, batch_size=40, flip=flip) for flip in (False, True))
    ours, theirs = next(iter(flipped)), next(iter(plain))
    same = (ours.x == theirs.x).flatten(1).all(1)
    mirrored = (ours.x.flip(-1) == theirs.x).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 8 < int(mirrored.sum()) < 32
    state = flipped.state_dict()
    expected = next(iter(flipped)).x
    flipped.load_state_dict(state)
    assert torch.equal(next(iter(flipped)).x, expected)


def test_flat_folders_and_linked_folders(tmp_path: Path) -> None:
    save_images(tmp_path / "flat", 3, classes=(".",))
    flat = af.ImageFolder(tmp_path / "flat")
    assert flat.classes is None
    assert flat.all().cond.labels is None
    save_images(tmp_path / "real", 2)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "linked" / "b").symlink_to(tmp_path / "real" / "b")
    assert af.ImageFolder(tmp_path / "linked").class_names == ["a", "b"]
    (tmp_path / "real" / "a" / "loop").symlink_to(tmp_path / "real")
    assert len(af.ImageFolder(tmp_path / "real")) == 4


def test_class_names() -> None:
    assert class_folders(["x/a/1.png", "x/b/2.png", "x/a/3.png"]) == (["a", "b"], [0, 1, 0])
    assert class_folders(["1.png", "2.png"]) == ([], [])
    assert class_folders(["a/c/1.png", "b/c/2.png"]) == (["a", "b"], [0, 1])
    with pytest.raises(af.UserError, match=r"1\.png lies above the class folders"):
        class_folders(["1.png", "a/2.png"])


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=form, **options)
    return out.getvalue()


def test_every_mode_becomes_rgb() -> None:
    colour = np.zeros((4, 4, 3), dtype=np.uint8)
    colour[:2] = (200, 30, 60)
    rgb = Image.fromarray(colour)
    assert np.array_equal(np.asarray(decode(encoded(rgb))), colour)
    assert np.array_equal(np.asarray(decode(encoded(rgb.quantize(8)))), colour)
    grey = np.full((4, 4), 77, dtype=np.uint8)
    assert (np.asarray(decode(encoded(Image.fromarray(grey)))) == 77).all()
    deep = np.full((4, 4), 77 * 256 + 5, dtype=np.uint16)
    assert (np.asarray(decode(encoded(Image.fromarray(deep)))) == 77).all()
    transparent = rgb.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.array([[0, 255]] * 2, dtype=np.uint8).repeat(2, 0).repeat(2, 1)))
    laid = np.asarray(decode(encoded(transparent)))
    assert (laid[:, :2] == 255).all()
    assert (laid[:, 2:] == colour[:, 2:]).all()
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = np.asarray(decode(encoded(cmyk, "JPEG", quality=95)))
    assert red.shape == (4, 4, 3)
    assert red[..., 0].min() > 200
    assert red[..., 1:].max() < 60
    assert decode(encoded(rgb), "L").mode == "L"


def test_exif_orientation() -> None:
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = np.asarray(decode(encoded(Image.fromarray(pixels), exif=exif)))
    assert turned.shape == (4, 2, 3)
    assert turned[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (33, 47), (200, 90), (16, 20), (500, 31)])
def test_centre_crop_size_and_middle(width: int, height: int) -> None:
    """The output is the middle square: a horizontal ramp stays a ramp with the middle's mean."""
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    out = np.asarray(centre_crop(Image.fromarray(ramp), 16))
    assert out.shape == (16, 16, 3)
    assert out.mean() == pytest.approx(127, abs=4)
    assert np.ptp(out.astype(float)[:, :, 0]) == pytest.approx(255 * min(1, height / width), abs=20)


def test_images_of_other_sizes(tmp_path: Path) -> None:
    save_images(tmp_path, 2)
    save_images(tmp_path / "b", 1, size=(20, 12), classes=(".",))
    with pytest.raises(af.UserError, match=r"00\.png is 12×20 pixels, but a/00\.png is 8×8; give a size"):
        af.ImageFolder(tmp_path)
    assert af.ImageFolder(tmp_path, size=6).shape == (3, 6, 6)
    assert af.ImageFolder(tmp_path, size=6, mode="L").shape == (1, 6, 6)


def test_unreadable_images_and_folders(tmp_path: Path) -> None:
    with pytest.raises(af.UserError, match="doesn't exist"):
        af.ImageFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(af.UserError, match="holds no images"):
        af.ImageFolder(tmp_path / "empty")
    (tmp_path / "no.zip").write_text("hello")
    with pytest.raises(af.UserError, match="neither a folder nor a readable zip"):
        af.ImageFolder(tmp_path / "no.zip")
    save_images(tmp_path / "bad", 2)
    whole = (tmp_path / "bad" / "a" / "01.png").read_bytes()
    (tmp_path / "bad" / "a" / "01.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(af.UserError, match=r"can't read the image .*01\.png.*repair or remove"):
        af.ImageFolder(tmp_path / "bad")
    (tmp_path / "bad" / "a" / "01.png").write_text("just text")
    with pytest.raises(af.UserError, match=r"01\.png: not an image"):
        af.ImageFolder(tmp_path / "bad")
    (tmp_path / "bad" / "a" / "01.png").write_bytes(b"")
    with pytest.raises(af.UserError, match=r"01\.png: not an image"):
        af.ImageFolder(tmp_path / "bad")


def test_damaged_zips(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 2)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "images").rglob("*.png")):
            archive.writestr(f"{file.parent.name}/{file.name}", b"\x89PNG" + b"a" * 4000)
    whole = bytearray((tmp_path / "images.zip").read_bytes())
    whole[50:60] = b"\xff" * 10  # inside the first member's compressed bytes
    (tmp_path / "images.zip").write_bytes(whole)
    with pytest.raises(af.UserError, match=r"can't read the image .*00\.png"):
        af.ImageFolder(tmp_path / "images.zip")


def test_an_image_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(encoded(Image.new("1", (20_000, 20_000))))
    for mode in ("RGB", None):
        with pytest.raises(af.UserError, match="too large to decode safely"):
            af.ImageFolder(tmp_path, mode=mode)  # type: ignore[arg-type]


def test_labels() -> None:
    counts = Counter(balanced_labels(25, 10).tolist())
    assert sorted(counts) == list(range(10))
    assert set(counts.values()) == {2, 3}
    assert set(Counter(balanced_labels(50_000, 1000).tolist()).values()) == {50}
    assert chosen_labels(5, [3, 7], 10).tolist() == [3, 7, 3, 7, 3]
    for wrong, message in (([3, 10], "class 10 is out of range: .* 0 to 9"), ([-1], "class -1 is out of range")):
        with pytest.raises(af.UserError, match=message):
            chosen_labels(5, wrong, 10)
    with pytest.raises(af.UserError, match="no classes"):
        chosen_labels(5, [1], None)
    drawn = random_labels(10_000, 4, torch.Generator().manual_seed(1))
    assert torch.bincount(drawn).min() > 2300


def whole(source: SampleSet) -> tuple[torch.Tensor, list[str] | None]:
    """All pixels, and each one's class name."""
    block = source.read(0, len(source))
    return block.pixels, None if block.labels is None else [source.class_names[int(i)] for i in block.labels]


@pytest.mark.parametrize("labels", [None, torch.tensor([1, 0, 1, 2])])
@pytest.mark.parametrize("channels", [1, 3])
def test_written_samples_read_back(labels: Any, channels: int, tmp_path: Path) -> None:
    pixels = torch.randint(256, (4, channels, 5, 6), dtype=torch.uint8)
    names = ["x", "y/z", "w"]
    names[1] = "y"
    for form in ("png", "npz"):
        write_samples(tmp_path / form, lambda: pixels, labels, names, form)
        assert Image.open(tmp_path / f"{form}.png").mode == ("L" if channels == 1 else "RGB")
    back, found = whole(open_sample_set(tmp_path / "npz" / "samples.npz"))
    assert torch.equal(back, pixels)
    assert found == (None if labels is None else ["1", "0", "1", "2"])
    order = [0, 1, 2, 3] if labels is None else [3, 0, 2, 1]  # sorted by class name w, x, y, then by number
    order = order if labels is None else sorted(range(4), key=lambda i: (names[int(labels[i])], i))
    back, found = whole(open_sample_set(tmp_path / "png", mode="L" if channels == 1 else "RGB"))
    assert torch.equal(back, pixels[order])
    assert found == (None if labels is None else [names[int(labels[i])] for i in order])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("sampling broke")

    with pytest.raises(RuntimeError, match="sampling broke"):
        write_samples(tmp_path / "out", fail, None, [])
    assert not list(tmp_path.iterdir())
    write_samples(tmp_path / "out", lambda: torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, [])
    with pytest.raises(af.UserError, match="holds earlier samples"):
        write_samples(tmp_path / "out", fail, None, [])
    write_samples(tmp_path / "out", lambda: torch.ones(1, 1, 4, 4, dtype=torch.uint8), None, [], overwrite=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".alphaflow.json", "000000.png"]


def test_samples_are_replaced_in_another_form(tmp_path: Path) -> None:
    """What earlier ones left beside the folder goes with them; other files there, and litter, don't matter."""
    clips = torch.zeros(2, 1, 4, 16, 16, dtype=torch.uint8)
    for form in ("mp4", "gif", "npz", "mp4"):
        write_samples(tmp_path / "out", lambda: clips, None, [], form, overwrite=True)  # type: ignore[arg-type]
        (tmp_path / "out" / ".DS_Store").touch()
        (tmp_path / "out.txt").write_text("precious")
        movie = [f"out.{form}"] if form != "npz" else []
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", "out.png", "out.txt", *movie])
    record = tmp_path / "out" / ".alphaflow.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "beside": ["out.png", "out.txt", "../x"]}))
    with pytest.raises(af.UserError, match="nothing says that"):  # out.mp4 is no longer named
        write_samples(tmp_path / "out", lambda: clips, None, [], "mp4", overwrite=True)
    write_samples(tmp_path / "out", lambda: clips, None, [], "npz", overwrite=True)
    assert (tmp_path / "out.txt").read_text() == "precious"
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(af.UserError, match=r"out\.png exists, .*; choose another `place=`"):
        write_samples(tmp_path / "out", lambda: clips, None, [], "npz", overwrite=True)


def test_names_of_classes_never_leave_the_folder(tmp_path: Path) -> None:
    names = [
        "/absolute",
        "../../up",
        "..",
        "",
        "a\x1b[31mred",
        "C:\\x",
        "cat",
        "Cat",
        "é ü",
        ".hidden",
        "x" * 300,
        "猫" * 100,
    ]
    made = folder_names(names)
    assert made[6:9] == ["cat", "Cat (7)", "é ü"]
    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        assert Path(name).name == name
        assert name.isprintable()
        assert not name.startswith(".")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    pixels = torch.zeros(len(names), 1, 4, 4, dtype=torch.uint8)
    write_samples(tmp_path / "deep" / "er" / "out", lambda: pixels, torch.arange(len(names)), names)
    written = list(tmp_path.rglob("0*.png"))
    assert len(written) == len(names)
    assert all(path.parent.parent == tmp_path / "deep" / "er" / "out" for path in written)


def test_arrays_that_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", arr_0=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=int))
    whole = (tmp_path / "floats.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("objects", "pickled objects are refused"), ("other", "holds no arr_0"), ("floats", "must be 8-bit"),
        ("cut", "not a readable"), ("missing", "doesn't exist"),
    ):  # fmt: skip
        with pytest.raises(af.UserError, match=message):
            open_sample_set(tmp_path / f"{name}.npz")


def test_real_cifar10(real_data: Path) -> None:
    test = af.ImageFolder(real_data / "cifar10-test.zip", size=32)
    assert (len(test), test.shape, test.classes) == (10_000, (3, 32, 32), 10)
    batch = test.all()
    assert batch.cond.labels is not None
    assert torch.bincount(batch.cond.labels).tolist() == [1000] * 10
    assert batch.x.mean().item() == pytest.approx(-0.05, abs=0.02)  # CIFAR-10's mean is about 0.473 of 1


def test_real_imagenet_photographs(real_data: Path) -> None:
    photographs = af.ImageFolder(real_data / "imagenet-sample" / "train", size=64)
    assert (len(photographs), photographs.classes, photographs.shape) == (200, 200, (3, 64, 64))
    assert photographs.all().x.std() > 0.3
