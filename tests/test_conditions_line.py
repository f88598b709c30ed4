"""The line after training, with conditions and sources: sampling, pictures, files, evaluation."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import alphaflow as af
from alphaflow.media.clips import contact_sheet
from alphaflow.media.grids import compared, grid
from alphaflow.media.sample_files import write_samples
from alphaflow.pixel_values import to_bytes
from alphaflow.runs.generation import text_rows
from alphaflow.runs.starting import find_weights, start_from
from alphaflow.training.display import Display


class Rows(af.IndexedDataset):
    """Thirty samples of any shape, each with its own conditions; a copy in which nothing is random."""

    def __init__(self, shape: tuple[int, ...], **conditions: tuple[int, ...]) -> None:
        super().__init__(10, 0)
        generator = torch.Generator().manual_seed(3)
        self.shape = shape
        self.x = torch.randn(30, *shape, generator=generator) / 3
        self.given = {name: torch.randn(30, *size, generator=generator) / 3 for name, size in conditions.items()}

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        rows = torch.as_tensor(indices)
        return af.Batch(self.x[rows], af.Cond(**{name: given[rows] for name, given in self.given.items()}))


class Stream(af.Dataset):
    """The same rows in a fixed order, of which nobody knows the length."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.shape = rows, rows.shape

    def __iter__(self) -> Any:
        while True:
            yield self.rows.fetch(range(10))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Scaled(af.Network):
    """u = w·z + v·mean(condition); at the start it is 0. Keeps what it was given last."""

    def __init__(self, *names: str, start: float = 0.0) -> None:
        super().__init__()
        self.conditions = names
        self.w, self.v = torch.nn.Parameter(torch.tensor(start)), torch.nn.Parameter(torch.tensor(start))
        self.seen: set[str] = set()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        self.seen = set(cond.tensors)
        shift = torch.zeros(len(z), dtype=z.dtype)
        for name in self.conditions:
            shift = shift + cond.tensors[name].flatten(1).mean(1)
        return self.w * z + self.v * shift.view(-1, *(1,) * (z.ndim - 1))


def recipe(data: af.Dataset, *names: str, start: float = 0.0, steps: int = 2, **more: Any) -> af.Recipe:
    """Nothing is learned, so that what is made is known."""
    chosen: dict[str, Any] = {"objective": af.MeanFlow(), "samplers": (af.ODE(1), af.Consistency(2))}
    return af.Recipe(
        model=Scaled(*names, start=start), dataset=data, steps=steps, lr=0.0, ema=0.0, **(chosen | more)
    )  # fmt: skip


def trained(place: Path, made: af.Recipe, **more: Any) -> af.Run:
    af.Trainer(made, out=place, device="cpu", **({"sample_every": None} | more)).fit()
    return af.Run(place, model=Scaled(*made.model.conditions or ()), device="cpu")


def test_samples_start_from_the_source(tmp_path: Path) -> None:
    """With u = 0 a sample is what stands at t = 1: the condition and the noise, the seed's or one's own."""
    data = Rows((2, 16), image=(2, 16), pose=(3,))
    source = af.FromCondition("image", noise=0.5)
    run = trained(tmp_path / "run", recipe(data, "pose", objective=af.MeanFlow(source=source)))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"]["type"] == "FromCondition"
    cond = data.fetch(range(5)).cond
    noise = torch.randn(5, 2, 16)
    assert torch.equal(run.sample(cond=cond, noise=noise), cond.image + 0.5 * noise)
    assert run.model.seen == {"pose"}  # what only the source reads
    seeds = torch.Generator().manual_seed(7)
    drawn = torch.stack([torch.randn(2, 16, generator=seeds) for _ in range(5)])
    assert torch.equal(run.sample(cond=cond, seed=7, batch_size=2), cond.image + 0.5 * drawn)
    fresh = run.sample(cond=cond, noise=noise, nfe=2)  # its sampler draws from the source again
    assert run.model.seen == {"pose"}
    again = 2 * (fresh - 0.5 * (cond.image + 0.5 * noise)) - cond.image  # half of the way back, to t = 1/2
    assert again.std().item() == pytest.approx(0.5, rel=0.2)
    first = torch.stack([torch.randn(2, 16, generator=torch.Generator().manual_seed(0))])
    assert not torch.allclose(again[:1], 0.5 * first, atol=1e-3)  # and not the noise that it began with
    assert af.Run(tmp_path / "run", model=Scaled("pose")).source == source


