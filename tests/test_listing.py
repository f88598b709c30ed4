"""What a place of pictures or clips holds: names, classes, labels, damage, links; and what a second run sees."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import Decoder, ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from alphaflow.data_tools.verify import verify
from PIL import Image

import alphaflow as af
from alphaflow.data.listing import archives, classes
from alphaflow.data.listing.found import Found
from alphaflow.data.listing.listing import Listing, kind_of, list_files
from alphaflow.data.listing.tables import Classes
from alphaflow.evaluation.sample_sets import open_sample_set

Members = Iterable[tuple[str, bytes]]


def picture(seed: int, form: str = "PNG", size: int = 8) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, form)
    return out.getvalue()


def put(place: Path, members: Members) -> Path:
    """Files in a folder, a .zip, or a .tar, whichever the place is called."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as packed:
            for name, data in members:
                packed.writestr(name, data)
    elif place.suffix == ".tar":
        with tarfile.open(place, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        for name, data in members:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    return place


def labels(listing: Listing, tar: str = "") -> dict[str, str | None]:
    """The name of each file's class."""
    names = listing.class_names
    return {
        entry.name.removeprefix(tar): None if entry.label is None else names[entry.label] for entry in listing.entries
    }


def refused(place: Path, reason: str, **options: Any) -> None:
    with pytest.raises(af.UserError, match=reason):
        list_files(place, "images", **options)


TWO = [(f"{name}/{i}.png", picture(i)) for name in ("cat", "dog") for i in range(3)]
LITTER = [
    ("cat/.ipynb_checkpoints/0-checkpoint.png", picture(9)),
    (".thumbnails/x.png", picture(9)),
    ("@eaDir/cat/x.png", picture(9)),
    ("__MACOSX/cat/._0.png", b"junk"),
    ("dog/._1.png", b"junk"),
    ("dog/Thumbs.db", b"junk"),
]


@pytest.mark.parametrize("place", ["folder", "packed.zip", "packed.tar"])
def test_hidden_files_and_litter_are_no_classes_anywhere(place: str, tmp_path: Path) -> None:
    """The same classes and bytes whether a folder, a zip or a tar; what is passed over is counted."""
    found = list_files(put(tmp_path / place, [*TWO, *LITTER, ("cat/notes.txt", b"x"), ("list.csv", b"")]), "images")
    prefix = "packed.tar/" if place.endswith(".tar") else ""
    assert labels(found, prefix) == {name: name[:3] for name, _ in TWO}
    assert [entry.read() for entry in found.entries] == [data for _, data in TWO]
    assert found.passed[".txt"] == found.passed[".csv"] == 1
    assert found.passed["hidden"] == len(LITTER)
    assert found.rejects == []
    assert "6 pictures in 2 classes (cat, dog)" in found.summary()
    assert "hidden" in found.summary()
    assert "1 .txt" in found.summary()


def test_what_pillow_reads_is_read_whatever_its_ending(tmp_path: Path) -> None:
    """By content where the ending doesn't tell; what is none is counted by ending; no class is lost."""
    place = put(
        tmp_path / "in",
        [
            *TWO,
            ("ant/0.tif", picture(0, "TIFF")),
            ("cow/1.JFIF", picture(1, "JPEG")),
            ("elk/2", picture(2, "PNG")),
            ("fox/3.photo", picture(3, "WEBP")),
            ("fox/4.photo", b"no picture"),
            ("fox/5", b""),
        ],
    )
    found = list_files(place, "images")
    assert found.class_names == ["ant", "cat", "cow", "dog", "elk", "fox"]
    assert (found.passed[".photo"], found.passed["without an ending"]) == (1, 1)
    (place / "bee").mkdir()
    refused(place, "the folder bee in .* it may be an empty class")
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ncow\ndog\nelk\nfox\n")
    found = list_files(place, "images", classes=Classes(tmp_path / "classes.txt"))
    assert labels(found)["cat/0.png"] == "cat"
    assert {entry.label for entry in found.entries} == {0, 2, 3, 4, 5, 6}
    assert "1 of the classes empty: bee" in found.summary()


def test_classes_are_folders(tmp_path: Path) -> None:
    """What all share at the front or the back is no part of a name; splits are none, words that begin so are."""
    tiny = put(tmp_path / "tiny", [(f"all/{name}/images/{i}.png", picture(i)) for name in "ab" for i in range(2)])
    assert list_files(tiny, "images").class_names == ["a", "b"]
    splits = put(tmp_path / "splits", [(f"{split}/{name}", data) for split in ("train", "val") for name, data in TWO])
    refused(splits, r"holds splits: train, val; give one of them")
    flat = put(
        tmp_path / "flat", [(f"{split}/{i}.png", picture(i)) for split in ("Train2017", "test2017") for i in (0, 1)]
    )
    refused(flat, "holds splits: Train2017, test2017")
    words = put(tmp_path / "words", [(f"{name}/0.png", picture(0)) for name in ("train_station", "test_tube", "train")])
    assert len(list_files(words, "images").class_names) == 3
    refused(tmp_path / "none", "doesn't exist")


NUMBERED = [(f"val_{i:03d}.png", picture(i)) for i in range(1, 6)]


def test_a_file_of_labels(tmp_path: Path) -> None:
    """ILSVRC's ground truth, names and labels in any common form, Kaggle's; what doesn't fit is refused."""
    place, file = put(tmp_path / "val", NUMBERED), tmp_path / "labels.txt"
    assert "unlabelled" in list_files(place, "images").summary()
    file.write_text("3\n1\n2\n2\n5\n")
    found = list_files(place, "images", labels=file)
    assert found.class_names == ["1", "2", "3", "4", "5"]
    assert [entry.label for entry in found.entries] == [2, 0, 1, 1, 4]
    assert "1 of the classes empty: 4" in found.summary()
    (tmp_path / "ids.txt").write_text("bee\t3\nant\t1\ncat\t2\ndog\t4\nelk\t5\n")
    found = list_files(place, "images", labels=file, classes=Classes(tmp_path / "ids.txt"))
    assert list(labels(found).values()) == ["bee", "ant", "cat", "cat", "elk"]
    (tmp_path / "names.txt").write_text("bee\nant\ncat\ndog\nelk\n")
    refused(place, "in an order of classes that nothing tells", labels=file, classes=Classes(tmp_path / "names.txt"))
    expected = {"val_001.png": "dog", "val_002.png": "cat"}
    rest = {f"val_{i:03d}.png": "dog" for i in range(3, 6)}
    for text in (
        "image,label\nval_001.png, dog\nval_002.png,cat\n" + "".join(f"{name},dog\n" for name in rest),
        "val_001.png dog\nval_002.png cat\n" + "".join(f"{name} dog\n" for name in rest),
        "val_001\tdog\t1\nval_002\tcat\t2\n" + "".join(f"{name[:-4]}\tdog\t0\n" for name in rest),
        "ImageId,PredictionString\nval_001,dog 1 2 3 4\nval_002,cat 1 1 2 2\n"
        + "".join(f"{n[:-4]},dog\n" for n in rest),
    ):
        file.write_text(text, encoding="utf-16" if "Prediction" in text else "utf-8-sig")
        assert labels(list_files(place, "images", labels=file)) == {**expected, **rest}, text
    file.write_text("val_001.png,dog\nval_009.png,cat\n")
    found = list_files(place, "images", labels=file)
    assert [reject.reason for reject in found.rejects] == [f"no label in {file}"] * 4
    file.write_text("1\n2\n")
    refused(place, "has 2 labels for 5 files", labels=file)
    file.write_text("other.png,dog\n")
    refused(place, "names none of the files", labels=file)
    file.write_bytes(b"ok,1\nb\xe9,2\n")
    refused(place, "line 2, is not UTF-8", labels=file)


def test_lists_of_classes(tmp_path: Path) -> None:
    place, file = put(tmp_path / "in", TWO), tmp_path / "classes.txt"
    file.write_text("dog\nant\ncat\n")
    found = list_files(place, "images", classes=Classes(file))
    assert found.class_names == ["dog", "ant", "cat"]
    assert labels(found) == {name: name[:3] for name, _ in TWO}
    numbered = put(tmp_path / "n.tar", samples(lambda y: str(int(y) + 1).encode()))  # the second and the third class
    assert [entry.label for entry in list_files(numbered, "images", classes=Classes(file)).entries] == [1, 2, 1, 2]
    file.write_text("2\n1\n")
    assert [entry.label for entry in list_files(numbered, "images", classes=Classes(file)).entries] == [1, 0, 1, 0]
    file.write_text("dog\ncats\n")
    refused(place, r"class 'cat' of .*classes.txt; did you mean cats\?", classes=Classes(file))
    for text, reason in (("a\nb\na\n", "'a' twice"), ("a\tb\nb\n", "'b' twice"), ("\n", "is empty")):
        file.write_text(text)
        with pytest.raises(af.UserError, match=reason):
            Classes(file)


def class_tars(place: Path, names: Sequence[str]) -> Path:
    for name in names:
        put(place / f"{name}.tar", [(f"{name}_{i}.JPEG", picture(i, "JPEG")) for i in range(3)])
    return place


def test_tars_as_classes(tmp_path: Path) -> None:
    """ImageNet's, and others whose names differ by more than numbers; never a mixture, never half of them."""
    wnids = ["n01440764", "n01443537"]
    place = class_tars(tmp_path / "tars", wnids)
    found = list_files(place, "images")
    assert labels(found) == {f"{name}.tar/{name}_{i}.JPEG": name for name in wnids for i in range(3)}
    (place / ".cache").mkdir()
    (place / "list.txt").write_text("")
    assert labels(list_files(place, "images")) == labels(found)
    put(place, [("n01440764_9.JPEG", picture(9))])
    refused(place, "holds tars .* and pictures beside them")
    (place / "n01440764_9.JPEG").unlink()
    (place / "n01440764.tar").rename(place / "n01440764 (1).tar")
    refused(place, r"n01440764 \(1\)\.tar isn't called as the others are")
    assert list_files(class_tars(tmp_path / "others", ["bowling", "arm wrestling"]), "images").class_names == [
        "arm wrestling", "bowling",
    ]  # fmt: skip
    shards = list_files(class_tars(tmp_path / "shards", ["00000", "00001"]), "images")
    assert shards.class_names == []
    assert "unlabelled" in shards.note
    refused(class_tars(tmp_path / "both", ["train-0", "train-1", "val-0"]), "holds splits: train-0, train-1, val-0")
    for name in ("e.tar", "e.zip"):
        refused(put(tmp_path / name, [*TWO, ("bee/x.txt", b"x")]), "the folder bee in")
    inside = put(tmp_path / "one.tar", [(f"./{name}", data) for name, data in TWO])
    assert labels(list_files(inside, "images"), "one.tar/") == {name: name[:3] for name, _ in TWO}
    nested = put(tmp_path / "out.tar", [("n01440764.tar", b"x" * 600)])
    refused(nested, r"holds no images; .*it holds 1 \.tar")
    packed = put(tmp_path / "k600", [("bowling.tar.gz", b"x")])
    with pytest.raises(af.UserError, match="gunzip"):
        list_files(packed, "clips")


def samples(labelled: Callable[[str], bytes], kind: str = "cls", picture_as: str = "jpg") -> list[tuple[str, bytes]]:
    keys = [f"{i:05d}" for i in range(4)]
    return [pair for i, k in enumerate(keys)
            for pair in ((f"{k}.{picture_as}", picture(i, "JPEG")), (f"{k}.{kind}", labelled(str(i % 2))))]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (samples(str.encode, picture_as="image.JPG"), ["0", "1"]),
        (samples(lambda y: b'{"label": %s}' % y.encode(), "json"), ["0", "1"]),
        (samples(lambda y: b'{"cls": "class %s", "w": [1]}' % y.encode(), "JSON"), ["class 0", "class 1"]),
        (samples(lambda y: y.encode() + b"\n", "CLS"), ["0", "1"]),
        (samples(lambda y: str(3 * int(y)).encode()), ["0", "1", "2", "3"]),
    ],
)
def test_labels_beside_pictures_in_tars(members: Members, expected: list[str], tmp_path: Path) -> None:
    """By webdataset's rule of keys, which its own reader confirms."""
    import webdataset

    place = put(tmp_path / "a.tar", members)
    found = list_files(place, "images")
    assert found.class_names == expected
    theirs = {sample["__key__"] for sample in webdataset.WebDataset(str(place), shardshuffle=False)}
    assert {archives.key(entry.name.removeprefix("a.tar/")) for entry in found.entries} == theirs
    step = (len(expected) - 1) if expected[0] == "0" else 1
    assert [entry.label for entry in found.entries] == [0, step, 0, step]


