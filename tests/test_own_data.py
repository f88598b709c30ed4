"""Data of one's own: arrays in memory and in files, torch's datasets and DataLoaders, and what is refused of them."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

import alphaflow as af
from alphaflow.costs import phases
from alphaflow.data.dataset import describe_data
from alphaflow.training.flops import example
from alphaflow.training.sanity import check_conditions, check_mask

CPU = torch.device("cpu")


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


class Plain(nn.Module):
    """A linear network of any shape that reads nothing but z and t, and says nothing of itself."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.linear = nn.Linear(size + 2, size)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        return self.linear(torch.cat([z.flatten(1), r[:, None], t[:, None]], 1)).view_as(z)


class Posed(af.Network):
    """One that names what it takes."""

    conditions = ("vector",)

    def __init__(self, size: int, vector: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size + 2 + vector, size)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        return self.linear(torch.cat([z, r[:, None], t[:, None], cond.vector], 1))


def recipe(dataset: Any, model: nn.Module | None = None, steps: int = 6, **options: Any) -> af.Recipe:
    torch.manual_seed(0)
    made = Plain(dataset.shape) if model is None else model
    return af.Recipe(
        **{
            "model": made, "objective": af.MeanFlow(), "dataset": dataset, "samplers": (af.ODE(1),), "steps": steps,
            "lr": 1e-2, "ema": 0.9, **options,
        }
    )  # fmt: skip


def read(dataset: Any, count: int) -> list[af.Batch]:
    stream = iter(dataset)
    return [next(stream) for _ in range(count)]


def equal(a: list[af.Batch], b: list[af.Batch]) -> bool:
    def parts(batch: af.Batch) -> dict[str, Tensor]:
        return {"x": batch.x, **batch.cond.tensors}

    return len(a) == len(b) and all(
        parts(one).keys() == parts(other).keys()
        and all(torch.equal(parts(one)[name], parts(other)[name]) for name in parts(one))
        for one, other in zip(a, b, strict=True)
    )


# Arrays


def given(n: int = 23) -> dict[str, Any]:
    draw = rng()
    return {
        "x": draw.normal(size=(n, 3, 5)),
        "labels": draw.integers(0, 4, n).astype(np.int16),
        "vector": draw.normal(size=(n, 2)).astype(np.float16),
        "tokens": draw.integers(0, 250, (n, 6)).astype(np.uint8),
        "mask": np.ones((n, 6), bool),
        "image": draw.integers(0, 256, (n, 1, 5), dtype=np.uint8),
    }


