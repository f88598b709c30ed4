"""What is said of wrong words on the command line: one line that names the option, the value, and a way out."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from alphaflow.cli.flags import RUNNING, as_flags
from alphaflow.cli.main import build
from PIL import Image

import alphaflow as af
from alphaflow.errors import _is_users, place_in_users_code, printable, reason, said

Here = Callable[..., Any]

RAISES = """import alphaflow as af
class Burning(af.Digits):
    count = 0
    def fetch(self, indices, generator=None):
        Burning.count += 1
        if Burning.count > 2:
            raise {error}
        return super().fetch(indices, generator)
def recipe(*, steps: int = 6) -> af.Recipe:
    model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10)
    data = Burning(batch_size=8)
    return af.Recipe(model=model, objective=af.FlowMatching(), dataset=data, steps=steps, samplers=(af.ODE(1),))
"""


def said_of(here: Here, *words: str | Path) -> str:
    done = here(*words)
    assert done.status == 2, (words, done.out)
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1, done.err
    assert "\x1b" not in done.err
    return str(done.err)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("train digits --steps ten", ["--steps takes a whole number, got 'ten'", "`alphaflow train digits --help`"]),
        ("train digits --steps=2.5", ["got '2.5'"]),
        ("train digits --lr fast", ["--lr takes a number, got 'fast'"]),
        ("train digits --steps 0", ["needs at least 1 step, got steps=0"]),
        ("train digits --steps", ["--steps needs a value", "train digits --help"]),
        ("train digits --resume=1", ["--resume takes no value", "train digits --help"]),
        ("encode images pictures", ["OUT is missing", "`alphaflow encode images --help`"]),
        ("train digits --method meanflow", ["got 'meanflow': did you mean mean-flow?"]),
        ("train digits --method ALPHA-FLOW", ["did you mean alpha-flow?"]),
        ("train digits --step 3", ["no option --step; did you mean --steps?"]),
        ("train digits --keep-last 0", ["--keep-last must be at least 1, got '0'"]),
        ("train digits --log-every 0", ["--log-every must be at least 1, got '0'"]),
        ("train digits --checkpoint-every -1", ["--checkpoint-every must be at least 1"]),
        ("train DIGITS", ["did you mean digits"]),
        ("train .", ["is a folder"]),
        ("train nothing.py", ["there is no recipe file nothing.py"]),
        ("train nowhere:recipe", ["No module named 'nowhere'", "PYTHONPATH", "pip install nowhere"]),
        ("recipes show ../cli/main", ["there is no recipe '../cli/main'"]),
        ("train digits --depth 1000000000000000000000000000000", ["at most 65,536"]),
        ("train digits --device meta", ["no device 'meta'"]),
        ("trian digits", ["there is no command trian; did you mean train?", "`alphaflow --help`"]),
        ("train digits --seed -1", ["--seed must be at least 0, got '-1'"]),
        ("sample nothing", ["there is no such folder"]),
        ("evaluate digits --reference digits --metrics PIXEL_fdd", ["no metric 'pixel-fdd'; did you mean pixel-fd?"]),
        ("evaluate digits --reference digits --metrics fvd", ["fvd is for clips, but these are pictures"]),
        ("evaluate digits --reference digits --weights foo=x", ["--weights names foo, which is not an extractor"]),
        ("evaluate digits --nfe 1,1", ["--nfe takes different numbers of at least 1, got 1,1"]),
        ("encode videos . out --fps nan", ["--fps must be positive, got nan"]),
    ],
)
def test_wrong_words(words: str, parts: list[str], here: Here) -> None:
    found = said_of(here, *words.split())
    for part in parts:
        assert part in found, found


def test_empty_words_and_the_home_folder(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["train", "digits", "--out", ""], ["train", "digits", "--out="], ["sample", " "]):
        assert "is empty; give a value, or leave it out" in said_of(here, *words)
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["recipes", "copy", "digits", "~/a.py"], ["recipes", "copy", "digits", "~/b"]):
        assert here(*words).status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.py", "b"}
    assert f"{tmp_path}/c is not a run" in said_of(here, "sample", "~/c")
    assert f"{tmp_path}/none.py" in said_of(here, "train", "~/none.py")
    assert str(tmp_path / "gone") in said_of(here, "train", "digits", "--dry-run", "--from=~/gone")


@pytest.mark.parametrize(
    ("words", "text", "shown"),
    [
        ("sample", "try `nfe=2`", "try --nfe 2"),
        ("sample", "use `overwrite=True` or another `out=`", "use --overwrite or another --out"),
        ("sample", "`step=7`, `balanced=False`, `run=`", "--checkpoint 7, --random, RUN"),
        ("sample", "`def recipe(*, nfe: int = 1)` and `steps=7`", "`def recipe(*, nfe: int = 1)` and `steps=7`"),
        ("evaluate", "`weights={'i3d': 'FILE'}`, `nfes=(1, 2)`", "--weights i3d=FILE, --nfe 1,2"),
        ("train", '`start=` with `device="cpu"`, `tf32=False`', "--from with --device cpu, --no-tf32"),
        ("train", "`width=32` but `size=8`", "--width 32 but `size=8`"),
        ("encode videos", "`folder=PLACE`, `shards=`, `shard=`", "--clips-folder PLACE, --shard, --shard"),
        ("", "try `nfe=2`", "try `nfe=2`"),
    ],
)
def test_the_librarys_parameters_are_shown_as_flags(
    words: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Any = typer.main.get_command(build())
    for word in words.split():
        command = command.commands[word]
    command = command.with_recipe("digits") if words == "train" else command
    monkeypatch.setattr(RUNNING, "context", SimpleNamespace(command=command) if words else None)
    assert as_flags(text) == shown


def test_the_library_names_its_own_parameters() -> None:
    """No text outside docstrings has a flag; each `` `name=` `` is a parameter of the library's or a class's field."""
    root = Path(__file__).parent.parent
    trees = {
        file: ast.parse(file.read_text(encoding="utf-8"))
        for top in ("alphaflow", "data_tools")
        for file in (root / top).rglob("*.py")
    }
    parameters, texts = set[str](), list[tuple[Path, str]]()
    for file, tree in trees.items():
        docstrings = set[int]()
        for node in ast.walk(tree):
            if isinstance(node, ast.arguments):
                parameters |= {argument.arg for argument in (*node.posonlyargs, *node.args, *node.kwonlyargs)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                parameters.add(node.target.id)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docstrings.add(id(node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "0" for part in node.values]
                texts.append((file, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                texts.append((file, node.value))
    assert not [(file.name, text) for file, text in texts if re.search(r"--[a-z]|`(alphaflow|train|encode) ", text)]
    named = {(file.name, name) for file, text in texts for name in re.findall(r"`(\w+)=[^`]*`", text)}
    assert ("device.py", "device") in named
    assert not {(file, name) for file, name in named if name not in {*parameters, "0"}}


def test_help_is_found(here: Here) -> None:
    for words in (["help"], ["-h"], ["help", "train"], ["train", "digits", "-h"], ["recipes", "list"]):
        done = here(*words)
        assert (done.status, done.err) == (0, ""), words
    assert "--steps" in here("help", "train", "digits").out
    assert "Traceback" not in here("--debug", "recipes").err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def recipe(:\n", ["can't be loaded", "mine.py, line 1", "SyntaxError"]),
        ("import sklearnx.foo\n", ["mine.py, line 1", "pip install sklearnx"]),
        ("import PILx\nx = Path('a')\n", ["mine.py, line 1", "pip install PILx"]),
        ("x = 1\ny = Path('a')\n", ["mine.py, line 2", "NameError"]),
        ("def recip(): pass\n", ["no function 'recipe'; did you mean recip?"]),
        (
            "import alphaflow as af\ndef recipe() -> af.Recipe:\n    return {}['big']\n",
            ["mine.py, line 3", "KeyError: 'big'"],
        ),
        ("import alphaflow as af\ndef recipe() -> af.Recipe: pass\n", ["must return an af.Recipe, got NoneType"]),
        ("def recipe(*, help: int = 1): pass\n", ["can't be called help"]),
        ("import alphaflow as af\ndef recipe() -> af.Recipe:\n    return af.DiT((1, 8, 8), patch=3)\n", ["line 3"]),
    ],
)
def test_recipes_that_fail_name_file_and_line(text: str, parts: list[str], here: Here, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    found = said_of(here, "train", file, "--dry-run")
    for part in parts:
        assert part in found, found


def test_a_folder_of_a_recipes_name_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    call = [sys.executable, "-m", "alphaflow", "train", "digits", "--dry-run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(af.__file__).parent.parent)}
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_functions_of_one_file_are_different_recipes(here: Here, tmp_path: Path) -> None:
    text = RAISES.format(error="KeyError").replace("count > 2", "count > 99")
    more = "def other(*, steps: int = 6) -> af.Recipe:\n    return recipe(steps=steps)\n"
    (tmp_path / "mine.py").write_text(text + more)
    call = ("train", "--out", tmp_path / "run", "--steps", "2")
    assert here(*call, tmp_path / "mine.py").status == 0
    assert "not other" in said_of(here, *call, f"{tmp_path / 'mine.py'}:other", "--resume")


def test_a_recipe_is_found_where_it_lies(here: Here, tmp_path: Path) -> None:
    text = RAISES.format(error="KeyError").replace("count > 2", "count > 99")
    for name in ("named", "mine.py"):
        (tmp_path / name).write_text(text.replace("def recipe", "def other") + "recipe = other\n")
    found = said_of(here, "train", tmp_path / "mine.py:othr", "--dry-run")
    assert "did you mean other?" in found
    for spec in (tmp_path / "named", tmp_path / "mine.py", f"{tmp_path / 'mine.py'}:other"):
        assert here("train", spec, "--dry-run").status == 0, spec
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    assert "bytes.py is not a recipe: it isn't text in UTF-8" in said_of(here, "train", tmp_path / "bytes.py")


@pytest.mark.parametrize(
    "error", ["RuntimeError('disk on fire')", "KeyError('x')", "ValueError('no')", "OSError(5, 'x')"]
)
def test_what_fails_in_training_names_the_users_line(error: str, here: Here, tmp_path: Path) -> None:
    """And the whole traceback stands in the run's folder; what was saved goes on."""
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(RAISES.format(error=error))
    found = said_of(here, "train", file, "--out", run, "--checkpoint-every", "1")
    assert f"{file}, line 7: " in found
    assert "--debug" in found
    assert "Traceback" in (run / "error.txt").read_text()
    assert "mine.py" in (run / "error.txt").read_text()
    file.write_text(RAISES.format(error=error).replace("count > 2", "count > 99"))
    assert "restore it" in said_of(here, "train", file, "--out", run, "--resume")


