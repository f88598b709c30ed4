"""Several processes: the single process's gradient, the same recipe, deaths, and another number of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alphaflow as af
from alphaflow.parallel.world import World

Torchrun = Callable[..., Any]
WORKERS = Path(__file__).parent / "workers"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torchrun and gloo are tested on Linux")


def weights(run: Path, step: int = 24) -> dict[str, torch.Tensor]:
    place = run / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file}/{name}": tensor
        for file in ("model", "ema")
        for name, tensor in load_file(place / f"{file}.safetensors").items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "modes"), [(2, ["ddp", "fsdp", "ddp/2"]), (4, ["fsdp/2", "hybrid"])])
def test_gradients_of_many_processes_are_those_of_one(torchrun: Torchrun, count: int, modes: list[str]) -> None:
    """Every objective, JVP branches and guidance included, whole and split networks, accumulated or not; float64."""
    done = torchrun(count, WORKERS / "gradients.py", *modes)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 20 * len(modes)
    for _, mode, name, error in lines:
        assert float(error) < 1e-10, (mode, name, error)


@pytest.fixture(scope="module")
def undisturbed(torchrun: Torchrun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, whole networks, 24 steps."""
    place = tmp_path_factory.mktemp("two")
    (place / "mark").touch()  # nobody dies
    done = torchrun(2, *command(place, place / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "run"


def command(place: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "alphaflow", "train", str(WORKERS / "falling.py"), "--mark", str(place / "mark"), "--out", str(out),
            "--checkpoint-every", "5", "--log-every", "6", *more]  # fmt: skip


@pytest.mark.slow
def test_a_process_that_dies_is_restarted_and_the_run_goes_on_bit_for_bit(
    torchrun: Torchrun, undisturbed: Path, tmp_path: Path
) -> None:
    done = torchrun(2, *command(tmp_path, tmp_path / "run"), restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "mark").exists()
    assert "continuing" in done.stdout
    assert same(weights(tmp_path / "run"), weights(undisturbed))
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [6, 12, 18, 24]


@pytest.mark.slow
def test_a_process_that_dies_takes_the_job_down_and_fewer_go_on(
    torchrun: Torchrun, undisturbed: Path, tmp_path: Path
) -> None:
    """Within a minute, the signal is named; one process goes on from what two saved."""
    before = time.perf_counter()
    done = torchrun(2, *command(tmp_path, tmp_path / "run"))
    assert time.perf_counter() - before < 60
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert "rank      : 1" in done.stderr
    made = af.find_recipe(str(WORKERS / "falling.py"))(mark=tmp_path / "mark")
    trainer = af.Trainer(made, out=tmp_path / "run", resume=True, device="cpu")
    assert trainer.step in (5, 10)
    data = made.dataset
    assert isinstance(data, af.IndexedDataset)
    assert data.state_dict()["position"] == trainer.step * 32
    trainer.fit()
    assert trainer.step == 24
    assert weights(tmp_path / "run").keys() == weights(undisturbed).keys()


@pytest.mark.slow
def test_split_networks_are_the_same_run(torchrun: Torchrun, undisturbed: Path, tmp_path: Path) -> None:
    """FSDP takes the steps of DDP, up to rounding; what it saved, whole networks go on from."""
    (tmp_path / "mark").touch()
    done = torchrun(2, *command(tmp_path, tmp_path / "run", "--parallel", "fsdp"))
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = weights(tmp_path / "run"), weights(undisturbed)
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-3) for name in theirs)
    records = [json.loads((run / "run.json").read_text()) for run in (tmp_path / "run", undisturbed)]
    assert records[0]["model"] == records[1]["model"] is not None  # so that it is opened without its recipe
    (tmp_path / "run" / "checkpoints" / "step-00000024" / "state.json").unlink()
    done = torchrun(2, *command(tmp_path, tmp_path / "run", "--resume"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the one before it is used" in done.stdout
    assert "continuing" in done.stdout
    assert all(torch.allclose(weights(tmp_path / "run")[name], theirs[name], atol=2e-3) for name in theirs)


@pytest.mark.slow
def test_errors_of_one_process_end_all(torchrun: Torchrun, undisturbed: Path, tmp_path: Path) -> None:
    done = torchrun(2, *command(undisturbed.parent, undisturbed))  # it is there already
    assert done.returncode != 0
    assert "already holds a run" in done.stderr
    done = torchrun(3, *command(undisturbed.parent, tmp_path / "run"))
    assert "a batch of 32 can't be shared out among 3 processes evenly" in done.stderr


def test_batches_are_shared_out() -> None:
    """By a dataset's own ``share``, or cut from whole batches; together they are the whole batch."""

    class Plain:
        """A dataset of a user's own."""

        def __init__(self) -> None:
            self.inner = af.Digits(batch_size=12, seed=3)

        def __iter__(self) -> Any:
            return iter(self.inner)

    whole = next(iter(af.Digits(batch_size=12, seed=3)))
    for make in (lambda: af.Digits(batch_size=12, seed=3), Plain):
        parts = []
        for rank in range(3):
            parts.append(next(iter(af.Dataset.of(make()).share(rank, 3))))
        rows = torch.stack([part.x for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(rows, whole.x)
    shared = af.Digits(batch_size=12, seed=3)
    shared.share(1, 3)
    shared.share(1, 3)  # a second Trainer
    assert shared.batch_size == 4
    with pytest.raises(af.UserError, match="evenly"):
        af.Digits(batch_size=10, seed=3).share(0, 3)


def test_seeds_of_processes_differ() -> None:
    seeds = [World(rank, 4).seed(5) for rank in range(4)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 4


def test_what_goes_wrong_in_one_process_is_raised_in_all(torchrun: Torchrun) -> None:
    """Whatever it is, and nobody waits: there itself, elsewhere as one line of a user's."""
    done = torchrun(2, WORKERS / "failing.py")
    assert done.returncode == 0, done.stderr
    full, torn = "[Errno 28] No space left on device: 'run.json'", "[Errno 5] Input/output error: 'picture 7'"
    assert sorted(done.stdout.splitlines()) == sorted(
        [
            f"0 full: OSError: {full}", f"1 full: UserError: OSError: {full}",
            "0 wrong: UserError: no such thing", "1 wrong: UserError: no such thing",
            "0 bug: KeyError: 'x'", "1 bug: UserError: KeyError: 'x'",
            "0 end: SystemExit: 3", "1 end: UserError: SystemExit: 3",
            f"0 torn: UserError: OSError: {torn}", f"1 torn: OSError: {torn}",
            "0 all: [1, 2]", "1 all: [1, 2]",
        ]
    )  # fmt: skip