def test_conditions_go_with_their_samples(tmp_path: Path) -> None:
    """Permuting the conditions with the noise permutes the samples; DiT opens from run.json alone."""
    data = Rows((3, 8, 8), image=(2, 8, 8), vector=(4,))
    model = af.DiT(data.shape, patch=4, depth=1, width=16, heads=2, vector=4, image=2)
    torch.nn.init.normal_(model.final.out.weight)
    made = af.Recipe(model=model, objective=af.MeanFlow(), dataset=data, steps=1, samplers=(af.ODE(2),), ema=0.0)
    af.Trainer(made, out=tmp_path / "run", sample_every=None).fit()
    run = af.Run(tmp_path / "run", device="cpu")
    cond, noise, order = data.fetch(range(6)).cond, torch.randn(6, 3, 8, 8), torch.tensor([4, 2, 0, 1, 5, 3])
    found = run.sample(cond=cond, noise=noise, nfe=2, dtype=torch.float32)
    again = run.sample(cond=cond[order], noise=noise[order], nfe=2, dtype=torch.float32)
    assert torch.allclose(again, found[order], atol=1e-5)
    other = run.sample(cond=cond.replace(vector=cond.vector + 1), noise=noise, nfe=2, dtype=torch.float32)
    assert (other - found).abs().max() > 1e-3
    assert torch.equal(run.sample(cond=cond, noise=noise, nfe=2), to_bytes(found))