def test_labels_that_are_none(tmp_path: Path) -> None:
    two = [*samples(str.encode, picture_as="left.jpg"), ("00000.right.jpg", picture(9, "JPEG"))]
    refused(put(tmp_path / "two.tar", two), "00000.left.jpg and two.tar/00000.right.jpg have one key")
    for text, reason in (
        (lambda y: y.encode() + b"500000", "beyond 100,000 classes"),
        (lambda y: b"\xff\xfe", "00000.cls: it isn't UTF-8"),
        (lambda y: b"x" * 2000, "more than 1,000 bytes"),
    ):
        refused(put(tmp_path / "bad.tar", samples(text)), reason)
    mixed = [*samples(str.encode), ("last.jpg", picture(1, "JPEG")), ("x.jpg", picture(1, "JPEG")), ("x.json", b"{")]
    found = list_files(put(tmp_path / "mixed.tar", mixed), "images")
    assert len(found.entries) == 4
    assert {reject.name: reject.reason.partition(":")[0] for reject in found.rejects} == {
        "mixed.tar/last.jpg": "no label beside it (.cls, or label or cls in its .json)",
        "mixed.tar/x.jpg": "no label in mixed.tar/x.json",
    }


FIFTY = [pair for i in range(50) for pair in ((f"{i:03d}.cls", b"%d" % (i % 3)), (f"{i:03d}.png", picture(i)))]


