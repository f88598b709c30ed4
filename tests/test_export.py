"""Exported runs: folders that open elsewhere, and programs that run without alphaflow."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import alphaflow as af
from alphaflow.seeds import derived
from alphaflow.weights.standalone import export_program

for extra in ("onnx", "onnxruntime", "onnxscript", "diffusers"):
    pytest.importorskip(extra)

ROOT = str(Path(af.__file__).resolve().parent.parent)
NEW, ALL = torch.tensor([3, 7, 3]), torch.arange(-1, 10)


def made(place: Path, model: torch.nn.Module, objective: Any = None, decoder: Any = None, **arrays: Any) -> Path:
    """A run of random weights on samples ``x``, each with its conditions, all in files."""
    place.mkdir()
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    torch.manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    recipe = af.Recipe(
        model=model, objective=objective or af.MeanFlow(), samplers=(af.ODE(1), af.Consistency(2)), steps=1, lr=0.0,
        dataset=af.Arrays(**{name: place / f"{name}.npy" for name in arrays}), autoencoder=decoder or af.Pixels(1),
    )  # fmt: skip
    af.Trainer(recipe, out=place / "run", device="cpu", sample_every=None).fit()
    return place / "run"


def python(code: str, *arguments: str | Path, cwd: Path, **environment: str) -> str:
    """What a process of its own prints; it finds alphaflow."""
    there = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, **environment}
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, cwd=cwd, env=there, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return af.export(af.Run(small_run, device="cpu"), tmp_path_factory.mktemp("exported") / "digits", license="mit")


def test_a_folder_gives_the_runs_samples(small_run: Path, digits: Path) -> None:
    run, pipe = af.Run(small_run, device="cpu"), af.load(digits, device="cpu")
    for seed, steps, labels in ((0, 1, NEW), (1, 2, ALL), (2, 4, NEW[:1]), (3, 3, ALL)):
        expected = run.sample(nfe=steps, labels=labels, seed=seed, dtype=torch.float32)
        assert torch.equal(pipe(labels, steps, seed=seed, dtype=torch.float32).samples, expected)
    assert torch.equal(pipe(count=13, seed=4).samples, run.sample(13, seed=4))
    raw = af.export(af.Run(small_run, step=6, ema=False, device="cpu"), digits.parent / "raw")
    expected = af.Run(small_run, step=6, ema=False, device="cpu").sample(labels=NEW)
    assert torch.equal(af.load(raw, device="cpu")(NEW).samples, expected)
    assert not torch.equal(expected, run.sample(labels=NEW))


def test_the_cards_own_lines_in_another_process(small_run: Path, digits: Path, tmp_path: Path) -> None:
    """From a folder elsewhere, whose run isn't there."""
    moved = shutil.copytree(digits, tmp_path / "elsewhere" / "digits")
    code = re.search(r"```python\n(.*?)```", (moved / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) == 3
    python(f"{code[1]}\nimport numpy as np\nnp.save('found.npy', samples)", cwd=moved.parent)
    found = torch.from_numpy(np.load(moved.parent / "found.npy"))
    assert torch.equal(found, af.Run(small_run, device="cpu").sample(labels=torch.arange(8)))


def test_nothing_of_this_machine(small_run: Path, tmp_path: Path) -> None:
    """Paths of data and start, the working directory and the user stay here."""
    images, labels = np.zeros((8, 1, 4, 4), np.float32), np.arange(8) % 3
    model = af.DiT((1, 4, 4), patch=2, depth=1, width=16, heads=2, classes=3)
    run = made(tmp_path / "mine", model, x=images, labels=labels)
    for number, opened in enumerate((af.Run(run, device="cpu"), af.Run(small_run, device="cpu"))):
        place = af.export(opened, tmp_path / f"out{number}")
        text = (place / "config.json").read_text() + (place / "README.md").read_text()
        for private in (str(tmp_path), str(small_run.parent), str(Path.cwd()), str(Path.home()) + "/", os.uname()[1]):
            assert private not in text
        assert not re.search(rf'"(/|~|[A-Z]:)|\b{getpass.getuser()}/', text)
        config = json.loads((place / "config.json").read_text())
        assert not {"setup", "processes", "extended"} & config.keys()
        assert len({file.stat().st_mode for file in place.iterdir()}) == 1  # whoever may read one may read all


def result(step: int, fid: float) -> str:
    rows = [{"name": "nfe-1", "count": 50_000, "values": {"FID|x": fid}}]
    run = {"checkpoint": step, "weights": "ema", "guidance": {"scale": 2.0, "interval": [0, 1]}}
    about = {"FID|x": "a protocol"}
    reference = {"name": "/home/somebody/reference", "count": 10_000}
    other = {"rounding": "8 bits", "date": "2026-01-02T03:04:05"}
    return json.dumps({"run": run, "rows": rows, "about": about, "reference": reference, **other})


def test_the_card(small_run: Path, digits: Path, tmp_path: Path) -> None:
    _, front, text = (digits / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines() if ": " in line)
    assert (fields["license"], fields["library_name"]) == ("mit", "alphaflow")
    for part in ("12 of 12", "| seed | 0 |", "AlphaFlow(", "DiT(", "Weights: mit", "width=32", "(samples.png)"):
        assert part in text, part
    assert "No evaluation" in text
    with Image.open(digits / "samples.png") as picture:
        picture.load()
        assert min(picture.size) > 8
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    (run / "a.json").write_text(result(12, 3.25))
    (run / "b.json").write_text(result(6, 7.75))
    (run / "c.json").write_text("{")
    card = (af.export(af.Run(run, device="cpu"), tmp_path / "out") / "README.md").read_text()
    assert all(part in card for part in ("3.25", "50,000", "guidance 2 in", "a protocol", "Licence"))
    assert not any(part in card for part in ("7.75", "somebody"))
    with pytest.raises(af.UserError, match="a licence is named by one word"):
        af.export(af.Run(run, device="cpu"), tmp_path / "in", license="mit\nevil: [")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the latents of a small autoencoder, whose folder holds more than it needs."""
    import diffusers

    place = tmp_path_factory.mktemp("latents")
    torch.manual_seed(1)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5, shift_factor=0.25,
    ).save_pretrained(place / "vae")  # fmt: skip
    (place / "vae" / "evil.pt").write_text("")
    (place / "vae" / "evil.py").write_text("raise SystemExit")
    x = np.random.default_rng(0).standard_normal((8, 4, 4, 4), np.float32)
    model = af.DiT((4, 4, 4), patch=2, depth=1, width=16, heads=2, classes=3)
    decoder = af.DiffusersVAE(str(place / "vae"), device="cpu")
    return made(place / "own", model, decoder=decoder, x=x, labels=np.arange(8) % 3)


def test_the_autoencoder_comes_along(latents: Path, tmp_path: Path) -> None:
    run = af.Run(latents, device="cpu")
    expected, vae = run.sample(labels=torch.arange(3), seed=2), latents.parents[1] / "vae"
    af.export(run, tmp_path / "out")
    kept = sorted(file.name for file in (tmp_path / "out" / "autoencoder").iterdir())
    assert kept == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert str(latents.parents[1]) not in (tmp_path / "out" / "config.json").read_text()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    away = vae.rename(vae.with_name("away"))
    try:
        assert torch.equal(af.load(moved, device="cpu")(range(3), seed=2).samples, expected)
        with pytest.raises(af.UserError, match="autoencoder"):  # nobody could decode its samples
            af.export(af.Run(latents, device="cpu"), tmp_path / "half")
        assert not (tmp_path / "half").exists()
    finally:
        away.rename(vae)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_autoencoder_is_not_unpickled(latents: Path, tmp_path: Path) -> None:
    out = af.export(af.Run(latents, device="cpu"), tmp_path / "out")
    network = af.Run(latents, device="cpu").autoencoder.networks()[0]
    (out / "autoencoder" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(network.state_dict(), out / "autoencoder" / "diffusion_pytorch_model.bin")
    with pytest.raises(af.UserError, match="safetensors"):
        af.load(out, device="cpu")([0])


RANDOM = np.random.default_rng(4)
X, LABELS = RANDOM.standard_normal((12, 1, 4, 4), np.float32), np.arange(12) % 3
VECTOR, TOKENS = RANDOM.standard_normal((12, 5), np.float32), RANDOM.standard_normal((12, 6, 3), np.float32)
MASK, IMAGE = np.arange(6) < np.arange(12)[:, None] % 6 + 1, RANDOM.standard_normal((12, 2, 4, 4), np.float32)
DROPPED, SIZES = af.MeanFlow(guidance=af.Guidance(label_drop=0.1)), (1, 2, 7)


@dataclass
class Case:
    """A run of random weights, and what of it becomes a program."""

    options: dict[str, Any]
    data: dict[str, Any]
    nfe: int = 2
    guidance: af.CFG | None = None
    objective: Any = None
    dtype: torch.dtype = torch.float32
    within: float = 1e-5
    decode: bool = True
    latent: bool = False
    formats: tuple[str, ...] = ("pt2", "onnx")
    inputs: list[dict[str, Tensor]] = field(default_factory=list)
    expected: list[Tensor] = field(default_factory=list)

    def run(self, place: Path, latents: Path) -> af.Run:
        if not self.latent:
            model = af.DiT((1, 4, 4), patch=2, depth=1, width=16, heads=2, **self.options)
            latents = made(place, model, self.objective, x=X, **self.data)
        run = af.Run(latents, device="cpu", dtype=self.dtype)
        return run if self.decode else run.undecoded()

    def draw(self, run: af.Run) -> None:
        """Inputs of several sizes and seeds, labels without a class among them, and the run's own samples of them."""
        fresh = isinstance(run.sampler(self.nfe, self.guidance), af.Consistency)
        for count, seed in ((1, 0), (2, 5), (7, 0), (7, 5)):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.stack([torch.randn(run.shape, generator=generator) for _ in range(count)])
            given = {n: torch.from_numpy(a[-count:]) for n, a in self.data.items()}
            if "labels" in given:
                given["labels"] = torch.arange(count) % 4 - 1
            found = run.sample(count, self.nfe, seed=seed, cond=af.Cond(**given), guidance=self.guidance,
                               dtype=torch.float32)  # fmt: skip
            if fresh:
                own = torch.Generator().manual_seed(derived(seed, 0))
                given["fresh"] = torch.randn(count, *run.shape, generator=own)[:, None]
            self.inputs.append({"noise": noise, **given})
            self.expected.append(found)


CLASSES = {"classes": 3}, {"labels": LABELS}
CASES = {
    "labels, 1 step": Case(*CLASSES, nfe=1, formats=("pt2",)),
    "labels, consistency": Case(*CLASSES),
    "nothing, 1 step": Case({}, {}, nfe=1, formats=("pt2",)),
    "vector": Case({"vector": 5}, {"vector": VECTOR}, nfe=1, formats=("pt2",)),
    "tokens": Case({"tokens": 3}, {"tokens": TOKENS, "mask": MASK}, nfe=1),
    "image": Case({"image": 2}, {"image": IMAGE}, nfe=1, formats=("pt2",)),
    "guided in an interval": Case(*CLASSES, 3, af.CFG(2.5, (0.6, 1.0)), DROPPED, formats=("pt2",)),
    "guidance as input": Case({"classes": 3, "guidance": True}, {"labels": LABELS}, 1, af.CFG(3.0, (0.2, 0.7)),
                              af.MeanFlow(guidance=af.GuidanceInputs()), formats=("pt2",)),
    "decoded": Case(*CLASSES, nfe=1, latent=True),
    "not decoded": Case(*CLASSES, latent=True, decode=False, formats=("pt2",)),
    "fp16": Case(*CLASSES, dtype=torch.float16, within=5e-3),
    "bf16": Case(*CLASSES, dtype=torch.bfloat16, within=2e-2, formats=("pt2",)),
}  # fmt: skip

WITHOUT_ALPHAFLOW = """
import json, sys
sys.modules["alphaflow"] = None
import numpy as np
def run(jobs, call):
    for inputs, out in jobs:
        given = np.load(inputs)
        np.save(out, call([given[name] for name in json.loads(str(given["names"]))]))
for file, jobs in json.load(open(sys.argv[1])):
    if file.endswith(".pt2"):
        import torch
        program = torch.export.load(file).module()
        run(jobs, lambda given: program(*map(torch.from_numpy, given)).float().numpy())
    else:
        import onnxruntime
        session = onnxruntime.InferenceSession(file)
        names = [each.name for each in session.get_inputs()]
        run(jobs, lambda given: session.run(["samples"], dict(zip(names, given, strict=True)))[0])
        assert "torch" not in sys.modules
assert sys.modules["alphaflow"] is None
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, latents: Path) -> dict[tuple[str, str], Any]:
    """Each case's samples by its program in one of two further processes; or why it couldn't be exported."""
    place = tmp_path_factory.mktemp("programs")
    found: dict[tuple[str, str], Any] = {}
    for kind in ("pt2", "onnx"):
        jobs = []
        for number, (name, case) in enumerate(CASES.items()):
            if kind not in case.formats:
                continue
            there = place / f"{number}"
            run = case.run(there if kind == "pt2" else place / f"{number}-{kind}", latents)
            if not case.inputs:
                case.draw(run)
                for i, given in enumerate(case.inputs):
                    arrays = {n: tensor.numpy() for n, tensor in given.items()}
                    np.savez(place / f"{number}-{i}.npz", names=json.dumps(list(given)), **arrays)
            try:
                file, _ = export_program(run, place / f"{number}.{kind}", nfe=case.nfe, guidance=case.guidance)
            except af.UserError as error:
                found[name, kind] = error
                continue
            outs = [place / f"{number}-{i}-{kind}.npy" for i in range(len(case.inputs))]
            pairs = [(str(place / f"{number}-{i}.npz"), str(out)) for i, out in enumerate(outs)]
            jobs.append((str(file), pairs))
            found[name, kind] = outs
        (place / f"{kind}.json").write_text(json.dumps(jobs))
        python(WITHOUT_ALPHAFLOW, place / f"{kind}.json", cwd=place)
    assert not list(place.rglob("*.tmp"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, case in CASES.items() for kind in case.formats])
def test_programs_in_a_process_without_alphaflow(name: str, kind: str, programs: Any) -> None:
    case, outs = CASES[name], programs[name, kind]
    if isinstance(outs, Exception):
        raise outs
    for out, expected in zip(outs, case.expected, strict=True):
        found = torch.from_numpy(np.load(out))
        assert found.shape == expected.shape
        assert float((found - expected).norm() / expected.norm()) < case.within


class Own(af.Network):
    """A network of the user's own, which may be exported as another than it is."""

    def __init__(self, off: str = "") -> None:
        super().__init__()
        self.w, self.off = torch.nn.Parameter(torch.tensor(0.5)), off

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        u = self.w * z
        if self.off and torch.compiler.is_exporting():
            second = torch.cumsum(torch.ones_like(t), 0) == 2
            return torch.where(second[:, None, None, None], float(self.off), u)
        return u


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """It is a program, and no folder; one that computes something else is refused, NaN among it."""
    own = made(tmp_path / "own", Own(), x=X)
    with pytest.raises(af.UserError, match="the user's own"):
        af.export(af.Run(own, model=Own(), device="cpu"), tmp_path / "folder")
    for name in ("own.pt2", "own.onnx"):
        assert export_program(af.Run(own, model=Own(), device="cpu"), tmp_path / name, nfe=2)[1] < 1e-6
    for off in ("0.1", "nan"):
        with pytest.raises(af.UserError, match=r"not right: .* by (\d\.\de[+-]\d\d|nan)"):
            export_program(af.Run(own, model=Own(off), device="cpu"), tmp_path / "wrong.pt2", nfe=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "own.onnx", "own.pt2"]