@pytest.mark.parametrize("shape", [(5,), (2, 20), (1, 8, 8), (3, 8, 8), (4, 8, 8), (6, 8, 8), (3, 2, 8, 8)])
def test_every_shape_is_sampled(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Pictures as pixels, all else as floats beyond [-1, 1]; pixels only of pictures."""
    run = trained(tmp_path / "run", recipe(Rows(shape)))
    noise = 3 * torch.randn(4, *shape)
    found, floats = run.sample(noise=noise), run.sample(4, noise=noise, dtype=torch.float64)
    assert torch.equal(floats, noise.double())
    if shape[0] in (1, 3) and len(shape) > 2:
        assert torch.equal(found, to_bytes(noise))
    else:
        assert found.dtype == torch.float32
        assert torch.equal(found, noise)
        with pytest.raises(af.UserError, match=r"no pictures: take floats, `dtype=torch\.float32`"):
            run.sample(4, dtype=torch.uint8)


def test_what_cannot_be_sampled_with(tmp_path: Path) -> None:
    data = Rows((2, 16), vector=(3,), image=(2, 16))
    run = trained(tmp_path / "run", recipe(data, "vector", "image"))
    good = data.fetch(range(5)).cond
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "number of samples, `count=`"),
        ({"count": 5}, r"makes its samples from vector \(3,\), image \(2, 16\): give it with `cond=`"),
        ({"cond": good.without("image")}, r"makes its samples from image \(2, 16\)"),
        ({"cond": good, "count": 4}, "condition vector is of 5 samples, and 4 are to be made"),
        ({"cond": good.replace(pose=torch.zeros(5, 1))}, "doesn't take the condition pose; it takes vector"),
        ({"cond": good.replace(vector=torch.zeros(5, 2))}, r"vector must be float32 \(5, 3\).* got float32 \(5, 2\)"),
        ({"cond": good.replace(vector=torch.zeros(5, 3, dtype=torch.int64))}, "must be float32 .* got int64"),
        ({"cond": good, "noise": torch.zeros(5, 16)}, r"`noise=` must be of shape \(5, 2, 16\)"),
        ({"cond": good, "labels": torch.zeros(3, dtype=torch.int64)}, "`labels=` is of 3 samples, and 5"),
        ({"cond": good, "dtype": torch.int32}, "torch.uint8, for pixels, or a floating type"),
        ({"cond": good.replace(vector=torch.full((5, 3), torch.nan))}, "condition vector is not finite"),
    ]
    run.model.v.data.fill_(1.0)
    for given, message in wrong:
        with pytest.raises(af.UserError, match=message) as caught:
            run.sample(**given)
        assert "\n" not in str(caught.value)
    assert run.sample(cond=good).shape == (5, 2, 16)


def test_runs_of_earlier_versions_say_nothing_of_it(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", recipe(Rows((3,), vector=(2,)), "vector"))
    expected = run.sample(cond=af.Cond(vector=torch.ones(4, 2)))
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    del record["source"], record["data"]["conditions"], record["data"]["text"], record["recipe"]["directory"]
    file.write_text(json.dumps(record))
    earlier = af.Run(tmp_path / "run", model=Scaled("vector"))
    assert earlier.source == af.Gaussian()
    assert torch.equal(earlier.sample(cond=af.Cond(vector=torch.ones(4, 2))), expected)
    with pytest.raises(af.UserError, match="samples from vector: give it"):
        earlier.sample(4)
    record["data"]["conditions"] = {"vector": {"shape": [2**20, 2**20], "dtype": "float32"}}
    file.write_text(json.dumps(record))
    with pytest.raises(af.UserError, match=r"damaged: data\.conditions"):
        af.Run(tmp_path / "run", model=Scaled("vector"))


def test_another_source_is_said_at_the_start(tmp_path: Path) -> None:
    bridge = recipe(Rows((2, 4), image=(2, 4)), objective=af.MeanFlow(source=af.FromCondition(noise=0.1)))
    trained(tmp_path / "run", bridge)
    file = find_weights(tmp_path / "run")
    said = start_from(file, Scaled(), af.Gaussian())
    assert said.endswith("it was trained from another source, FromCondition(noise=0.1), and now from Gaussian()")
    assert "another source" not in start_from(file, Scaled(), af.FromCondition(noise=0.1))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 2, 8, 8)])
def test_pictures_show_inputs_outputs_and_truths(shape: tuple[int, ...], stream: bool, tmp_path: Path) -> None:
    """With u = 0 and the condition itself as the source the output is the input; every pixel is known."""
    data = Rows(shape, image=shape)
    made = recipe(Stream(data) if stream else data, objective=af.MeanFlow(source=af.FromCondition("image")))
    trained(tmp_path / "run", made, sample_every="auto")
    count = 8 if len(shape) == 3 else 4
    rows = list(range(count)) if stream else np.linspace(0, 29, count).round().astype(int).tolist()
    inputs, truths = to_bytes(data.given["image"][rows]), to_bytes(data.x[rows])
    sheet = compared([inputs, inputs, truths])
    expected = grid(sheet, 3) if len(shape) == 3 else contact_sheet(sheet)
    for step in (1, 2):
        with Image.open(tmp_path / "run" / "samples" / f"step-{step:08d}.png") as found:
            assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_what_is_no_picture_is_a_chart_or_nothing(tmp_path: Path) -> None:
    for name, data, given in (
        ("points", Rows((2,)), ()), ("numbers", Rows((1,), vector=(2,)), ("vector",)),
        ("series", Rows((2, 16), image=(1, 16)), ("image",)), ("vectors", Rows((5,)), ()),
        ("latents", Rows((4, 8, 8)), ()),
    ):  # fmt: skip
        trained(tmp_path / name, recipe(data, *given, steps=1), sample_every="auto")
        drawn = (tmp_path / name / "samples" / "step-00000001.png").is_file()
        assert drawn == (name in ("points", "numbers", "series")), name
        assert any((tmp_path / name).glob("events.*"))


@pytest.mark.parametrize("every", [None, 0])
def test_no_pictures(every: int | None, tmp_path: Path) -> None:
    trained(tmp_path / "run", recipe(af.Digits(batch_size=8)), sample_every=every)
    assert not (tmp_path / "run" / "samples").exists()


def test_pictures_that_fail_are_one_warning_after_the_checkpoint(tmp_path: Path) -> None:
    there: list[bool] = []
    said: list[str] = []

    class Failing:
        nfe = 1

        def __call__(self, *_: Any) -> Tensor:
            step = f"step-{trainer.step:08d}"
            there.append((tmp_path / "run" / "checkpoints" / step / "manifest.json").is_file())
            raise RuntimeError("of a sampler")

    class Telling(Display):
        def say(self, message: str) -> None:
            said.append(message)

    made = recipe(Rows((1, 8, 8), vector=(2,)), "vector", steps=6, samplers=(Failing(),))
    trainer = af.Trainer(
        made, out=tmp_path / "run", sample_every=2, checkpoint_every=2, display=Telling(), device="cpu"
    )
    trainer.fit()
    assert there == [True, True, True]
    assert sum("no picture" in line for line in said) == 1
    assert any("no picture at step 2: RuntimeError: of a sampler" in line for line in said)


RECIPE = '''"""A bridge over series, by a network of one's own."""
from pathlib import Path
import numpy as np, torch
import alphaflow as af

class Rows(af.IndexedDataset):
    def __init__(self, file):
        super().__init__(10, 0)
        arrays = np.load(file)
        self.x, self.y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["image"])
        self.shape = tuple(self.x.shape[1:])
    def __len__(self):
        return len(self.x)
    def fetch(self, indices, generator=None):
        rows = torch.as_tensor(indices)
        return af.Batch(self.x[rows], af.Cond(image=self.y[rows]))