def test_no_class_of_tars_is_lost(tmp_path: Path) -> None:
    """A tar that is empty, gone, packed, or holds nothing that can be read moves no index quietly."""
    names = ["n00000001", "n00000002", "n00000003"]
    for damage in ("empty", "gone", "packed", "damaged"):
        place = class_tars(tmp_path / damage, names)
        tar = place / "n00000002.tar"
        if damage == "empty":
            put(tar, [])
        elif damage == "gone":
            tar.unlink()
            tar.symlink_to("nowhere.tar")
        elif damage == "packed":
            tar.rename(place / "n00000002.tar.gz")
        else:
            tar.write_bytes(b"x" * 3000)
        if damage == "gone":
            assert list_files(place, "images").rejects[0].name == "n00000002.tar"
        else:
            refused(place, r"n00000002\.tar holds nothing|1 files beside the tars are packed")
    place = put(tmp_path / "folders", TWO)
    (place / "ant").symlink_to("/nowhere/ant")
    assert [reject.name for reject in list_files(place, "images").rejects] == ["ant"]


def test_labels_that_are_for_others(tmp_path: Path) -> None:
    """Members that belong to no picture, to few of them, to other keys; numbers and names; the mark of none."""
    inside = [*TWO, ("meta.json", b'{"label": "x"}'), ("big.json", b" " * (2**20 + 1))]
    assert list_files(put(tmp_path / "a.tar", inside), "images").class_names == ["cat", "dog"]
    refused(put(tmp_path / "a.tar", [*TWO, ("dog/1.json", b'{"label": 3}')]), "only 1 of the 6 files")
    fine = [*samples(str.encode), ("00000.fine.cls", b"7"), ("00001.coarse.cls", b"9")]
    assert [entry.label for entry in list_files(put(tmp_path / "a.tar", fine), "images").entries] == [0, 1, 0, 1]
    both = [*samples(str.encode), ("last.jpg", picture(1, "JPEG")), ("last.cls", b"word")]
    refused(put(tmp_path / "a.tar", both), "some labels are numbers and some are names, '0' and 'word'")
    none = [*samples(str.encode), ("last.jpg", picture(1, "JPEG")), ("last.cls", b"-1")]
    found = list_files(put(tmp_path / "a.tar", none), "images")
    assert found.class_names == ["0", "1"]
    assert [reject.name for reject in found.rejects] == ["a.tar/last.jpg"]
    for name in ("train-0", "val-0"):
        put(tmp_path / "split" / f"{name}.tar", samples(str.encode))
    refused(tmp_path / "split", "holds splits")
    (tmp_path / "l.txt").write_text("0.png,x\n")
    two = put(tmp_path / "two", [("train/0.png", picture(0)), ("val/0.png", picture(1))])
    refused(two, "holds splits", labels=tmp_path / "l.txt")


