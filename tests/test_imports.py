"""The house: floors, no circle of imports, who may import whom, and small files with names of their own."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("cli", "data_tools", "recipes")

# Lowest first: a room imports only rooms of lower floors. A single file is a room.
FLOORS = [
    {"errors", "recipe_modules", "seeds", "version"},
    {"data.decoding", "describe", "files", "hub", "pixel_values", "progress", "tangents", "types"},
    {
        "averages", "data.listing", "flow", "guidance_input", "media", "metrics", "network", "schedules",
        "times", "weighting",
    },
    {"guidance", "models", "pairs", "parallel", "sources"},
    {"autoencoders", "derivatives", "features", "samplers", "text"},
    {"data", "objectives"},
    {"published", "recipe"},
    {"measurement", "recipe_files"},
    {"runs"},
    {"diagnosis", "evaluation", "training", "weights"},
    {"costs", "data_tools"},
    {"alphaflow", "cli"},
    {"__main__", "recipes"},
]  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module by its name without ``alphaflow.``; the package itself is ``alphaflow``."""
    found = {}
    for folder in (ROOT / "alphaflow", *(ROOT / top for top in TOPS)):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(part for part in parts[parts[0] == "alphaflow" :] if part != "__init__")
            found[name or "alphaflow"] = file
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """What a module imports of alphaflow: at its top, in functions, for type checkers; of the package, by its stub."""
    file = MODULES[name]
    package = [] if name == "alphaflow" else name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for source in [file, *([file.with_suffix(".pyi")] if file.with_suffix(".pyi").is_file() else [])]:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "alphaflow":
                base = (node.module or "").split(".")[1:]
            else:
                names = [name for name in names if isinstance(node, ast.Import) and name.split(".")[0] == "alphaflow"]
                found |= {name.partition(".")[2] or "alphaflow" for name in names}
                continue
            inside = ".".join(base)
            found |= {
                there if (there := f"{inside}.{each}".lstrip(".")) in MODULES else inside or "alphaflow"
                for each in names
            }
    return found - {name}


GRAPH = {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    return name if "." not in name or MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def test_no_circle_of_modules() -> None:
    assert GRAPH.keys() >= set().union(*GRAPH.values())
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, and names the circle


def test_floors() -> None:
    for name, others in GRAPH.items():
        assert room(name) in FLOOR, f"{room(name)} has no floor: add it to FLOORS"
        for other in others:
            if room(name) != room(other):
                assert FLOOR[room(other)] < FLOOR[room(name)], f"{name} imports {other}, which stands no lower"


def reached(name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = GRAPH[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def picture() -> str:
    """The floors as docs/contributing.md shows them, the highest on top."""
    return "\n".join("  ".join(sorted(rooms)) for rooms in reversed(FLOORS))


def test_the_picture_of_the_floors() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert f"```\n{picture()}\n```" in page, f"put this picture into docs/contributing.md:\n{picture()}"


def test_only_train_and_costs_train() -> None:
    """Readers of runs reach no trainer, by whatever way; `alphaflow info` does by `costs`, which times steps."""
    may = {"alphaflow", "__main__", "costs", "cli.main", "cli.train", "cli.train_options", "cli.info"}
    for name in MODULES:
        if room(name) not in ("training", "recipes") and name not in may:
            assert not {other for other in reached(name) if room(other) == "training"}, name


def test_training_draws_by_one_module_and_media_takes_arrays_only() -> None:
    pairs = {
        (name, other)
        for name in MODULES
        for other in GRAPH[name]
        if room(name) == "training" and room(other) == "media"
    }
    assert pairs == {("training.sample_pictures", "media.previews")}
    outside = {room(other) for name in MODULES if room(name) == "media" for other in GRAPH[name]} - {"media"}
    assert outside <= {"errors", "files", "types"}


def test_a_name_stands_once() -> None:
    """But for the command line's files, each beside what it calls, and recipes, each beside its data."""
    files = defaultdict(list)
    for name, file in MODULES.items():
        if name.partition(".")[0] not in ("cli", "recipes") and file.stem != "__init__":
            files[file.stem].append(name)
    assert not [names for names in files.values() if len(names) > 1]


PROBED = {
    "alphaflow/autoencoders/diffusers_vae.py": "what diffusers' classes give",
    "alphaflow/data/remote_shards.py": "webdataset's errors",
    "alphaflow/errors.py": "modules, and other libraries' errors",
    "alphaflow/features/weight_files.py": "urllib's errors",
    "alphaflow/recipe_files.py": "modules",
    "alphaflow/training/stopping.py": "signals that a system has",
    "cli/encode.py": "what a system can say",
    "cli/errors.py": "Typer's and click's errors",
    "data_tools/decode.py": "signals that a system has",
}
"""Where other libraries' objects, modules and systems are asked what they have; our own objects declare it."""


def test_nobody_probes() -> None:
    for file in MODULES.values():
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and name not in PROBED:
                probes = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
                assert not probes, f"{name}:{node.lineno}: {ast.unparse(node)}: let a base class declare it"


def test_recipes_import_only_the_public_package() -> None:
    for file in (ROOT / "recipes").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                known = ("pathlib", "typing", "torch.nn")
                assert node.module in known, f"{file}: {ast.unparse(node)}"
            if isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["alphaflow"], f"{file}: {ast.unparse(node)}"


def test_no_print_in_the_library() -> None:
    """Only the command line and what shows progress print."""
    for name, file in MODULES.items():
        if name.partition(".")[0] in TOPS or name == "progress":
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call.func) == "print"], file


def test_files_and_functions_stay_small() -> None:
    for file in MODULES.values():
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, f"{file} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 50, f"{file}: {node.name} has {lines} lines"