class Zero(af.Network):
    conditions = ()
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
    def forward(self, z, r, t, cond):
        return self.w * z

def recipe(*, data: Path = Path("rows.npz"), steps: int = 1) -> af.Recipe:
    rows = Rows(data)
    return af.Recipe(model=Zero(), objective=af.MeanFlow(source=af.FromCondition("image")), dataset=rows, steps=steps,
                     samplers=(af.ODE(1),), lr=0.0)
'''


def bridge(place: Path, here: Callable[..., Any], shape: tuple[int, ...]) -> tuple[Path, dict[str, np.ndarray]]:
    """A run by the command line, without pictures, and the arrays that it was trained on."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.3, (30, *shape)).astype(np.float32)
    arrays = {"x": truth, "image": truth + rng.normal(0, 0.1, truth.shape).astype(np.float32)}
    np.savez(place / "rows.npz", **arrays)
    (place / "mine.py").write_text(RECIPE)
    call = ["train", place / "mine.py", "--data", place / "rows.npz", "--out", place / "run", "--sample-every", "0"]
    assert here(*call).status == 0
    assert not (place / "run" / "samples").exists()
    assert json.loads((place / "run" / "run.json").read_text())["recipe"]["directory"] == str(Path.cwd())
    return place / "run", arrays


def test_numbers_by_the_command_line(here: Callable[..., Any], tmp_path: Path) -> None:
    """What is written is the conditions in turn, whatever the batches; and evaluated as written and as made."""
    run, arrays = bridge(tmp_path, here, (2, 16))
    turned = arrays["image"][np.arange(70) % 30]
    options = ["--conditions", tmp_path / "rows.npz", "--count", "70", "--batch-size", "32", "--trust"]
    for form in ("npz", "npy"):
        done = here("sample", run, *options, "--format", form, "--out", tmp_path / form)
        assert done.status == 0, done.err
        found = np.load(tmp_path / form / f"samples.{form}")
        found = found["arr_0"] if form == "npz" else found
        assert found.dtype == np.float32
        assert np.array_equal(found, turned)
        assert (tmp_path / f"{form}.png").is_file()
    again = (tmp_path / "npz" / "samples.npz").read_bytes()
    assert here("sample", run, *options, "--out", tmp_path / "npz", "--overwrite").status == 0
    assert (tmp_path / "npz" / "samples.npz").read_bytes() == again
    np.save(tmp_path / "only.npy", arrays["image"])
    assert here("sample", run, "--conditions", tmp_path / "only.npy", "--trust", "--out", tmp_path / "o").status == 0
    assert np.array_equal(np.load(tmp_path / "o" / "samples.npz")["arr_0"], arrays["image"])
    result = tmp_path / "result.json"
    assert here("evaluate", run, "--trust", "--json", result).status == 0
    values = json.loads(result.read_text())
    error = ((arrays["image"] - arrays["x"]).astype(np.float64) ** 2).mean()
    assert values["rows"][0]["values"]["mse"] == pytest.approx(error, rel=1e-6)
    assert values["rows"][0]["count"] == 30
    assert values["conditions"] == "image of the reference, in order"
    np.save(tmp_path / "truth.npy", arrays["x"])
    stored = af.evaluate(tmp_path / "o" / "samples.npz", tmp_path / "truth.npy", metrics=("mse", "energy"))
    assert stored.rows[0].values["mse"] == pytest.approx(error, rel=1e-6)
    assert stored.rows[0].values["energy"] == pytest.approx(values["rows"][0]["values"]["energy"], rel=1e-9)


def test_images_by_the_command_line(here: Callable[..., Any], tmp_path: Path) -> None:
    """Inputs, outputs and truths side by side; a folder of images is what is to be restored; PSNR as NumPy has it."""
    run, arrays = bridge(tmp_path, here, (1, 8, 8))
    call = ["sample", run, "--conditions", tmp_path / "rows.npz", "--trust", "--count", "6", "--out", tmp_path / "o"]
    assert here(*call).status == 0
    inputs, truths = (to_bytes(torch.from_numpy(arrays[name][:6])) for name in ("image", "x"))
    with Image.open(tmp_path / "o.png") as found:
        assert np.array_equal(np.asarray(found), np.asarray(grid(compared([inputs, inputs, truths]), 9)))
    with Image.open(tmp_path / "o" / "000003.png") as found:
        assert np.array_equal(np.asarray(found), inputs[3, 0].numpy())
    call = ["sample", run, "--conditions", tmp_path / "o", "--trust", "--out", tmp_path / "p", "--format", "npz"]
    assert here(*call).status == 0
    assert np.array_equal(np.load(tmp_path / "p" / "samples.npz")["arr_0"][..., 0], inputs[:, 0].numpy())
    result = tmp_path / "result.json"
    assert here("evaluate", run, "--trust", "--json", result, "--metrics", "psnr,ssim,mse").status == 0
    made, real = (to_bytes(torch.from_numpy(arrays[name])).double().numpy() for name in ("image", "x"))
    expected = 10 * np.log10(255**2 / ((made - real) ** 2).reshape(30, -1).mean(1))
    assert json.loads(result.read_text())["rows"][0]["values"]["psnr"] == pytest.approx(expected.mean(), rel=1e-6)
    some = {name: array[10:20] for name, array in arrays.items()}
    np.savez(tmp_path / "some.npz", **some)  # data that were held out, with their conditions
    call = ["evaluate", run, "--trust", "--reference", tmp_path / "some.npz", "--count", "10", "--metrics", "psnr"]
    assert here(*call, "--json", result).status == 0
    of_some = json.loads(result.read_text())["rows"][0]["values"]["psnr"]
    assert of_some == pytest.approx(expected[10:20].mean(), rel=1e-6)


def test_conditions_that_are_none(here: Callable[..., Any], tmp_path: Path) -> None:
    run, arrays = bridge(tmp_path, here, (2, 16))
    np.savez(tmp_path / "short.npz", image=arrays["image"][..., :8])
    np.savez(tmp_path / "other.npz", pose=arrays["image"])
    np.savez(tmp_path / "two.npz", image=arrays["image"], x=arrays["x"][:3])
    np.savez(tmp_path / "objects.npz", image=np.array([{"a": 1}], dtype=object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "rows.npz").read_bytes()[:500])
    start = ["sample", run, "--trust", "--out", tmp_path / "out"]
    for more, *words in (
        ([], "makes its samples from image (2, 16): give it with --conditions"),
        (["--conditions", tmp_path / "none.npz"], "none.npz doesn't exist"),
        (["--conditions", tmp_path / "short.npz"], "short.npz: the condition image must be float32 (1, 2, 16)"),
        (["--conditions", tmp_path / "other.npz"], "makes its samples from image"),
        (["--conditions", tmp_path / "two.npz"], "every array is (n, …)"),
        (["--conditions", tmp_path / "objects.npz"], "pickled objects are refused"),
        (["--conditions", tmp_path / "cut.npz"], "cut.npz is not a readable .npz"),
        (["--text", "a seven"], "takes no sentences, --text"),
        (["--conditions", tmp_path / "rows.npz", "--format", "png"], "can't be png: choose npz or npy"),
        (["--conditions", tmp_path / "rows.npz", "--size", "32"], "no pictures, and are made in their own size"),
    ):
        done = here(*start, *more)
        assert done.status == 2, (more, done.err)
        assert done.err.count("\n") == 1
        for word in words:
            assert word in done.err, done.err
    assert not (tmp_path / "out").exists()


def test_measured_while_training(tmp_path: Path) -> None:
    """The error against the truth, by the conditions of the data; vectors by their own metric."""
    data = Rows((2, 16), image=(2, 16))
    measured = af.TrainingEvaluation(1, metrics=("mse", "sliced-wasserstein"), count=30)
    trained(
        tmp_path / "run",
        recipe(data, objective=af.MeanFlow(source=af.FromCondition("image")), steps=1),
        evaluation=measured,
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    error = (data.given["image"].double() - data.x.double()).square().mean().item()
    assert rows[-1]["eval/mse_1"] == pytest.approx(error, rel=1e-6)
    trained(tmp_path / "points", recipe(Rows((2,)), steps=1), evaluation=af.TrainingEvaluation(1, count=30))
    assert "eval/sliced-wasserstein_1" in (tmp_path / "points" / "metrics.jsonl").read_text()


def test_what_has_no_truth_is_not_compared_with_one(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", recipe(Rows((2,))))
    values = torch.randn(30, 2)
    with pytest.raises(af.UserError, match="mse compares each sample with its truth, and these have none"):
        af.evaluate(run, af.InMemorySamples(values), metrics=("mse",), count=30)
    with pytest.raises(af.UserError, match="fid is for pictures"):
        af.evaluate(run, af.InMemorySamples(values), metrics=("fid",), count=30)
    with pytest.raises(af.UserError, match="mse compares each sample"):
        af.evaluate(af.InMemorySamples(values[:20]), af.InMemorySamples(values), metrics=("mse",))
    pixels = torch.zeros(30, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(af.UserError, match="the samples are floats, but the reference is 8-bit pictures"):
        af.evaluate(af.InMemorySamples(pixels.float()), af.InMemorySamples(pixels), metrics=("pixel-fd",))
    found = af.evaluate(run, Rows((2,)), count=30).rows[0]
    assert set(found.values) == {"sliced-wasserstein", "energy"}


@pytest.mark.parametrize("form", ["png", "npz"])
def test_memory_does_not_grow_with_the_count(form: Any, tmp_path: Path) -> None:
    """However many there are, no more are held than a picture of the first hundred shows."""
    made: list[Any] = []
    most = 0

    class Samples:
        def __len__(self) -> int:
            return 300

        def __iter__(self) -> Iterator[Tensor]:
            nonlocal most
            for i in range(300):
                sample = torch.full((1, 2, 2), i % 256, dtype=torch.uint8)
                made.append(weakref.ref(sample))
                most = max(most, sum(reference() is not None for reference in made))
                yield sample

    labels = [i % 2 for i in range(300)]
    (sheet,) = write_samples(tmp_path / "out", Samples, labels, ["a", "b"], form)
    assert most <= 102
    with Image.open(sheet) as picture:
        assert picture.size == ((10 * 3 - 1) * 32, (10 * 3 - 1) * 32)
    if form == "npz":
        arrays = np.load(tmp_path / "out" / "samples.npz")
        assert np.array_equal(arrays["arr_0"][:, 0, 0, 0], np.arange(300) % 256)
        assert arrays["arr_1"].tolist() == labels
    else:
        assert len(list((tmp_path / "out" / "b").glob("*.png"))) == 150


def test_a_sentence_needs_its_encoder(tmp_path: Path) -> None:
    """A run that doesn't say how its sentences were encoded, and one that takes none."""
    run = trained(tmp_path / "run", recipe(Rows((3,), tokens=(4, 2)), "tokens"))
    assert run.sample(cond=af.Cond(tokens=torch.zeros(5, 7, 2))).shape == (5, 3)  # of another length
    with pytest.raises(af.UserError, match="doesn't record how its sentences were encoded"):
        text_rows(run, "a seven")
