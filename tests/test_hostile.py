"""A stranger's run: nothing that it holds is executed, used as a path, or believed, under any command."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import alphaflow as af
from alphaflow.runs.checkpoint import seal

Here = Callable[..., Any]


class Copies:
    """Copies of a run with something changed; a recipe that leaves a mark if it is run."""

    def __init__(self, run: Path, place: Path) -> None:
        self.run, self.place, self.mark = run, place, place / "executed"

    def __call__(self, name: str, *, code: bool = True, **changes: Any) -> Path:
        copy = self.place / name
        shutil.copytree(self.run, copy)
        if code:
            marked = f"open({str(self.mark)!r}, 'w').close()\n" + (self.run / "recipe.py").read_text()
            (copy / "recipe.py").write_text(marked)
        record = json.loads((copy / "run.json").read_text())
        for key, value in changes.items():
            *path, last = key.split("__")
            inner = record
            for part in path:
                inner = inner[part]
            inner[last] = value
        (copy / "run.json").write_text(json.dumps(record))
        return copy


@pytest.fixture
def copies(small_run: Path, tmp_path: Path) -> Copies:
    return Copies(small_run, tmp_path)


def commands(run: Path, out: Path) -> list[list[Any]]:
    small = ["--steps", "12", "--width", "32", "--depth", "1", "--batch-size", "32"]
    return [
        ["sample", run, "--count", "4", "--out", out],
        ["evaluate", run, "--count", "50"],
        ["diagnose", run, "--batches", "1", "--out", out],
        ["train", "digits", *small, "--from", run, "--dry-run"],
        ["train", "digits", *small, "--out", run, "--resume"],
    ]


def one_line(done: Any) -> None:
    assert done.status in (0, 2), done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) <= 1, done.err


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("recipe-changed", {}),
        ("no-model", {"model": None}),
        ("other-function", {"recipe__function": "Path"}),
        ("beside", {"recipe__folder": "/tmp"}),
    ],
)
def test_no_code_of_a_run_is_executed(name: str, changes: dict[str, Any], copies: Copies, here: Here) -> None:
    run = copies(name, **changes)
    for number, words in enumerate(commands(run, copies.place / f"out-{name}")):
        done = here(*words)
        one_line(done)
        assert not copies.mark.exists(), words
        if number in (1, 2):
            assert done.status == 2
            assert "--trust" in done.err


def test_what_is_trusted_is_run(copies: Copies, here: Here) -> None:
    """With the word, and a recipe that equals a built-in one without it; named data in its place."""
    run = copies("mine")
    few = ("--count", "50", "--metrics", "pixel-fd")
    assert here("evaluate", run, *few, "--reference", "digits").status == 0
    assert not copies.mark.exists()
    assert here("evaluate", copies("theirs", code=False), *few).status == 0
    assert here("evaluate", run, *few, "--trust").status == 0
    assert copies.mark.exists()
    with pytest.raises(af.UserError, match="trust=True"):
        af.Run(run, device="cpu").recipe()
    assert af.Run(run, device="cpu", trust=True).recipe().steps == 12


def test_each_place_builds_its_own_kind(copies: Copies, here: Here) -> None:
    inner = copies("inner", model=None)
    other = {"type": "Run", "path": str(inner)}
    for name, changes in (
        ("autoencoder", {"autoencoder": other}), ("model", {"model": other}), ("sampler", {"samplers": {"1": other}}),
        ("inside", {"autoencoder": {"type": "Normalised", "inner": other, "shift": [0.0], "scale": [1.0]}}),
    ):  # fmt: skip
        done = here("sample", copies(name, code=False, **changes), "--count", "4", "--out", copies.place / "out")
        one_line(done)
        assert done.status == 2
        assert "run.json names the class 'Run'" in done.err
    assert not copies.mark.exists()


def test_names_of_classes_are_no_paths(copies: Copies, here: Here) -> None:
    names = [str(copies.place / "absolute"), "../../../escaped", "..", "\x1b[31m", *map(str, range(4, 10))]
    run = copies("names", code=False, data__class_names=names)
    before = set(copies.place.rglob("*"))
    assert here("sample", run, "--count", "20", "--out", copies.place / "out").status == 0
    new = set(copies.place.rglob("*")) - before
    out = copies.place / "out"
    assert all(path in (out, out.with_suffix(".png")) or out in path.parents for path in new), new


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("width", {"model__width": 10**9}),
        ("width-of-memory", {"model__width": 400_000}),
        ("classes", {"model__classes": 10**12}),
        ("depth", {"model__depth": 10**9}),
        ("types", {"model": [1], "samplers": "x"}),
        ("shape", {"data__shape": "x"}),
        ("shapes", {"data__shape": [1, "8", 8]}),
        ("classes-of-data", {"data__classes": "ten"}),
        ("arguments", {"recipe__arguments": 3}),
        ("steps", {"steps": None}),
    ],
)
def test_absurd_and_wrong_values_are_one_line(name: str, changes: dict[str, Any], copies: Copies, here: Here) -> None:
    run = copies(name, code=False, **changes)
    done = here("sample", run, "--count", "4", "--out", copies.place / "out")
    one_line(done)
    assert done.status == 2
    assert "run.json" in done.err


class Mark:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("file", ["training.safetensors", "ema.safetensors", "training/.metadata", "state.json"])
def test_no_pickle_of_a_run_is_opened(file: str, copies: Copies, here: Here) -> None:
    """Wherever it lies in a checkpoint that its manifest calls whole, `train --resume` included."""
    run = copies("pickled", code=False)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    place = run / "checkpoints" / "step-00000006"
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).write_bytes(pickle.dumps(Mark(copies.mark)))
    (place / "manifest.json").unlink()
    seal(place, 6, {})
    for words in commands(run, copies.place / "out"):
        done = here(*words)
        assert done.status in (0, 2), done.err
        assert "Traceback" not in done.err
        assert not copies.mark.exists(), words


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "six"}, {"numbers": {"strange.lr": 1}}, {"groups": []}, {"groups": [{"lr": 1}] * 3}, {"updates": 3},
        {"dataset": {}}, {"dataset": {"position": "x"}}, {"watch": []}, {"watch": {"good": "x", "bad": 0}},
        {"made_with": None},
    ],
)  # fmt: skip
def test_a_state_with_wrong_values_is_one_line(changes: dict[str, Any], copies: Copies, here: Here) -> None:
    run = copies("state", code=False)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    place = run / "checkpoints" / "step-00000006"
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps({**state, **changes}))
    (place / "manifest.json").unlink()
    seal(place, 6, {})
    done = here(*commands(run, copies.place / "out")[-1])
    one_line(done)
    assert done.status == 2, done.out


@pytest.mark.parametrize("value", [torch.zeros(0, 2), torch.zeros(3, dtype=torch.float64), torch.zeros(10**4)])
def test_optimiser_state_of_another_shape_is_refused(value: torch.Tensor, copies: Copies, here: Here) -> None:
    """Fused Adam would read and write past its end."""
    run = copies("shapes", code=False)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    place = run / "checkpoints" / "step-00000006"
    tensors = load_file(place / "training.safetensors")
    tensors["optimizer.embed_t.hidden.weight.exp_avg_sq"] = value
    save_file(tensors, place / "training.safetensors")
    (place / "manifest.json").unlink()
    seal(place, 6, {})
    done = here(*commands(run, copies.place / "out")[-1])
    one_line(done)
    assert done.status == 2
    assert "training can't go on from" in done.err


@pytest.mark.parametrize("file", ["run.json", "state.json", "manifest.json", "metrics.jsonl", "incidents.jsonl"])
@pytest.mark.parametrize("text", ["[" * 100_000, '"x"', "null", "\xff\xfe"])
def test_json_of_any_kind_is_one_line(file: str, text: str, copies: Copies, here: Here) -> None:
    run = copies("json", code=False)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    place = run if file in ("run.json", "metrics.jsonl", "incidents.jsonl") else run / "checkpoints" / "step-00000006"
    (place / file).write_bytes(text.encode("latin-1"))
    if file == "state.json":
        (place / "manifest.json").unlink()
        seal(place, 6, {})
    for words in commands(run, copies.place / "out")[::2]:
        done = here(*words)
        assert done.status in (0, 2), done.err
        assert "Traceback" not in done.err


def _giant(file: Path) -> None:
    """Statistics whose headers say 16 PB."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 2048)}
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("mu.npy", "sigma.npy"):
            with archive.open(name, "w") as stream:
                np.lib.format.write_array_header_1_0(stream, header)


