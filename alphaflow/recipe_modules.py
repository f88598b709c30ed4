"""The modules beside a recipe that it imports: found, to be kept with a run, and imported from there again."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

MOST_FILES, MOST_BYTES = 200, 2**22
"""What is kept with a run at most: a recipe's own modules are few and small."""


def own_modules(text: str, folder: Path) -> dict[Path, str]:
    """The modules in a recipe's folder that it imports, and those that they import: path in the folder ↦ source.

    Those whose import a file states are found; none where they are more than is kept.
    """
    found: dict[Path, str] = {}
    waiting: list[tuple[Path, str]] = [(Path("recipe.py"), text)]
    while waiting:
        path, source = waiting.pop()
        for file in _imported(path, source, folder):
            if file in found:
                continue
            with suppress(OSError, UnicodeDecodeError):
                found[file] = (folder / file).read_text(encoding="utf-8")
                waiting.append((file, found[file]))
        if len(found) > MOST_FILES or sum(map(len, found.values())) > MOST_BYTES:
            return {}
    return found


def _imported(path: Path, source: str, folder: Path) -> Iterator[Path]:
    """The files of a folder that a module in it imports."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
        for name in filter(None, names):
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                place = Path(*parts[:length])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if (folder / file).is_file():
                        yield file


@contextmanager
def importing(kept: Path, others: Sequence[Path]) -> Iterator[None]:
    """Imports find a run's kept modules first, read anew, and then what lies in other folders.

    Another run may have modules of the same names: what was imported before is there again afterwards.
    """
    path = list(sys.path)
    folders = [str(folder) for folder in (kept, *others) if folder.is_dir()]
    before = _loaded_as(kept)
    for name in before:
        del sys.modules[name]
    sys.path[:] = [*folders, *(place for place in path if place not in folders)]
    try:
        yield
    finally:
        sys.path[:] = [*path, *(folder for folder in folders if folder not in path)]
        for name in _loaded_as(kept):
            del sys.modules[name]
        sys.modules.update(before)


_folders: set[Path] = set()
"""Where recipes lay that were loaded."""


def put_first(folder: Path) -> None:
    """Imports look in a recipe's folder first; what another recipe has beside it by the same name is forgotten."""
    others = _folders - {folder}
    for name, module in _loaded_as(folder).items():
        file = vars(module).get("__file__")
        if file and any(Path(file).is_relative_to(other) for other in others):
            del sys.modules[name]
    sys.path[:] = [str(folder), *(place for place in sys.path if place != str(folder))]
    _folders.add(folder)


def _loaded_as(folder: Path) -> dict[str, ModuleType]:
    """The modules, from wherever, whose names are those of a folder's modules, or lie in a package of such a name."""
    inside = folder.iterdir() if folder.is_dir() else ()
    names = {file.stem if file.suffix == ".py" else file.name for file in inside} - {"alphaflow"}
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
