"""The wheel holds everything, and what it holds works elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("alphaflow", "cli", "data_tools", "recipes")


def test_listed_packages_are_the_folders() -> None:
    """A package that is forgotten in pyproject.toml would be missing from the wheel only."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for top in FOLDERS:
        for file in (ROOT / top).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "alphaflow" else ("alphaflow", *parts)))
    assert sorted(listed) == sorted(found)
    for top in FOLDERS:
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{file.parent} holds Python but no __init__.py"


def test_a_bare_checkout_holds_each_module_once() -> None:
    """What stands beside the package is found; the package itself, tests and benchmarks are not inside it."""
    there = ("alphaflow.cli.main", "alphaflow.data_tools.encode", "alphaflow.recipes.digits")
    code = f"""
import importlib, os
for name in {there}: assert importlib.import_module(name).__file__.startswith({str(ROOT)!r} + os.sep), name
for name in ("alphaflow.alphaflow.types", "alphaflow.benchmarks", "alphaflow.tests"):
    try: importlib.import_module(name)
    except ModuleNotFoundError: continue
    raise SystemExit(name)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, in a build environment of its own."""
    place = tmp_path_factory.mktemp("wheel")
    names = (*FOLDERS, "pyproject.toml", "README.md", "LICENSE", "noxfile.py")
    for name in names:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place / name)
    call = [sys.executable, "-m", "build", "--wheel", "--outdir", str(place / "dist"), str(place)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((place / "dist").glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for top in FOLDERS:
        for file in (ROOT / top).rglob("*"):
            if file.suffix in (".py", ".pyi", ".npz", ".md", ".typed"):
                relative = file.relative_to(ROOT).as_posix()
                assert (relative if top == "alphaflow" else f"alphaflow/{relative}") in inside
    assert all(name.startswith(("alphaflow/", "alphaflow-")) for name in inside)


@pytest.mark.slow
def test_installed_elsewhere_it_trains(wheel: Path, tmp_path: Path) -> None:
    """Unpacked to a folder of its own, away from the checkout: lists, trains, samples."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        call = [sys.executable, "-m", "alphaflow", *arguments]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import alphaflow, alphaflow.cli.main; print(alphaflow.__file__, alphaflow.cli.main.__file__)"
    call = [sys.executable, "-c", where]
    out = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout
    assert out.count(str(tmp_path / "site")) == 2
    assert "digits" in run("recipes")
    run("train", "digits", "--steps", "3", "--width", "32", "--depth", "1")
    run("sample", "runs/digits", "--count", "10")
    assert len(list((tmp_path / "runs" / "digits" / "samples").rglob("*.png"))) >= 10


def test_public_names_are_all_there() -> None:
    import alphaflow as af

    missing = [name for name in af.__all__ if not hasattr(af, name)]
    assert not missing
    assert len(af.__all__) > 50
    undocumented = [name for name in af.__all__ if callable(getattr(af, name)) and not getattr(af, name).__doc__]
    assert not undocumented