def test_faults_of_ours_keep_their_traceback(tmp_path: Path) -> None:
    """No line of the user's in it: the whole of it is shown, and kept."""
    code = (
        "import sys, alphaflow as af, alphaflow.training.engine as e\n"
        "e.Engine.norm = lambda self: 1 / 0\n"
        f"sys.argv = ['alphaflow', 'train', 'digits', '--steps', '2', '--out', {str(tmp_path / 'run')!r}]\n"
        "from alphaflow.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (tmp_path / "run" / "error.txt").read_text()


def test_streams_that_are_closed(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "alphaflow", "train", "digits", "--steps", "2", "--out", tmp_path / "run"]
    words = " ".join(map(str, call))
    done = subprocess.run(["sh", "-c", f"{words} >&- 2>&-"], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0
    assert af.Run(tmp_path / "run", device="cpu").step == 2


def test_names_from_files_are_written_out(here: Here, tmp_path: Path) -> None:
    name = "a\x1b[31mb\nc"
    assert printable(name) == "a\\x1b[31mb\\nc"
    assert printable("α-Flow × 2") == "α-Flow × 2"
    assert "a\\x1b[31mb\\nc is not a run" in said_of(here, "sample", name)


def test_where_an_error_is_the_users(tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text("def call(f):\n    return f()\n")
    scope: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    with pytest.raises(TypeError) as raised:
        scope["call"](torch.zeros)  # the last line that a user has to do with
    assert place_in_users_code(raised.value) == f"{file}, line 2"
    for path in (torch.__file__, json.__file__, af.__file__, "/home/x/.local/lib/python3.12/site-packages/pack/a.py",
                 "/usr/lib/python3/dist-packages/yaml.py", "<string>"):  # fmt: skip
        assert not _is_users(path), path
    (tmp_path / "linked").symlink_to(Path(torch.__file__).parent)
    assert not _is_users(str(tmp_path / "linked" / "functional.py"))
    assert _is_users(str(file))
    with pytest.raises(af.UserError) as ours:
        af.Run(tmp_path / "none")
    assert said(ours.value) == str(ours.value)
    assert said(KeyError("x")) == "KeyError: 'x'"
    assert said(OSError()) == "OSError"
    assert reason(OSError(2, "No such file", "x")) == "No such file"
    assert [reason(ValueError(text)) for text in ("a\n  b", "")] == ["a b", "ValueError"]


def test_results_that_cant_be_written_are_refused_before_they_are_measured(
    small_run: Path, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    of_run = ("evaluate", small_run, "--count", "100000000", "--metrics", "pixel-fd")
    for words in (["--csv", "folder"], ["--json", "file/x.json"], ["--pictures", "file"], ["--save", "file/x"]):
        start = time.monotonic()
        assert "folder" in said_of(here, *of_run, words[0], tmp_path / words[1])
        assert time.monotonic() - start < 30
    assert "no folder" in said_of(here, "diagnose", small_run, "--out", tmp_path / "file")
    assert "at most 4,096" in said_of(here, "sample", small_run, "--nfe", "100000000000")
    assert "--count, --raw can only be given for runs" in said_of(
        here, "evaluate", tmp_path / "folder", "--reference", "digits", "--count", "3", "--raw"
    )
    assert "--size can only be given for files" in said_of(here, *of_run[:2], "--size", "4")
    assert "no checkpoint of step 7; it has 6, 12; the nearest is 6" in said_of(
        here, "sample", small_run, "--checkpoint", "7"
    )
    assert "leave --random out" in said_of(here, "sample", small_run, "--classes", "1", "--random")
    assert "it lies in one" in said_of(here, "sample", small_run / "checkpoints")
    assert f"give its recipe, with --out {small_run} and --resume;" in said_of(here, "train", small_run)


def test_pictures_and_reports_of_others_are_left_alone(small_run: Path, here: Here, tmp_path: Path) -> None:
    """Those of ours are replaced: a PNG and an MP4 say so themselves, a plot by the diagnosis beside it."""
    from alphaflow.media.clips import is_our_mp4, write_mp4
    from alphaflow.media.grids import is_our_picture

    Image.new("RGB", (8, 8)).save(tmp_path / "nfe-1.png")
    (tmp_path / "diagnosis.json").write_text("[1]")
    (tmp_path / "own.mp4").write_bytes(b"mine")
    of_run = ("evaluate", small_run, "--count", "50", "--metrics", "pixel-fd")
    assert "nfe-1.png exists, and nothing says" in said_of(here, *of_run, "--pictures", tmp_path)
    assert "diagnosis.json exists" in said_of(here, "diagnose", small_run, "--batches", "1", "--out", tmp_path)
    encoding = ("encode", "images", tmp_path, tmp_path / "out", "--autoencoder", "nope")
    assert "no such folder, and the Hub's are named OWNER/NAME" in said_of(here, *encoding)
    assert "own.mp4 exists" in said_of(here, "preview", tmp_path, "--out", tmp_path / "own.mp4")
    assert (tmp_path / "own.mp4").read_bytes() == b"mine"
    for _ in range(2):
        assert here(*of_run, "--pictures", tmp_path / "figures").status == 0
        assert here("diagnose", small_run, "--batches", "1", "--out", tmp_path / "found").status == 0
    assert is_our_picture(tmp_path / "figures" / "nfe-1.png")
    write_mp4(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), tmp_path / "ours.mp4", 8)
    assert is_our_mp4(tmp_path / "ours.mp4")
    assert not is_our_mp4(tmp_path / "own.mp4")


def test_samples_never_replace_the_folder_one_is_in(
    small_run: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alphaflow.media.sample_files import write_samples

    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path, tmp_path.parent, Path("/")):
        with pytest.raises(af.UserError, match="the folder that you are in, or above it"):
            write_samples(place, lambda: torch.zeros(1, 1, 8, 8, dtype=torch.uint8), None, [])
