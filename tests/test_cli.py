"""The command line as its user meets it: each in a process of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import alphaflow as af

Cli = Callable[..., Any]
TINY = ["--width", "32", "--depth", "1", "--batch-size", "32"]


def fails(done: Any, *words: str) -> None:
    """Status 2 and one line on standard error that holds all the words."""
    assert done.status == 2, (done.out, done.err)
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("Error: ")
    for word in words:
        assert word in done.err, done.err


def test_help_starts_without_torch() -> None:
    code = "import sys; sys.argv = ['alphaflow', {}]; from alphaflow.cli.main import main\ntry: main()\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules, 'torch was imported'"
    for arguments in (
        "'--help'",
        "'train', '--help'",
        "'train', 'digits', '--help'",
        "'recipes'",
        "'sample', '--help'",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout or "digits" in done.stdout


def test_help_lists_the_recipes_own_parameters(here: Cli) -> None:
    done = here("train", "digits", "--help")
    assert done.status == 0
    for word in ("--method", "--steps", "2600", "--batch-size", "--resume", "--checkpoint-every", "alpha-flow"):
        assert word in done.out
    assert "--flip" not in done.out
    assert "--flip" in here("train", "cifar10", "--help").out
    assert "Width of the network." in done.out
    for name in ("sample", "evaluate", "recipes"):
        assert here(name, "--help").status == 0
    assert here("--version").out.startswith("alphaflow ")


def test_recipes(here: Cli, tmp_path: Path) -> None:
    listed = here("recipes").out
    assert "digits" in listed
    assert "cifar10" in listed
    source = here("recipes", "show", "digits").out
    assert "def recipe(" in source
    assert here("recipes", "copy", "digits", tmp_path / "mine.py").status == 0
    assert (tmp_path / "mine.py").read_text() == source
    fails(here("recipes", "copy", "digits", tmp_path / "mine.py"), "mine.py exists")
    fails(here("recipes", "show", "digit"), "did you mean digits")


def test_train_sample_evaluate(cli: Cli, small_run: Path, tmp_path: Path) -> None:
    assert (small_run / "recipe.py").read_text() == cli("recipes", "show", "digits").out
    record = json.loads((small_run / "run.json").read_text())
    assert record["recipe"]["arguments"]["steps"] == 12
    picture = Image.open(small_run / "samples" / "step-00000012.png")
    assert picture.size == ((10 * 9 - 1) * 8, (8 * 9 - 1) * 8)

    done = cli("sample", small_run, "--count", "20", "--classes", "3,7", "--nfe", "2", "--out", tmp_path / "s")
    assert done.status == 0, done.err
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".alphaflow.json", "3", "7"]
    assert len(list((tmp_path / "s").rglob("*.png"))) == 20
    assert Image.open(tmp_path / "s.png").size == ((10 * 9 - 1) * 8, (2 * 9 - 1) * 8)

    done = cli("sample", small_run, "--count", "50", "--format", "npz", "--seed", "5", "--out", tmp_path / "n")
    assert done.status == 0, done.err
    with np.load(tmp_path / "n" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (50, 8, 8, 1)
        assert np.bincount(arrays["arr_1"]).tolist() == [5] * 10

    done = cli("evaluate", small_run, "--nfe", "1,3", "--count", "50", "--seed", "5", "--json", tmp_path / "r.json")
    assert done.status == 0, done.err
    assert "ODE(steps=3)" in done.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["nfe"] for row in result["rows"]] == [1, 3, None]
    assert result["reference"]["count"] == 1797
    assert set(result["rows"][0]["values"]) == {"pixel-fd", "pixel-precision", "pixel-recall", "agreement"}

    # the same samples from disk give the same numbers
    digits = af.Digits().all()
    reference = tmp_path / "digits.npz"
    pixels = ((digits.x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(reference, arr_0=pixels, arr_1=digits.cond.labels.numpy())  # type: ignore[union-attr]
    call = ("evaluate", tmp_path / "n" / "samples.npz", "--reference", reference, "--json", tmp_path / "d.json")
    done = cli(*call)
    assert done.status == 0, done.err
    from_disk = json.loads((tmp_path / "d.json").read_text())
    assert from_disk["rows"][0]["values"] == pytest.approx(result["rows"][0]["values"], rel=1e-9)


def test_resume_on_the_command_line(cli: Cli, small_run: Path, tmp_path: Path) -> None:
    """Started with --resume, killed without warning, resumed: the weights of the undisturbed run."""
    place = tmp_path / "run"
    call = ["train", "digits", "--steps", "60", *TINY, "--out", str(place), "--checkpoint-every", "5", "--resume"]
    process = subprocess.Popen([sys.executable, "-m", "alphaflow", *call], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(place.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = sorted(place.glob("checkpoints/step-*"))[-1].name
    done = cli(*call)
    assert done.status == 0, done.err
    assert f"continuing {place} at step" in done.out
    straight = tmp_path / "straight"
    assert cli("train", "digits", "--steps", "60", *TINY, "--out", straight).status == 0
    last = "checkpoints/step-00000060/ema.safetensors"
    ours, theirs = load_file(place / last), load_file(straight / last)
    assert killed_at < "step-00000060"
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(place.rglob(".*.tmp"))
    again = cli(*call)
    assert again.status == 0
    fails(cli(*call[:2], "--steps", "70", *call[4:]), "started with --steps 60, not 70")


def test_wrong_recipes_and_parameters(here: Cli, tmp_path: Path) -> None:
    fails(here("train", "digitz"), "no recipe 'digitz'", "did you mean digits")
    fails(here("train", "nonsense"), "built in are captioned_digits, cifar10, digits")
    fails(here("train", tmp_path / "none.py"), "no recipe file")
    fails(here("train", "digits", "--steps", "many"), "--steps takes a whole number, got 'many'")
    fails(here("train", "digits", "--lr", "-1", "--out", tmp_path / "r"), "learning rate must not be negative")
    fails(here("train", "digits", "--width", "0", "--out", tmp_path / "r"), "at least 1")
    fails(here("train", "digits", "--seed", str(2**70)), "--seed")
    fails(here("train", "digits", "--stepz", "3"), "--stepz", "--steps")
    fails(here("train", "digits", "--method", "gan"), "alpha-flow")
    fails(here("train", "digits", "--steps", "0", "--out", tmp_path / "r"), "at least 1 step")
    fails(here("train", "digits", "--width", "30", "--out", tmp_path / "r"), "multiple of 4")
    fails(here("train", "digits", "--device", "warp", "--out", tmp_path / "r"), "no device 'warp'")
    fails(here("train", "cifar10", "--data", tmp_path / "no.zip"), "no.zip doesn't exist")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def recipe(", ["can't be loaded", "line 1"]),
        ("import nothing_of_this_name", ["can't be loaded", "nothing_of_this_name"]),
        ("x = 1", ["has no function 'recipe'"]),
        ("def recipe(steps: int = 3): ...", ["keyword-only"]),
        ("def recipe(*, steps: int): ...", ["have a default"]),
        ("def recipe(*, steps=3): ...", ["needs a type"]),
        ("def recipe(*, steps: int = 3): return 7", ["must return an af.Recipe, got int"]),
        ("def recipe(*, seed: int = 3): ...", ["can't be called seed"]),
    ],
)
def test_wrong_recipe_files(source: str, words: list[str], here: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source + "\n")
    fails(here("train", tmp_path / "mine.py", "--out", tmp_path / "r"), *words)
    assert not (tmp_path / "r").exists()


OWN = '''"""A network of my own, in a module beside the recipe."""
import alphaflow as af
from own_network import Own

def recipe(*, steps: int = 4, wide: bool = False) -> af.Recipe:
    digits = af.Digits(batch_size=16)
    return af.Recipe(model=Own(64 if wide else 8), objective=af.MeanFlow(), dataset=digits, steps=steps,
                     samplers=(af.ODE(1),))
'''
NETWORK = """
import torch
class Own(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(66, width), torch.nn.Tanh(), torch.nn.Linear(width, 64))
    def forward(self, z, r, t, cond):
        return self.net(torch.cat([z.flatten(1), r[:, None], t[:, None]], 1)).view_as(z)