def test_labels_whose_order_is_in_doubt(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("1\n2\n3\n")
    place = put(tmp_path / "a", [(f"{i}.png", picture(i)) for i in (1, 2, 10)])
    refused(place, "uncertain: their names' numbers", labels=file)
    place = put(tmp_path / "b", [(f"{i}.png", picture(i)) for i in (1, 3, 4)])
    (place / "2.png").symlink_to("nowhere.png")
    refused(place, "uncertain: 2.png can't be read", labels=file)
    place = put(tmp_path / "c", [("a/1.png", picture(1)), ("b/1.png", picture(2))])
    for text, reason in (
        ("1.png,cat\n", "2 files are called 1.png"),
        ("a/1.png,cat\na/1.png,dog\n", "both 'cat' and 'dog'"),
        ('a/1.png,"cat\nb/1.png,dog\n', "a quote that begins on one line"),
    ):
        file.write_text(text)
        refused(place, reason, labels=file)
    flat = put(tmp_path / "flat", [(f"{name}.png", picture(i)) for i, name in enumerate("abcdef")])
    lines = [f"{name}.png\t{i % 3}" for i, name in enumerate("abcdef")]
    for text in ("\n" + "\n".join(lines), "\r\n".join(lines)):
        file.write_text(text)
        assert [entry.label for entry in list_files(flat, "images", labels=file).entries] == [0, 1, 2, 0, 1, 2]
    file.write_text("\n".join(["a.png\t", *lines[1:]]))
    assert [reject.name for reject in list_files(flat, "images", labels=file).rejects] == ["a.png"]
    file.write_text("\n".join(line.replace("\t", " big cat ") for line in lines))
    refused(flat, "put tabs there", labels=file)
    file.write_text("a.png\tC0\nzz.png\tC1\n" + "".join(f"{name}.png\tC2\n" for name in "bcdef"))
    found = list_files(flat, "images", labels=file)
    assert found.class_names == ["C0", "C1", "C2"]
    assert "1 of its lines for no file here" in found.note
    for label in ("200000", "9" * 5000):
        file.write_text("1\n2\n1\n2\n1\n" + label)
        refused(flat, "classes can't be", labels=file)
    file.write_bytes(b"a/1.png,cat\rb/1.png,dog\r")
    assert list(labels(list_files(place, "images", labels=file)).values()) == ["cat", "dog"]


def test_a_list_holds_for_one_folder_too(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    place = put(tmp_path / "val", [("dog/0.png", picture(0))])
    listed = Classes(tmp_path / "classes.txt")
    assert [entry.label for entry in list_files(place, "images", classes=listed).entries] == [1]
    refused(put(tmp_path / "flat", NUMBERED), "the class 'flat' of .* give the files' labels", classes=listed)


@pytest.mark.parametrize("form", ["a.zip", "a.tar"])
def test_an_archive_that_is_replaced_gives_no_other_picture(form: str, tmp_path: Path) -> None:
    """Neither its label nor its name would be that picture's."""
    place = put(tmp_path / form, TWO)
    data = af.ImageFolder(place, memory=0)
    put(place, [("ant/0.png", picture(50)), *TWO])
    with pytest.raises(af.UserError, match=r"a\.(zip|tar).*was replaced since it was listed"):
        data.fetch(np.arange(6))
    assert len(af.ImageFolder(place)) == 7


def test_damaged_tars_are_counted_by_what_is_lost(tmp_path: Path) -> None:
    """Up to the file's end, past what is damaged: the rest is read, what is lost is a reject of as many."""
    whole = put(tmp_path / "whole.tar", FIFTY)
    assert list_files(whole, "images").rejects == []
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        at = [member.offset for member in tar]
    header = at[41]  # of picture 20
    flipped = bytearray(data)
    flipped[header + 148] ^= 0xFF
    ten = data[: at[40]] + bytes(at[60] - at[40]) + data[at[60] :]  # ten pictures are zeros
    for name, damaged, left, lost in (
        ("flipped", bytes(flipped), 49, 1),
        ("zeroed", data[:header] + bytes(512) + data[header + 512 :], 49, 1),
        ("ten", ten, 40, 10),
        ("at-member", data[: at[40]], 20, 1),
        ("inside", data[: header + 700 - 100], 20, 1),
        ("half", data[: len(data) // 2 + 100], 0, 1),
    ):
        found = list_files(put(tmp_path, [(f"{name}.tar", damaged)]) / f"{name}.tar", "images")
        assert not left or len(found.entries) == left, name
        reject = next(reject for reject in found.rejects if reject.name == f"{name}.tar")
        assert "damaged" in reject.reason
        assert reject.lost == lost, (name, reject)
        assert all(entry.read() == picture(int(entry.name[-7:-4])) for entry in found.entries)
    with pytest.raises(af.UserError, match="more than `max_rejects=` allows"):
        encode(
            list_files(tmp_path / "ten.tar", "images"),
            tmp_path / "out",
            af.Pixels(),
            ImageTransform(8),
            EncodeOptions(workers=0),
        )
    done = encode(
        list_files(tmp_path / "ten.tar", "images"), tmp_path / "out", af.Pixels(), ImageTransform(8),
        EncodeOptions(workers=0, max_rejects=0.2),
    )  # fmt: skip
    assert done.encoded == 40
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["rejects"] == 10
    with pytest.raises(af.UserError, match=r"can't use .*ten\.tar: it is damaged"):
        af.ImageFolder(tmp_path / "ten.tar")


def long_names(form: int) -> tuple[bytearray, list[int]]:
    """A tar of a hundred pictures in two classes, with headers for long names, and where each begins."""
    out, at = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for i in range(100):
            member, data = tarfile.TarInfo(f"c{i % 2}/{'L' * 100}/{i:03d}.png"), picture(i)
            member.size = len(data)
            at.append(tar.offset)
            tar.addfile(member, io.BytesIO(data))
    return bytearray(out.getvalue()), at


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damage_before_a_member_costs_that_one(form: int, tmp_path: Path) -> None:
    """A header of long names is no member: its damage loses one picture, and makes no class."""
    place = tmp_path / "a.tar"
    data, at = long_names(form)
    place.write_bytes(data)
    whole = list_files(place, "images")
    assert (len(whole.entries), whole.rejects) == (100, [])
    with tarfile.open(place) as tar:
        assert {entry.name[len("a.tar/") :]: entry.place for entry in whole.entries} == {
            member.name: (member.offset_data, member.size) for member in tar
        }
    name = data.index(b"LLL", at[50] + 512) + 5  # in the long name
    for offset, bit in ((at[50] + 148, 2), (at[50] + 1024 + 148, 2), (name, 2), (name, 128)):
        damaged = data.copy()
        damaged[offset] ^= bit
        place.write_bytes(damaged)
        found = list_files(place, "images")
        assert found.class_names == whole.class_names
        assert {entry.name for entry in whole.entries} - {entry.name for entry in found.entries} == {
            f"a.tar/c0/{'L' * 100}/050.png"
        }
        assert found.lost >= 1


def header(name: bytes, size: bytes = b"", kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[136:147] = name, size, b"0" * 11
    block[156:157], block[257:265], block[148:156] = kind, b"ustar\x0000", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, b"%011o\0" % len(data), kind) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("tar", "entries", "rejects"),
    [
        (member(b"pax_global", b"13 comment=x\n", b"g") + member(b"a.png", picture(0)), 1, []),
        (header(b"a.png", b"-0000001000\0") + member(b"b.png", picture(0)), 1, ["no file's header at byte 0"]),
        (header(b"a.png", b"\xff" * 10 + b"\xfe\0") + member(b"b.png", picture(0)), 1, ["no file's header at byte 0"]),
        (member(b"x", b"14 size=-1536\n", b"x") + member(b"a.png", picture(0)), 1, []),
        (member(b"L", b"n.png\0", b"L") * 3000 + member(b"a.png", picture(0)), 0, ["the name of a file is damaged"]),
        (member(b"x", b"22 GNU.sparse.map=a,b\n", b"x") + member(b"a.png", picture(0)), 0, ["no regular file"]),
        (member(b"a.png", picture(0)) + bytes(9766 * 512), 1, ["no file's header at byte"]),
        (member(b"a.png", picture(0)) + bytes(1023), 1, ["its length is not a multiple of 512"]),
        (header(b"x", b"77777777777\0", b"x") + member(b"a.png", picture(0)), 0, ["it ends without a tar's mark"]),
    ],
)
def test_headers_that_lie(tar: bytes, entries: int, rejects: list[str], tmp_path: Path) -> None:
    """Sizes below nothing, chains, maps and lengths that can't be: an end, in time, and a reject."""
    (tmp_path / "a.tar").write_bytes(tar + bytes(1024) * (len(tar) % 512 == 0))
    found = Found("images")
    archives.in_tar(tmp_path / "a.tar", found, "a.tar")
    assert len(found.entries) == entries
    assert len(found.rejects) == len(rejects)
    assert all(reason in reject.reason for reason, reject in zip(rejects, found.rejects, strict=True))


def test_a_damaged_list_of_a_zip_makes_no_class(tmp_path: Path) -> None:
    """Its names have no check sum: one that differs from the file's own header is a reject, and the classes stay."""
    data = put(tmp_path / "a.zip", TWO).read_bytes()
    at = data.rindex(b"cat/1.png")
    for letter in (b"b", b"d", b"."):
        (tmp_path / "b.zip").write_bytes(data[:at] + letter + data[at + 1 :])
        found = list_files(tmp_path / "b.zip", "images")
        assert found.class_names == ["cat", "dog"]
        reasons = [reject.reason for reject in found.rejects]
        assert "differ" in reasons[0]
    for at, letter in ((data.rindex(b"cat/0.png") + 8, b"/"), (data.rindex(b"cat/0.png"), b".")):
        (tmp_path / "b.zip").write_bytes(data[:at] + letter + data[at + 1 :])
        assert "differ" in list_files(tmp_path / "b.zip", "images").rejects[0].reason
    for damaged in (data[:-40], data[: len(data) // 2], b"PK"):
        (tmp_path / "b.zip").write_bytes(damaged)
        refused(tmp_path / "b.zip", "neither a folder nor a readable zip or tar")


def test_names_never_leave_their_place(tmp_path: Path) -> None:
    bad = ["../up.png", "/absolute.png", "a/../../b.png", "..\\w.png", "C:\\x.png"]
    found = list_files(put(tmp_path / "a.zip", [*TWO, *((name, picture(1)) for name in bad)]), "images")
    assert labels(found) == {name: name[:3] for name, _ in TWO}
    assert len(found.rejects) == len(bad)
    assert all("leads out of the archive" in reject.reason for reject in found.rejects)
    windows = put(tmp_path / "w.zip", [(name.replace("/", "\\"), data) for name, data in TWO])
    assert labels(list_files(windows, "images")) == labels(found)
    with pytest.raises(af.UserError, match="leads out"):
        af.ImageFolder(tmp_path / "a.zip")
    tar = put(tmp_path / "a.tar", [*TWO, ("../up.png", picture(1)), ("cat/0.png", picture(1))])
    assert {reject.reason for reject in list_files(tar, "images").rejects} == {
        "its name leads out of the archive: an absolute path, or one with '..'", archives.TWICE,
    }  # fmt: skip


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Pipes, devices and links to nothing are rejects at once; of linked folders each is read once, where it lies."""
    place = put(tmp_path / "in", TWO)
    os.mkfifo(place / "cat" / "pipe.png")
    (place / "cat" / "zero.png").symlink_to("/dev/zero")
    (place / "cat" / "gone.png").symlink_to("nowhere.png")
    (place / "cat" / "linked.png").symlink_to(place / "dog" / "1.png")
    (place / "cat" / "loop").symlink_to(place, target_is_directory=True)
    found = list_files(place, "images")
    assert {reject.name[4:-4]: reject.reason.partition(" (")[0] for reject in found.rejects} == {
        "pipe": "a pipe, no regular file", "zero": "a device or a socket, no regular file", "gone": "a link to nothing",
    }  # fmt: skip
    assert len(found.entries) == 7
    assert found.passed["links to folders that are here already"] == 1
    (place / "self").symlink_to("self")
    assert "self" in [reject.name for reject in list_files(place, "images").rejects]
    (place / "ant").symlink_to(place / "dog", target_is_directory=True)
    refused(place, "the folder ant in")  # or its pictures would be there twice, or dog's be called ant's
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        data = picture(0)
        info = tarfile.TarInfo("0.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        for name, kind in (("1.png", tarfile.LNKTYPE), ("2.png", tarfile.SYMTYPE), ("3.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.png"
            tar.addfile(info)
    found = list_files(tmp_path / "links.tar", "images")
    assert [entry.name for entry in found.entries] == ["links.tar/0.png"]
    assert sorted(reject.name for reject in found.rejects) == [f"links.tar/{i}.png" for i in (1, 2, 3)]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a zip's own word, and by what it really holds; a file that a decoder never ends with."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/0.png", picture(0))
        with packed.open("a/large.png", "w", force_zip64=True) as file:
            for _ in range(301):
                file.write(bytes(1_000_000))
    found = list_files(tmp_path / "a.zip", "images")
    assert [(reject.name, reject.reason[:21]) for reject in found.rejects] == [("a/large.png", "more than 300,000,000")]
    monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
    for name in ("b.zip", "b.tar"):
        refused(put(tmp_path / name, [(f"{i}.txt", b"") for i in range(9)]), "the most that are listed")
    monkeypatch.setattr(classes, "MOST_CLASSES", 5)
    refused(put(tmp_path / "many", [(f"{i}/0.png", picture(i)) for i in range(9)]), "9 folders with files")
    place = put(tmp_path / "in", [("0.png", picture(0))])
    with (place / "1.png").open("wb") as file:
        file.truncate(400_000_000)
    assert list_files(place, "images").rejects[0].reason.startswith("more than 300,000,000 bytes")


ENDLESS = """
from alphaflow.data_tools import decode

decode.PATIENCE = 0.3

class Endless(decode.ImageTransform):
    def __call__(self, entry, variant):
        while "cat/1.png" in entry.name:
            pass
        return super().__call__(entry, variant)
"""
"""A recipe that never ends on one file; in a module that workers can import."""


def test_a_file_that_a_decoder_never_ends_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list_files(put(tmp_path / "in", TWO), "images")
    (tmp_path / "endless.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("alphaflow.data_tools.decode.PATIENCE", 300.0)  # importing it here changes that
    with Decoder(importlib.import_module("endless").Endless(8), workers=1, chunk=2) as decoder:
        done = list(decoder((i, entry, 0) for i, entry in enumerate(found.entries)))
    assert [sample.record["source"] for sample in done if sample.pixels is None] == ["cat/1.png"]
    assert len(done) == 6


def small(place: Path, out: Path, **options: Any) -> Any:
    settings = {"samples_per_shard": 4, "batch_size": 2, "workers": 0, **options}
    return encode(list_files(place, "images").mixed(), out, af.Pixels(), ImageTransform(8), EncodeOptions(**settings))


@pytest.mark.parametrize("form", ["folder", "a.zip", "a.tar"])
def test_a_second_run_sees_what_has_changed(form: str, tmp_path: Path) -> None:
    """Refused with what it is, or made again: then as if encoded from nothing; and untouched shards stay."""
    many = [(f"{name}/{i}.png", picture(i)) for name in ("cat", "dog") for i in range(12)]
    place, out = put(tmp_path / form, many), tmp_path / "out"
    prefix = "a.tar/" if form == "a.tar" else ""
    small(place, out)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.tar")}
    small(place, out)
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*.tar")} == before
    for words, changed in (
        (rf"1 replaced \({prefix}cat/3.png\)", [(n, picture(99) if n == "cat/3.png" else d) for n, d in many]),
        (rf"1 removed \({prefix}dog/7.png\)", [pair for pair in many if pair[0] != "dog/7.png"]),
        (rf"2 added \({prefix}cat/12.png …\)", [*many, ("cat/12.png", picture(50))]),
        ("of another class", [*many, ("ant/0.png", picture(51))]),
    ):
        if place.is_dir():
            kept = dict(changed)
            for name, data in many:
                if name not in kept:
                    (place / name).unlink()
                elif kept[name] != data:
                    (place / name).write_bytes(kept[name])
            put(place, [pair for pair in changed if pair[0] not in dict(many)])
        else:
            put(place, changed)
        if form != "a.tar":  # there all have changed, with the tar's time
            with pytest.raises(af.UserError, match=f"made from files that have changed since: .*{words}"):
                small(place, out)
        else:
            with pytest.raises(af.UserError, match="made from files that have changed since"):
                small(place, out)
        small(place, out, changed=True)
        small(place, tmp_path / "new")
        for file in (tmp_path / "new").glob("*.tar"):
            assert file.read_bytes() == (out / file.name).read_bytes(), (words, file.name)
        assert len(list(out.glob("*.tar"))) == len(list((tmp_path / "new").glob("*.tar")))
        assert verify(out).problems == []
        shutil.rmtree(tmp_path / "new")
        many = changed


def test_jobs_with_changed_files_never_mix(tmp_path: Path) -> None:
    """One job has made its shards again, the other not yet: that is not finished."""
    place, out = put(tmp_path / "in", [(f"{i:02d}.png", picture(i)) for i in range(16)]), tmp_path / "out"
    for shard in range(2):
        small(place, out, shard=shard, shards=2)
    (place / "03.png").write_bytes(picture(99))
    (place / "16.png").write_bytes(picture(16))
    small(place, out, shard=0, shards=2, changed=True)
    with pytest.raises(af.UserError, match="isn't finished"):
        af.LatentShards(out)
    small(place, out, shard=1, shards=2, changed=True)
    small(place, tmp_path / "new")
    assert verify(out).problems == []
    assert (out / "index.npy").read_bytes() == (tmp_path / "new" / "index.npy").read_bytes()
    for file in (tmp_path / "new").glob("*.tar"):
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_every_reader_sees_the_same(tmp_path: Path) -> None:
    """Training, measuring and encoding: folder, zip, tars."""
    folder = put(tmp_path / "in", [*TWO, *LITTER])
    forms = [folder, put(tmp_path / "a.zip", [*TWO, *LITTER]), put(tmp_path / "tars" / "x.tar", [*TWO, *LITTER])]
    first = af.ImageFolder(folder).all()
    for place in (*forms, tmp_path / "tars"):
        data = af.ImageFolder(place)
        batch, measured = data.all(), open_sample_set(place).read(0, 6)
        assert list(data.class_names) == ["cat", "dog"]
        assert torch.equal(batch.x, first.x)
        assert torch.equal(measured.pixels, ((first.x + 1) * 127.5).round().to(torch.uint8))
        assert torch.equal(measured.labels, first.cond.labels)  # type: ignore[arg-type]


def test_pictures_beside_clips(tmp_path: Path) -> None:
    """Which of them is measured must be said, and is no guess."""
    place = put(tmp_path / "in", [("a/0.mp4", b""), ("a/0.jpg", picture(0, "JPEG")), ("b/1.MP4", b"")])
    with pytest.raises(af.UserError, match="holds 1 pictures and 2 clips"):
        kind_of(place)
    (place / "a" / "0.jpg").unlink()
    assert kind_of(place) == "clips"
    assert kind_of(put(tmp_path / "gifs", [("0.gif", picture(0, "GIF"))])) == "clips"
    assert kind_of(put(tmp_path / "both", [("0.gif", picture(0, "GIF")), ("1.png", picture(0))])) == "images"
    assert kind_of(put(tmp_path / "a.zip", [("a/0.mkv", b"")])) == "clips"
    assert kind_of(put(tmp_path / "tars" / "a.tar", [("a/0.webm", b"")]).parent) == "clips"
    assert list_files(tmp_path / "both", "images").passed == {}


def test_the_commands_say_what_they_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before they begin; val has train's indices, or isn't encoded. In this process, for speed."""
    from alphaflow.cli.main import main

    def run(*words: Any) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["alphaflow", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr()

    place = put(tmp_path / "in" / "train", [*TWO, ("cat/x.txt", b"")])
    val = put(tmp_path / "in" / "val", [("dog/7.png", picture(7)), ("ant/1.png", picture(1))])
    options = ["--autoencoder", "pixels", "--size", "8", "--workers", "0"]
    said = "6 pictures in 2 classes (cat, dog); passed over: 1 .txt"
    assert "must share its classes' indices" in run("encode", "images", val, tmp_path / "out" / "val", *options)[1]
    assert said in run("encode", "images", place, tmp_path / "out" / "train", *options)[0]
    assert "the class 'ant' of" in run("encode", "images", val, tmp_path / "out" / "val", *options)[1]
    shutil.rmtree(val / "ant")
    put(val, [("dog/8.png", picture(8))])
    (tmp_path / "labels.txt").write_text("7.png,dog\n8.png,dog\n")
    out, err = run("encode", "images", val, tmp_path / "out" / "val", *options, "--labels", tmp_path / "labels.txt")
    assert not err
    assert f"classes: those of {tmp_path / 'out' / 'train'}" in out
    assert af.LatentShards(tmp_path / "out" / "val").all().cond.labels.tolist() == [1, 1]  # type: ignore[union-attr]
    assert said in run("stats", place, tmp_path / "s.npz", "--metrics", "pixel-fd")[0]
    with caplog.at_level("INFO", "alphaflow.data"):
        logging.getLogger("alphaflow.data").propagate = True
        af.ImageFolder(place)
    assert said in caplog.text
