"""What the README and the docs say works: every command is one that exists, every Python block runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks("sh", page.read_text()) for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


def test_the_two_commands_stand_first() -> None:
    first, second = blocks("sh", README)[:2]
    assert first.strip() == "pip install . && alphaflow train digits"
    assert second.strip() == "pip install nox && nox -s tests"
    assert "nox -s lint tests types" in (ROOT / ".ci" / "run").read_text()


def test_every_command_is_known() -> None:
    """Nothing in the docs but pip, nox sessions that exist, benchmarks that exist, and alphaflow."""
    sessions = set(re.findall(r"@nox\.session.*?\ndef (\w+)", (ROOT / "noxfile.py").read_text()))
    assert {"tests", "lint", "types", "bench"} <= sessions
    for line in commands():
        words = shlex.split(line)
        if words[0] == "nox":
            assert set(words[2:]) <= sessions, line
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
        elif words[0] == "torchrun":
            assert " -m alphaflow train imagenet256 " in line
        else:
            assert words[0] in ("alphaflow", "pip"), line


@pytest.mark.slow
def test_the_readmes_alphaflow_commands_run(
    here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in an empty folder, with fewer steps and a folder of pictures called photos.zip."""
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "photos"
    for name in ("cat", "dog"):
        (pictures / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 36), (i * 40, 10, 200)).save(pictures / name / f"{i}.jpg")
    call = [sys.executable, "-m", "zipfile", "-c", "photos.zip", "photos"]
    subprocess.run(call, cwd=tmp_path, check=True)
    ran = 0
    lines = [line for block in blocks("sh", README) for line in block.splitlines()]
    for call_line in [part for line in lines for part in line.split("&&")]:
        words = shlex.split(call_line)
        if words[0] != "alphaflow":
            continue
        if words[1] == "train" and "--help" not in words:
            words = [*words, "--steps", "2", "--batch-size", "4"]
            words += ["--digits", "20", "--cache", "cache"] if "moving-digits" in words else []
        done = here(*words[1:])
        assert done.status == 0, (call_line, done.err)
        ran += 1
    assert ran >= 6
    assert list((tmp_path / "runs" / "digits" / "samples").rglob("*.png"))


def test_python_blocks_run(small_run: Path, tmp_path: Path) -> None:
    """In a fresh process, a fresh namespace for each block, where `runs/digits` is a small run."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(small_run)
    path = str(Path(__import__("alphaflow").__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found = {f"{page.name}, block {i}": b for page in PAGES for i, b in enumerate(blocks("python", page.read_text()))}
    assert len(found) >= 10
    each = "import json, sys\nfor name, block in json.load(sys.stdin).items(): exec(compile(block, name, 'exec'), {})"
    done = subprocess.run(
        [sys.executable, "-c", each], input=json.dumps(found), capture_output=True, text=True, cwd=tmp_path,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_readmes_recipe_trains(here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe printed in the README, saved to a file, on a folder of pictures without classes."""
    monkeypatch.chdir(tmp_path)
    (source,) = [block for block in blocks("python", README) if "def recipe(" in block]
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.new("RGB", (40, 36), (i * 40, 10, 200)).save(tmp_path / "photos" / f"{i}.jpg")
    done = here("train", "mine.py", "--steps", "2", "--batch-size", "4")
    assert done.status == 0, done.err
    assert here("sample", "runs/mine", "--nfe", "2", "--count", "3").status == 0


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_docs_name_what_exists() -> None:
    """Every `af.Name` in the docs is public."""
    import alphaflow as af

    for page in PAGES:
        for name in re.findall(r"\baf\.([A-Za-z_]+)", page.read_text()):
            assert hasattr(af, name), f"{page.name}: af.{name}"


def test_every_public_name_stands_in_a_page() -> None:
    """In code, so that a reader can search for it."""
    import alphaflow as af

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    assert not [name for name in af.__all__ if not re.search(rf"(?<![\w-]){name}\b", code)]


def test_the_docs_own_objective_tends_to_meanflow(
    smooth: Any, grad: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    """The objective of docs/your-own-objective.md, in under 100 lines, against MeanFlow: its error falls with h."""
    import torch

    import alphaflow as af

    source, _ = blocks("python", (ROOT / "docs" / "your-own-objective.md").read_text(encoding="utf-8"))
    assert len(source.splitlines()) < 100
    (tmp_path / "mine.py").write_text(source)
    spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    mine = sys.modules["mine"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    model = smooth(6, 0)
    x = torch.randn(8, 2, 3, dtype=torch.float64)

    def gradient(objective: Any) -> Any:
        return grad(model, objective(model, x, None, 0, torch.Generator().manual_seed(1)).total)

    exact = gradient(af.MeanFlow())
    errors = [float((gradient(mine.DifferenceMeanFlow(h=h)) - exact).norm()) for h in (1e-2, 1e-3, 1e-4)]
    assert errors[0] < 0.05 * float(exact.norm())
    assert 8 < errors[0] / errors[1] < 12
    assert 8 < errors[1] / errors[2] < 12
    del sys.modules["mine"]

    done = cli("train", "mine.py", "--steps", "2", cwd=tmp_path)
    assert done.status == 0, done.err
    assert cli("diagnose", "runs/mine", "--batches", "1", "--trust", cwd=tmp_path).status == 0
