"""Shared by all tests: one thread (same seed, same bits), the real data's place, and a Gaussian with a closed form."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.files import sha256

ROOT = Path(__file__).resolve().parent.parent
PATH = str(Path(af.__file__).resolve().parent.parent)
"""Where the tested alphaflow stands, installed or in a checkout: child processes use the same."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_data() -> Path:
    place = Path(os.environ.get("ALPHAFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no real data at {place}; set ALPHAFLOW_TEST_DATA")
    return place


@dataclass
class Gaussian:
    """Data x ~ N(m, diag(S)): velocity, flow and mean velocity in closed form, linear in z."""

    m: Tensor
    S: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.m + self.S.sqrt() * torch.randn(n, len(self.m), dtype=self.m.dtype, generator=generator)

    def variance(self, t: Tensor) -> Tensor:
        """Of z_t: (1−t)²S + t²."""
        return (1 - t)[:, None] ** 2 * self.S + t[:, None] ** 2

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """E[ε − x | z_t]."""
        centred = z - (1 - t)[:, None] * self.m
        return (t[:, None] - (1 - t)[:, None] * self.S) / self.variance(t) * centred - self.m

    def flow(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """z_r on the trajectory through z at t: z_t standardised, at the scale and mean of time r."""
        standard = (z - (1 - t)[:, None] * self.m) / self.variance(t).sqrt()
        return (1 - r)[:, None] * self.m + self.variance(r).sqrt() * standard

    def u(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond | None = None) -> Tensor:
        """The mean velocity (z_t − z_r)/(t − r), the velocity at r = t."""
        gap = (t - r)[:, None]
        safe = torch.where(gap == 0, 1.0, gap)
        return torch.where(gap == 0, self.velocity(z, t), (z - self.flow(z, r, t)) / safe)


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian(
        torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), torch.tensor([0.3, 0.05, 1.5], dtype=torch.float64)
    )


class Smooth(torch.nn.Module):
    """A small smooth network that knows nothing of images, float64: any trailing shape of ``size`` elements."""

    def __init__(self, size: int, classes: int = 0, hidden: int = 16) -> None:
        super().__init__()
        self.classes = classes
        self.inner = torch.nn.Linear(size + 2 + classes + 1, hidden, dtype=torch.float64)
        self.outer = torch.nn.Linear(hidden, size, dtype=torch.float64)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        index = cond.class_index(self.classes, z.shape[0], z.device)
        onehot = torch.nn.functional.one_hot(index, self.classes + 1).to(z.dtype)
        features = torch.cat([z.flatten(1), r[:, None], t[:, None], onehot], dim=1)
        return self.outer(torch.tanh(self.inner(features))).view_as(z)


@pytest.fixture
def smooth() -> type[Smooth]:
    return Smooth


@pytest.fixture
def batch() -> tuple[Tensor, af.Cond]:
    """Eight samples (2, 3) of four classes, float64, which objectives are compared with their references on."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 2, 3, dtype=torch.float64, generator=generator)
    return x, af.Cond(labels=torch.randint(4, (8,), generator=generator))


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    """All parameter gradients of a loss, as one vector."""
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in found])


@pytest.fixture
def grad() -> object:
    return gradient


@dataclass
class Done:
    """A finished command: its exit status and what it printed."""

    status: int
    out: str
    err: str


def command(*arguments: str | Path, cwd: Path | None = None, threads: int = 1) -> Done:
    """Runs `python -m alphaflow` in a process of its own, without a terminal."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": PATH}
    if cwd is None:
        environment["PYTHONSAFEPATH"] = "1"  # nothing is imported from the folder of all temporary files
    call = [sys.executable, "-m", "alphaflow", *map(str, arguments)]
    done = subprocess.run(
        call,
        capture_output=True,
        text=True,
        cwd=cwd or tempfile.gettempdir(),
        env=environment,
        timeout=600,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    return command


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Starts a script, or ``-m alphaflow …``, in several processes of one thread."""

    def start(count: int, *arguments: str | Path, restarts: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
        call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        call += ["--max-restarts", str(restarts), *map(str, arguments)]
        return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=240, check=False)

    return start


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Done]:
    """The command line in this process: no second import of torch."""
    from alphaflow.cli.main import main

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))  # Python imports from where one is

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["alphaflow", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call


TINY = {"steps": 12, "width": 32, "depth": 1, "batch-size": 32, "log-every": 4, "checkpoint-every": 6}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits run of 12 steps with a tiny network, trained by the command line. Not to be changed: copy it."""
    place = tmp_path_factory.mktemp("small") / "run"
    options = [f"--{name}={value}" for name, value in TINY.items()]
    done = command("train", "digits", *options, "--out", place)
    assert done.status == 0, done.err
    return place


def random_weights(network: torch.nn.Module) -> torch.nn.Module:
    """He-normal convolutions, and batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("running_var") or (name.endswith("weight") and ".bn" in name):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias") or name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
    return network


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception v3 with random weights, in a file of the published form."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    place = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(random_weights(network).state_dict(), place)
    return place


@pytest.fixture
def randomised() -> Callable[[torch.nn.Module], torch.nn.Module]:
    return random_weights


@pytest.fixture(scope="session")
def own() -> Callable[[Path], str]:
    """A file of weights as `--weights` takes it: with its SHA-256, since it isn't the published one."""
    return lambda file: f"{file}#{sha256(file)}"


@pytest.fixture(scope="session")
def rows() -> Callable[..., dict[str, float]]:
    """The values of one set against a reference."""

    def measure(target: object, reference: object, *metrics: str, **options: object) -> dict[str, float]:
        result = af.evaluate(target, reference, metrics=metrics, device="cpu", **options)  # type: ignore[arg-type]
        return result.rows[0].values

    return measure