"""


def test_a_recipe_and_network_of_the_users_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "own_network.py").write_text(NETWORK)
    assert "--wide" in cli("train", "mine.py", "--help", cwd=tmp_path).out
    done = cli("train", "mine.py", "--wide", cwd=tmp_path)
    assert done.status == 0, done.err
    run = tmp_path / "runs" / "mine"
    assert json.loads((run / "run.json").read_text())["model"] is None
    fails(cli("sample", run, "--count", "4", "--out", tmp_path / "s"), "recipe.py would be run", "--trust")
    assert cli("sample", run, "--count", "4", "--out", tmp_path / "s", "--trust").status == 0
    done = cli("train", "mine:recipe", "--out", tmp_path / "by-module", cwd=tmp_path)
    assert done.status == 0, done.err
    assert cli("evaluate", tmp_path / "by-module", "--count", "40", "--trust").status == 0


def test_wrong_runs(here: Cli, small_run: Path, tmp_path: Path) -> None:
    fails(here("sample", tmp_path / "none"), "no such folder")
    fails(here("sample", tmp_path), "holds no run.json")
    fails(here("evaluate", tmp_path / "none"), "none doesn't exist")
    fails(here("evaluate", tmp_path), "give --reference")
    fails(here("sample", small_run, "--nfe", "0"), "at least 1")
    fails(here("sample", small_run, "--classes", "3,10"), "class 10 is out of range", "0 to 9")
    fails(here("sample", small_run, "--classes", "three"), "--classes takes whole numbers")
    fails(here("sample", small_run, "--checkpoint", "7"), "no checkpoint of step 7; it has 6, 12")
    fails(here("evaluate", small_run, "--nfe", "1,0"), "at least 1")
    fails(here("evaluate", small_run, "--nfe", "one"), "--nfe takes whole numbers")
    fails(here("evaluate", small_run, "--metrics", "fif"), "no metric 'fif'")
    fails(here("evaluate", small_run, "--reference", tmp_path), "holds no images")
    fails(here("train", "digits", "--out", small_run), "already holds a run", "--resume")
    broken = tmp_path / "broken"
    shutil.copytree(small_run, broken)
    weights = broken / "checkpoints" / "step-00000012" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    fails(here("sample", broken), "damaged or cut short", "remove the folder")
    shutil.rmtree(weights.parent)
    assert here("sample", broken, "--count", "4").status == 0  # the one before it
    (broken / "run.json").write_text('{"recipe": ')
    fails(here("sample", broken), "run.json is damaged")
    (broken / "run.json").write_text("{}")
    fails(here("sample", broken), "run.json is incomplete")
    fails(here("train", "digits", "--out", broken, "--resume"), "run.json is incomplete")
    for more in ((), ("--overwrite",)):  # a run's folder is no samples'
        done = here("sample", small_run, "--out", broken, *more)
        fails(done, "nothing says that alphaflow wrote", "another --out")
        assert "--overwrite" not in done.err
    assert (broken / "run.json").is_file()


def test_flow_matching_samples_with_a_flow_solver(here: Cli, tmp_path: Path) -> None:
    call = ("train", "digits", "--method", "flow-matching", "--steps", "4", *TINY, "--out", tmp_path / "fm")
    assert here(*call).status == 0
    done = here("sample", tmp_path / "fm", "--nfe", "3", "--count", "4")
    assert done.status == 0
    assert "ODE(steps=3, solver='euler')" in done.out


def test_a_diverging_run_ends_in_one_line_and_saves_nothing_broken(here: Cli, tmp_path: Path) -> None:
    call = (
        "train",
        "digits",
        "--steps",
        "40",
        "--lr",
        "1e30",
        *TINY,
        "--checkpoint-every",
        "2",
        "--out",
        tmp_path / "r",
    )
    fails(here(*call), "the loss is", "lower learning rate")
    assert not list((tmp_path / "r").glob("checkpoints/*"))


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    call = ["train", "digits", "--steps", "2000", *TINY, "--out", str(tmp_path / "r"), "--checkpoint-every", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alphaflow", *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "r").glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped by SIGINT at step" in out
    assert "--resume" in out
    assert not err


def test_a_changed_recipe_is_not_resumed(here: Cli, tmp_path: Path) -> None:
    source = here("recipes", "show", "digits").out
    (tmp_path / "mine.py").write_text(source)
    call = ("train", tmp_path / "mine.py", "--steps", "4", *TINY, "--out", tmp_path / "r", "--resume")
    assert here(*call).status == 0
    (tmp_path / "mine.py").write_text(source.replace("fm_share=0.25", "fm_share=0.5"))
    fails(here(*call), "is not the one", "recipe.py")


def test_flags_may_stand_before_the_recipe(here: Cli, tmp_path: Path) -> None:
    done = here("train", "--steps", "2", "--out", tmp_path / "r", "digits", *TINY)
    assert done.status == 0, done.err
    assert "doesn't exist" in here("train", "--flip", "cifar10", "--data", tmp_path / "no.zip").err


SAYS = """
from pathlib import Path
import alphaflow as af
with open("executed", "a") as file:
    print("once", file=file)