def _packed(file: Path) -> None:
    """Pictures of 100 MB in 100 kB."""
    np.savez_compressed(file, arr_0=np.zeros((25, 2000, 2000, 1), np.uint8))


def _text(file: Path) -> None:
    """Statistics whose counts are text."""
    about = {"format": "alphaflow statistics 1", "count": "9", "shape": [1, 8, 8], "source": "", "class_names": []}
    np.savez(file, about=np.array(json.dumps({**about, "extractors": {}})), mu=np.zeros(4), sigma=np.eye(4))


def _labels(file: Path) -> None:
    """Pictures with labels that are no numbers of classes."""
    np.savez(file, arr_0=np.zeros((50, 8, 8, 1), np.uint8), arr_1=np.full(50, np.nan))


def _shards(file: Path) -> None:
    """Shards of absurd size."""
    file.mkdir()
    about = {"finished": True, "shape": [10**9] * 3, "stored_shape": [10**9] * 3, "posterior": False, "shards": []}
    more = {"shift": [0], "scale": [1], "class_names": [], "autoencoder": None, "measured": None}
    (file / "dataset.json").write_text(json.dumps({**about, **more}))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.npz", _giant), ("a.npz", _packed), ("a.npz", _text), ("a.npz", _labels), ("shards", _shards)],
)
def test_a_strangers_reference_is_one_line(
    name: str, write: Callable[[Path], None], small_run: Path, tmp_path: Path, here: Here
) -> None:
    place = tmp_path / name
    write(place)
    done = here("evaluate", small_run, "--count", "50", "--metrics", "pixel-fd", "--reference", place)
    one_line(done)
    assert done.status == 2
    assert str(place) in done.err
