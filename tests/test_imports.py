"""Imports go one way, recipes see only the public package, and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# DESIGN: types ← flow … ← guidance, data … ← objectives, samplers ← training ← recipe ← cli, data_tools.
LAYERS = [
    {"errors", "printing", "files"},
    {"types"},
    {"flow", "times", "schedules", "derivatives", "tangents", "weighting", "autoencoders", "plots", "describe"},
    {"guidance", "data", "models", "metrics"},
    {"objectives", "samplers"},
    {"training", "diagnostics"},
    {"recipe", "recipe_files", "published"},
    {"run", "evaluation", "diagnose"},
    {"cli", "data_tools"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = {"alphaflow": ROOT / "alphaflow", "cli": ROOT / "cli", "data_tools": ROOT / "data_tools"}


def sources() -> list[tuple[str, Path]]:
    """(part, file) of every module: the part is its top-level module or folder in the package."""
    found = []
    for top, folder in TOP.items():
        for file in sorted(folder.rglob("*.py")):
            relative = file.relative_to(folder)
            part = top if top != "alphaflow" else relative.parts[0].removesuffix(".py")
            if part not in ("__init__", "__main__"):
                found.append((part, file))
    return found


def imported_parts(file: Path, part: str) -> set[str]:
    """The parts of alphaflow that a file imports when it runs (not those for type checkers only)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ["alphaflow", *file.relative_to(TOP["alphaflow"]).parts[:-1]] if part not in TOP else ["alphaflow", part]
    parts: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = [*base, *(node.module.split(".") if node.module else [])]
            if path[:1] == ["alphaflow"]:
                parts |= {path[1]} if len(path) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("alphaflow.")}
    return parts - {"__version__"}


@pytest.mark.parametrize(("part", "file"), sources(), ids=lambda value: getattr(value, "stem", value))
def test_imports_go_one_way(part: str, file: Path) -> None:
    assert part in LEVEL, f"{part} has no layer: add it to LAYERS here and to DESIGN.md"
    for other in imported_parts(file, part) - {part}:
        assert LEVEL[other] <= LEVEL[part], f"{file}: {part} must not import {other}"
        assert other != "cli", f"{file} imports the command line"
        if LEVEL[other] == LEVEL[part]:
            assert part not in _reached(other), f"{part} and {other} import each other"


def _reached(part: str) -> set[str]:
    return set().union(*(imported_parts(file, part) for name, file in sources() if name == part))


def test_there_is_something_to_check() -> None:
    found = {part for part, _ in sources()}
    assert {"types", "objectives", "training", "cli", "data_tools"} <= found
    trainer = TOP["alphaflow"] / "training" / "trainer.py"
    assert {"errors", "types"} <= imported_parts(trainer, "training")
    assert "recipe" not in imported_parts(trainer, "training")


def test_recipes_import_only_the_public_package() -> None:
    for file in (ROOT / "recipes").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("pathlib", "typing"), f"{file}: {ast.unparse(node)}"
            if isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["alphaflow"], f"{file}: {ast.unparse(node)}"


def test_no_print_in_the_library() -> None:
    """Only the command line and a run's plain log lines print."""
    for part, file in sources():
        if part in ("cli", "data_tools") or file.name == "logging.py":
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call.func) == "print"], file


def test_files_and_functions_stay_small() -> None:
    files = [file for _, file in sources()] + sorted((ROOT / "recipes").glob("*.py"))
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, f"{file} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 50, f"{file}: {node.name} has {lines} lines"