def test_arrays_in_memory_and_in_files_are_the_same(tmp_path: Path) -> None:
    """Tensors, arrays, .npy, .npz packed and not, Fortran's order, another machine's bytes: the values NumPy has."""
    arrays = given()
    x, labels = arrays["x"].astype(np.float32), arrays["labels"].astype(np.int64)
    paths = {name: tmp_path / f"{name}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(paths[name], array)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    swapped = {n: a.astype(a.dtype.newbyteorder(">")) if a.dtype.itemsize > 1 else a for n, a in arrays.items()}
    np.savez(tmp_path / "swapped.npz", **swapped)
    fortran = {**arrays, "x": np.asfortranarray(arrays["x"])}
    np.savez(tmp_path / "fortran.npz", **fortran)
    np.save(tmp_path / "fortran.npy", fortran["x"])
    made = [
        af.Arrays(**arrays, seed=3, batch_size=10),
        af.Arrays(**{n: torch.from_numpy(a) for n, a in arrays.items()}, seed=3, batch_size=10),
        af.Arrays(**paths, seed=3, batch_size=10),
        af.Arrays(**{**paths, "x": str(tmp_path / "fortran.npy")}, seed=3, batch_size=10),
        *(
            af.Arrays(tmp_path / f"{name}.npz", seed=3, batch_size=10)
            for name in ("plain", "packed", "swapped", "fortran")
        ),
    ]
    for data in made:
        assert (data.shape, data.classes, len(data)) == ((3, 5), int(labels.max()) + 1, 23)
        batch = data.all()
        assert batch.x.dtype == torch.float32
        np.testing.assert_array_equal(batch.x, x)
        cond = batch.cond.tensors
        np.testing.assert_array_equal(cond["labels"], labels)
        np.testing.assert_array_equal(cond["vector"], arrays["vector"].astype(np.float32))
        np.testing.assert_array_equal(cond["tokens"], arrays["tokens"].astype(np.int64))
        assert cond["mask"].dtype == torch.bool
        np.testing.assert_allclose(cond["image"], arrays["image"] / 127.5 - 1, atol=1e-6)
        assert equal(read(data, 7), read(af.Arrays(**arrays, seed=3, batch_size=10), 7))
    assert "x=(23, 3, 5)" in repr(made[0])


def test_every_epoch_has_every_sample_once_and_goes_on_anywhere() -> None:
    n = 20
    data = af.Arrays(torch.arange(n, dtype=torch.float64)[:, None], batch_size=5, seed=1)
    epochs = [torch.cat([b.x for b in read(data, 4)]).flatten().tolist() for _ in range(2)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    place, after = data.state_dict(), read(data, 3)
    other = af.Arrays(torch.arange(n, dtype=torch.float64)[:, None], batch_size=5, seed=8)
    other.load_state_dict(place)
    assert equal(read(other, 3), after)
    parts = [af.Arrays(torch.arange(n).double()[:, None], batch_size=4, seed=1) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.share(rank, 2)
    seen = torch.cat([b.x for part in parts for b in read(part, 5)]).flatten().tolist()
    assert sorted(seen) == list(range(n))


def test_arrays_are_read_by_workers_and_left_as_they_are(tmp_path: Path) -> None:
    x = rng().normal(size=(24, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    before = x.copy()
    data = af.Arrays(tmp_path / "x.npy", labels=np.arange(24), batch_size=4, seed=0)
    first = data.fetch(np.arange(2)).x  # the file is open
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.fetch(np.arange(2)).x, first)
    loader = iter(DataLoader(data, batch_size=None, num_workers=2))
    batches = [next(loader) for _ in range(6)]
    labels = torch.cat([batch.cond.labels for batch in batches])
    assert sorted(labels.tolist()) == list(range(24))
    np.testing.assert_array_equal(torch.cat([batch.x for batch in batches]), x[labels])
    kept = af.Arrays(x, batch_size=4, seed=0)
    kept.fetch(np.arange(3)).x.zero_()
    np.testing.assert_array_equal(x, before)


def test_large_reads_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system gives at most 2 GiB at once, or less: reading goes on."""
    x = rng().normal(size=(50, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, data, at: real(file, [data[0][:100]], at))
    np.testing.assert_array_equal(af.Arrays(tmp_path / "x.npy").all().x, x)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "wrong"),
    [
        ({"x": X, "labels": np.zeros(3, int)}, "x has 4 samples and labels 3 samples"),
        ({"x": X, "vector": np.array(1.0)}, "x has 4 samples and vector no dimension"),
        ({"x": X, "labels": np.zeros(4)}, r"labels must be whole numbers \(n,\), got float64 \(4,\)"),
        ({"x": X, "labels": np.zeros((4, 1), int)}, r"labels must be whole numbers \(n,\), got int64 \(4, 1\)"),
        ({"x": X, "labels": np.array([0, 1, -2, 0])}, "label -2 of sample 2 is out of range"),
        ({"x": X, "labels": np.arange(4), "class_names": ["a", "b"]}, "label 2 of sample 2 is out of range"),
        ({"x": X, "class_names": ["a"]}, "give the labels"),
        ({"x": X[:0]}, "x is empty"),
        ({"x": X[:, 0]}, r"samples are \(n, …\)"),
        ({"x": X.astype(int)}, "x is int64; samples are floats, or 8-bit"),
        ({"x": X, "pose": np.array([{}] * 4)}, "pose holds Python objects"),
        ({"x": X, "pose": np.array(["a"] * 4)}, "pose holds <U1"),
        ({"x": X.astype(complex)}, "x holds complex128"),
        ({"x": torch.zeros(4, 2, dtype=torch.complex64)}, "x is torch.complex64"),
        ({"x": [[0.0]]}, "not a list"),
        ({"x": "nowhere.npy"}, "x: nowhere.npy doesn't exist"),
        ({"x": "nowhere.npz"}, "nowhere.npz doesn't exist"),
        ({"x": X, "mask": X > 0}, "a mask goes with them; got none"),
        ({"x": X, "tokens": np.zeros((4, 3), int), "mask": np.ones((4, 3))}, "the mask of tokens .* got torch.float32"),
        ({"x": X, "tokens": np.zeros((4, 3), int), "mask": X == 0}, r"the mask of tokens .* got torch.bool \(1, 2\)"),
        ({"x": X, "vector": "some.npz"}, "vector: some.npz is an .npz"),
    ],
)
def test_arrays_that_are_refused(arrays: dict[str, Any], wrong: str) -> None:
    with pytest.raises(af.UserError, match=wrong) as raised:
        af.Arrays(**arrays)
    assert "\n" not in str(raised.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, images=X, labels=np.zeros(4, int))
    with pytest.raises(af.UserError, match="holds no array named x, but images, labels"):
        af.Arrays(file)
    np.savez(file, x=X, labels=np.zeros(4, int))
    with pytest.raises(af.UserError, match="labels is given, and is also in"):
        af.Arrays(file, labels=np.zeros(4, int))
    evil = tmp_path / "evil.npy"
    np.save(evil, np.array([Bomb(tmp_path)] * 4), allow_pickle=True)
    with pytest.raises(af.UserError, match="pickled objects are refused"):
        af.Arrays(evil)
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as zipped:
        zipped.write(evil, "x.npy")
    with pytest.raises(af.UserError, match="pickled objects are refused"):
        af.Arrays(tmp_path / "evil.npz")
    assert not (tmp_path / "exploded").exists()
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(af.UserError, match="it ends early"):
        af.Arrays(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(af.UserError, match=r"can't be read as a \.npy"):
        af.Arrays(tmp_path / "x.npy")
    with pytest.raises(af.UserError, match="is not a file"):
        af.Arrays(tmp_path)


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place / "exploded"),)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    x = np.zeros((9, 3))
    x[6, 1] = value
    np.save(tmp_path / "x.npy", x)
    data = af.Arrays(tmp_path / "x.npy")
    assert data.fetch(np.arange(6)).x.sum() == 0
    with pytest.raises(af.UserError, match=r"x \(.*x\.npy\) is not finite: sample 6 holds"):
        data.fetch(np.array([2, 6, 8]))
    with pytest.raises(af.UserError, match="vector is not finite: sample 6 holds"):
        af.Arrays(np.zeros((9, 2)), vector=x).fetch(np.array([6]))
    large = np.full((4, 2), 3e38)  # their sum is beyond float32, they aren't
    assert af.Arrays(large).all().x.isfinite().all()


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_is_cut_or_replaced_meanwhile(name: str, tmp_path: Path) -> None:
    """In a process of its own: a mapped file would end it by SIGBUS."""
    script = f"""
import os, numpy as np, alphaflow as af
x = np.random.default_rng(0).normal(size=(5000, 16))
(np.savez if {name!r}.endswith("z") else lambda f, x: np.save(f, x))({name!r}, x=x)
data = af.Arrays({name!r}, batch_size=8, seed=0)
next(iter(data))
os.truncate({name!r}, 4096)
try:
    data.all()
except af.UserError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(af.__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name} was changed or cut while it was in use")


@pytest.mark.parametrize("shape", [(2,), (3, 16), (5, 4, 6)])
@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_samples_of_any_shape_train_and_go_on(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    """Run folder, checkpoints, figures, costs; 3 steps and a resume give 6 steps' weights, bit for bit."""

    def data() -> af.Dataset:
        x = torch.randn(32, *shape, generator=torch.Generator().manual_seed(0))
        if kind == "arrays":
            return af.Arrays(x, batch_size=12, seed=4)
        return af.FromTorch(DataLoader(TensorDataset(x), batch_size=12, shuffle=True), seed=4)

    options = {"checkpoint_every": 3, "log_every": 1}
    af.Trainer(recipe(data()), out=tmp_path / "straight", **options).fit()
    broken = af.Trainer(recipe(data()), out=tmp_path / "resumed", **options)
    for _ in range(3):
        broken.train_step()
    broken.save()
    del broken
    af.Trainer(recipe(data()), out=tmp_path / "resumed", resume=True, **options).fit()
    straight, resumed = (
        load_file(tmp_path / run / "checkpoints" / "step-00000006" / "model.safetensors")
        for run in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert [phase.steps for phase in phases(recipe(data()))] == [6]


# FromTorch


class Items:
    """A map-style dataset that derives from nothing; its items draw from all three global generators."""

    def __init__(self, n: int = 20) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.n:
            raise IndexError(index)
        noise = torch.rand(1) + random.random() + float(np.random.rand())
        return torch.cat([torch.full((1,), float(index)), noise]), index % 3


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(10.0)[:, None])


def loaders() -> dict[str, Any]:
    own = torch.Generator().manual_seed(77)
    weights = torch.rand(20, generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "items": Items(),
        "loader": DataLoader(Items(), batch_size=6, shuffle=True),
        "in order": DataLoader(Items(), batch_size=6, drop_last=True),
        "its generator": DataLoader(Items(), batch_size=6, shuffle=True, generator=own),
        "sampler's generator": DataLoader(Items(), batch_size=6, sampler=RandomSampler(range(20), generator=own)),
        "weighted": DataLoader(Items(), batch_size=6, sampler=WeightedRandomSampler(weights, 20)),
        "workers": DataLoader(Items(), batch_size=6, shuffle=True, num_workers=2),
    }


@pytest.mark.parametrize("kind", list(loaders()))
@pytest.mark.parametrize("stop", [0, 2, 4])
def test_batches_are_the_same_after_a_resume(kind: str, stop: int) -> None:
    """In the middle of an epoch and at its end; what items draw too; and torch's own randomness stays as it is."""

    def made(seed: int = 2) -> af.Dataset:
        options = {"batch_size": 6} if kind == "items" else {}
        return af.FromTorch(loaders()[kind], classes=3, seed=seed, **options)

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    untouched = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    straight = made()
    read(straight, stop)
    place, after = straight.state_dict(), read(straight, 6)
    assert torch.equal(untouched[0], torch.get_rng_state())
    assert untouched[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    torch.rand(5)
    again = made(9)
    read(again, 1)
    again.load_state_dict(place)
    assert again.state_dict() == place
    assert equal(read(again, 6), after)
    assert again.state_dict() == straight.state_dict()
    other = made(9)
    assert kind == "in order" or not equal(read(other, 4), read(made(), 4))
    assert (straight.shape, straight.classes) == ((2,), 3)


def test_items_are_an_indexed_dataset() -> None:
    data = af.FromTorch(Items(), classes=["a", "b", "c"], batch_size=5, seed=0)
    assert isinstance(data, af.IndexedDataset)
    assert data.indexed is data
    assert list(data.class_names) == ["a", "b", "c"]
    seen = torch.cat([batch.x[:, 0] for batch in read(data, 4)])
    assert sorted(seen.tolist()) == list(range(20))
    assert torch.equal(data.all().x, data.all().x)
    loader = iter(DataLoader(data, batch_size=None, num_workers=2))
    seen = torch.cat([next(loader).x[:, 0] for _ in range(4)])
    assert sorted(seen.tolist()) == list(range(20))


def test_a_loaders_epochs_differ_and_are_whole() -> None:
    data = af.FromTorch(DataLoader(Items(), batch_size=6, shuffle=True), classes=3, seed=0)
    epochs = [torch.cat([batch.x[:, 0] for batch in read(data, 4)]).tolist() for _ in range(2)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    parts = [data.share(rank, 2) for rank in range(2)]
    assert all(next(iter(part)).x.shape[0] == 3 for part in parts)


def test_a_stream_says_that_it_cannot_go_back() -> None:
    data = af.FromTorch(Stream(), batch_size=4, seed=0)
    assert [batch.x.flatten().tolist() for batch in read(data, 4)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3],
    ]  # fmt: skip
    state = data.state_dict()
    assert state["exact"] is False
    with pytest.warns(UserWarning, match="Stream isn't continued exactly: an IterableDataset has no place to go back"):
        data.load_state_dict(state)
    assert data.state_dict()["epoch"] == 2

    class Odd(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(20))

        def __len__(self) -> int:
            return 20

    odd = af.FromTorch(DataLoader(Items(), batch_size=6, sampler=Odd()), classes=3)
    with pytest.warns(UserWarning, match="its sampler isn't torch's"):
        odd.load_state_dict(odd.state_dict())


FORMS: dict[str, tuple[Any, Any]] = {
    "tensor": (torch.ones(2), None),
    "pair": ((np.ones(2, np.float32), np.int64(1)), None),
    "dict": ({"x": torch.ones(2), "labels": 1, "vector": np.array([1.0, 2.0])}, None),
    "renamed": ({"pixels": torch.ones(2), "y": torch.tensor(1), "file": "a.png"}, {"pixels": "x", "y": "labels"}),
    "named": ((torch.ones(2), "a caption", torch.ones(3)), ("x", None, "vector")),
    "batch": (af.Batch(torch.ones(1, 2), af.Cond(labels=torch.tensor([1]))), None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loaded", [False, True])
def test_forms_of_items(form: str, loaded: bool) -> None:
    item, fields = FORMS[form]
    source: Any = [item] * 8
    if loaded:
        collate = (lambda items: af.Batch(torch.cat([i.x for i in items]))) if form == "batch" else None
        source = DataLoader(source, batch_size=4, collate_fn=collate)
    data = af.FromTorch(source, fields, classes=2, **({} if loaded else {"batch_size": 4}))
    (batch,) = read(data, 1)
    assert torch.equal(batch.x, torch.ones(4, 2))
    labels = batch.cond.labels
    assert (labels is not None) == (form in ("pair", "dict", "renamed") or (form == "batch" and not loaded))
    assert labels is None or labels.tolist() == [1] * 4
    if form == "dict":
        assert batch.cond.vector.tolist() == [[1.0, 2.0]] * 4
    if form == "named":
        assert batch.cond.vector.shape == (4, 3)
    eight = af.FromTorch([torch.full((1, 2, 2), 255, dtype=torch.uint8)] * 2, batch_size=2)
    assert eight.fetch(np.arange(1)).x.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("source", "options", "wrong"),
    [
        (Stream, {}, "is neither"),
        ([], {}, "the list is empty"),
        ([(torch.ones(2), 1)], {}, "say how many classes there are"),
        ([(torch.ones(2), torch.ones(3))], {}, r"an item has 2 parts \(Tensor, Tensor\); name each"),
        ([(torch.ones(2), torch.ones(3))], {"fields": ("x",)}, "name each"),
        ([{"pixels": torch.ones(2)}], {}, "there is no x, but pixels"),
        ([{"x": torch.ones(2), "text": "a"}], {}, "text is a str, no tensor or numbers"),
        ([{"x": torch.ones(2)}], {"fields": {"y": "labels"}}, "fields names 'y', but an item holds x"),
        ([{"x": torch.ones(2)}], {"fields": "x"}, "fields are several names"),
        ([(Image.new("RGB", (4, 4)), 1)], {}, "x is a picture of Pillow's; give the dataset a transform"),
        ([torch.ones(2, dtype=torch.long)], {}, "samples are floats, or 8-bit"),
        ([torch.ones(())], {}, r"samples are \(n, …\)"),
        ([torch.ones(2), torch.ones(3)], {"batch_size": 2}, r"item \d of the list has the parts"),
        ([af.Batch(torch.ones(2, 2))], {}, "an item is a Batch of 2 samples"),
        ([torch.ones(2)], {"classes": 0}, "classes is their number"),
        (af.Digits(), {}, "a Digits is a dataset of alphaflow's already"),
        (DataLoader(Items()), {"batch_size": 3}, "leave batch_size out"),
        (DataLoader(Items(3), batch_size=8, drop_last=True), {}, "gives no batch"),
        (
            DataLoader(Items(), sampler=DistributedSampler(range(20), 2, 0)),
            {},
            "leave DistributedSampler out",
        ),
    ],
)
def test_torch_datasets_that_are_refused(source: Any, options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(af.UserError, match=wrong) as raised:
        read(af.FromTorch(source, **options), 1)
    assert "\n" not in str(raised.value)


def test_a_recipe_says_how_to_take_a_dataset_of_torchs() -> None:
    for given in (DataLoader(Items()), TensorDataset(torch.zeros(3, 2))):
        with pytest.raises(af.UserError, match=r"of torch's doesn't say what training asks: give af\.FromTorch"):
            recipe(given, Plain((2,)))


def test_another_order_after_going_back() -> None:
    """Training that went back to a place goes on in another order: the same one, whoever goes back there."""

    def gone_back(read_before: int) -> list[af.Batch]:
        data = af.FromTorch(DataLoader(Items(), batch_size=6, shuffle=True), classes=3, seed=2)
        read(data, read_before)
        data.load_state_dict(place)
        data.reorder(11)
        return read(data, 6)

    plain = af.FromTorch(DataLoader(Items(), batch_size=6, shuffle=True), classes=3, seed=2)
    read(plain, 2)
    place = plain.state_dict()
    assert equal(gone_back(0), gone_back(3))
    assert not equal(gone_back(0), read(plain, 6))


def test_a_state_of_other_data_is_refused() -> None:
    for made in (lambda n: Items(n), lambda n: DataLoader(Items(n), batch_size=6)):
        with pytest.raises(ValueError, match="when the run was saved"):
            af.FromTorch(made(20), classes=3).load_state_dict(af.FromTorch(made(30), classes=3).state_dict())


# What the data have, and the network takes


def test_a_batch_of_two_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch has 3 samples x, but its condition 'vector' 2"):
        af.Batch(torch.zeros(3, 1), af.Cond(vector=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"std must have x's shape \(3, 1\), got \(3, 2\)"):
        af.Batch(torch.zeros(3, 1), std=torch.zeros(3, 2))


def test_tokens_that_are_all_masked() -> None:
    tokens, mask = torch.zeros(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    mask[1] = torch.tensor([False, False, True, False])
    check_mask(af.Cond(tokens=tokens, mask=mask))
    with pytest.raises(ValueError, match="all tokens of sample 2 of the batch are masked"):
        check_mask(af.Cond(tokens=tokens, mask=mask & (torch.arange(3) != 2)[:, None]))
    data = af.Arrays(np.zeros((4, 2)), tokens=np.zeros((4, 3), int), mask=np.zeros((4, 3), bool), batch_size=4)
    with pytest.raises(af.UserError, match="Arrays: all tokens of sample 0"):
        af.Trainer(recipe(data), device="cpu").train_step()


@pytest.mark.parametrize(
    ("conditions", "model", "objective", "wrong"),
    [
        ({"vector": 3}, Posed(2, 3), af.MeanFlow(), ""),
        ({"pose": 3}, Plain((2,)), af.MeanFlow(), ""),  # it doesn't say
        ({"vector": 3, "labels": 0}, Posed(2, 3), af.MeanFlow(), ""),  # folders of classes have labels
        (
            {"vector": 3, "pose": 1},
            Posed(2, 3),
            af.MeanFlow(),
            r"have the condition `pose`, which Posed doesn't take: it takes vector; give the network pose",
        ),
        ({}, Posed(2, 3), af.MeanFlow(), r"Posed takes the condition `vector`, which the data \(Arrays\) lack"),
        ({"vector": 3, "start": 2}, Posed(2, 3), af.MeanFlow(source=af.FromCondition("start")), ""),
        (
            {"vector": 3},
            Posed(2, 3),
            af.MeanFlow(source=af.FromCondition("start")),
            "starts from the condition `start`",
        ),
    ],
)
def test_conditions_are_compared_before_the_first_step(
    conditions: dict[str, int], model: nn.Module, objective: af.Objective, wrong: str, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {name: np.ones((8, size)) for name, size in conditions.items() if size}
    arrays |= {"labels": np.arange(8)} if "labels" in conditions else {}
    data = af.Arrays(rng().normal(size=(8, 2)), **arrays, batch_size=8)
    made = recipe(data, model, objective=objective)
    if not wrong:
        af.Trainer(made, device="cpu").train_step()
        return
    with pytest.raises(af.UserError, match=wrong):
        af.Trainer(made, device="cpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing stands in the way of the next try


def test_a_text_encoder_is_described_for_any_machine() -> None:
    """Not on the device where it was used; None where it is the user's own, or there is none."""

    class Own(af.ByteText):
        """Somebody's."""

    x, tokens = np.zeros((8, 1, 4, 4)), np.ones((8, 5), np.int64)
    for encoder, wanted in [
        (af.TransformersText("some/model", device="cuda:3"),
         {"type": "TransformersText", "name": "some/model", "length": 77, "device": "auto"}),
        (af.ByteText(length=5), {"type": "ByteText", "length": 5}),
        (Own(), None),
        (None, None),
    ]:  # fmt: skip
        assert describe_data(af.Arrays(x, tokens=tokens, text_encoder=encoder))["text"] == wanted


def test_dit_says_what_it_takes() -> None:
    def check(data: af.Dataset, **options: Any) -> None:
        model = af.DiT((1, 4, 4), patch=2, depth=1, width=16, heads=2, **options)
        made = recipe(data, model)
        check_conditions(made, read(data, 1)[0].cond.tensors)

    x, labels = np.zeros((8, 1, 4, 4)), np.arange(8) % 3
    check(af.Arrays(x, labels=labels), classes=3)
    check(af.Arrays(x, labels=labels))
    check(af.Arrays(x, vector=np.zeros((8, 2))), vector=2)
    with pytest.raises(af.UserError, match=r"DiT takes the condition `labels`, which the data \(Arrays\) lack"):
        check(af.Arrays(x), classes=3)
    with pytest.raises(af.UserError, match="`vector`, which DiT doesn't take: it takes labels; give the network"):
        check(af.Arrays(x, labels=labels, vector=np.zeros((8, 2))), classes=3)


def test_examples_have_the_datas_conditions() -> None:
    """Where operations are counted before training, a network is called with what it takes."""
    vector = rng().normal(size=(8, 3))
    data = af.Arrays(np.zeros((8, 2)), vector=vector, batch_size=8)
    made = recipe(data, Posed(2, 3))
    x, cond = example(made, (2,), 2, CPU)
    assert x.shape == (2, 2)
    np.testing.assert_array_equal(cond.vector, vector[:2].astype(np.float32))
    assert af.Trainer(made, device="cpu").engine.flops == 2 * 7 * 2
    digits = af.Digits()
    _, cond = example(recipe(digits, af.DiT(digits.shape, patch=4, depth=1, width=16, heads=2)), digits.shape, 3, CPU)
    assert cond.labels.tolist() == [0, 1, 2]