def recipe(*, data: Path = Path("none"), wide: bool = False, note: str = "-") -> af.Recipe:
    raise af.UserError(f"{data} {wide} {note!r}")
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("mine.py", "none False '-'"),
        ("-- mine.py", "none False '-'"),
        ("--wide mine.py", "none True '-'"),
        ("--data digits mine.py", "digits False '-'"),
        ("--data other.py mine.py --no-wide", "other.py False '-'"),
        ("--data=digits --note 3 --out digits mine.py", "digits False '3'"),
        ("mine.py --note=", "none False ''"),
        ("mine.py --data=", "--data is empty"),
        ("mine.py more", "unexpected extra argument"),
        ("--note digits --wid mine.py", "--note is not an option of `alphaflow train` itself"),
        ("--note mine", "put RECIPE first"),
    ],
)
def test_the_recipe_is_found_among_its_options_and_executed_once(
    words: str, says: str, tmp_path: Path, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(SAYS)
    monkeypatch.chdir(tmp_path)
    fails(here("train", *words.split()), says)
    executed = tmp_path / "executed"
    assert (executed.read_text() if executed.exists() else "once\n") == "once\n"


def test_broken_modules(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def recipe(\n")
    fails(cli("train", "broken:recipe", cwd=tmp_path), "can't be imported", "SyntaxError")
    fails(cli("train", "math:sqrt", cwd=tmp_path), "keyword-only")
    fails(cli("train", ":x", cwd=tmp_path), "can't be imported")


def test_the_users_own_picture_is_not_overwritten(here: Cli, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "pics.png").write_text("precious")
    for more in ((), ("--overwrite",)):
        done = here("sample", small_run, "--count", "4", "--out", tmp_path / "pics", *more)
        fails(done, "pics.png exists, and nothing says that alphaflow wrote", "another --out")
    assert (tmp_path / "pics.png").read_text() == "precious"
    assert not (tmp_path / "pics").exists()


def test_the_machines_options_override_the_recipe(here: Callable[..., Any], tmp_path: Path) -> None:
    """--precision, --tf32 and --no-tf32 before or after the recipe's name; what was run is recorded."""
    small = ("--steps", "1", "--width", "16", "--depth", "1", "--batch-size", "4")
    for number, (words, expected) in enumerate(
        [
            (("train", "--no-tf32", "digits", "--precision", "bf16"), ("bf16", False)),
            (("train", "--tf32", "digits"), ("fp32", True)),
            (("train", "digits"), ("fp32", None)),
        ]
    ):
        assert here(*words, *small, "--out", tmp_path / str(number)).status == 0
        setup = json.loads((tmp_path / str(number) / "run.json").read_text())["setup"]
        assert (setup["precision"], setup["tf32"]) == expected


def test_only_what_a_command_wrote_is_replaced(here: Callable[..., Any], small_run: Path, tmp_path: Path) -> None:
    """Samples: the run itself, a file, a folder with a file of somebody's; statistics and results: other files."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(small_run, run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    (tmp_path / "file").write_text("precious")
    for place in (run, run / "checkpoints", tmp_path / "file"):
        fails(here("sample", run, "--count", "2", "--out", place, "--overwrite"), "choose another --out")
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert (tmp_path / "file").read_text() == "precious"

    assert here("sample", run, "--count", "4", "--out", out).status == 0
    fails(here("sample", run, "--count", "4", "--out", out), "earlier samples", "--overwrite")
    assert here("sample", run, "--count", "2", "--out", out, "--overwrite").status == 0
    assert len(list(out.rglob("*.png"))) == 2
    (out / "0" / "mine.txt").write_text("precious")
    fails(here("sample", run, "--count", "2", "--out", out, "--overwrite"), "mine.txt exists", "another --out")
    (out / "0" / "mine.txt").unlink()
    (out / "empty of mine").mkdir()
    fails(here("sample", run, "--count", "2", "--out", out, "--overwrite"), "empty of mine exists")
    (out / "empty of mine").rmdir()
    assert here("sample", run, "--count", "3", "--out", out, "--overwrite").status == 0

    for name in ("stats.npz", "result.json"):
        (tmp_path / name).write_text("{}")
    fails(
        here("stats", out, tmp_path / "stats.npz", "--metrics", "pixel-fd", "--overwrite"),
        "is not a file of statistics",
    )
    fails(here("evaluate", run, "--json", tmp_path / "result.json"), "holds no result of an evaluation")
    assert (tmp_path / "stats.npz").read_text() == (tmp_path / "result.json").read_text() == "{}"


def test_greyscale_folders_measure_like_the_run(here: Cli, small_run: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        assert here("sample", small_run, "--count", "50", "--seed", seed, "--out", tmp_path / seed).status == 0
    call = ("--reference", tmp_path / "2", "--json")
    assert here("evaluate", tmp_path / "1", *call, tmp_path / "folder.json").status == 0
    assert here("evaluate", small_run, "--count", "50", "--seed", "1", *call, tmp_path / "run.json").status == 0
    rows = [json.loads((tmp_path / name).read_text())["rows"][0]["values"] for name in ("folder.json", "run.json")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-9)


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("train", "digitz", "--debug")
    assert done.status != 0
    assert "Traceback" in done.err


def test_samples_of_one_seed_agree_across_calls(small_run: Path) -> None:
    run = af.Run(small_run, device="cpu")
    first = run.sample(30, seed=1)
    assert torch.equal(run.sample(10, seed=1), first[:10])
    assert torch.equal(run.sample(30, seed=1, batch_size=7), first)
    assert not torch.equal(run.sample(30, seed=2), first)
    assert (run.classes, run.shape, run.step) == (10, (1, 8, 8), 12)
    raw = af.Run(small_run, ema=False, device="cpu")
    assert not torch.equal(raw.model.final.out.bias, run.model.final.out.bias)
