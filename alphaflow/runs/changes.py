"""What a run is to go on with, against what it was trained with so far."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError, printable
from ..recipe_modules import own_modules
from .folder import RunFolder
from .record import Origin


@dataclass(frozen=True)
class Changes:
    """What differs: true if anything does.

    Attributes:
        values: parameters of the recipe, or settings of one that was composed in Python, by name: [before, now].
        code: a unified diff of recipe.py and of the modules beside it; empty where comments, spacing and docstrings are
            all that differs.
    """

    values: dict[str, list[Any]]
    code: str = ""

    def __bool__(self) -> bool:
        return bool(self.values or self.code)

    def __str__(self) -> str:
        told = [_told(name, before, now) for name, (before, now) in self.values.items()]
        if self.code:
            signs = [line[0] for line in self.code.splitlines() if line and not line.startswith(("+++", "---"))]
            told.append(f"the recipe's code (+{signs.count('+')} -{signs.count('-')} lines)")
        return printable(", ".join(told))

    def entry(self, step: int) -> dict[str, Any]:
        """What run.json's ``extended`` keeps of them, with the step at which they were made, and when."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"step": step, "at": now, "changes": self.values, "recipe": self.code or None}


def changes_to_extend(folder: RunFolder, origin: Origin, record: Mapping[str, Any], step: int) -> Changes:
    """What a run would go on with from a step that it wasn't trained with so far.

    Args:
        folder: folder of the run.
        origin: where the recipe comes from now.
        record: what `describe_run` says of it now.
        step: where the run stands.

    Raises:
        UserError: the run can't be extended by that: it is of another recipe, seed or start, or has more steps already.
    """
    check_same_run(folder, origin, record["seed"], record["start"])
    changes = changed_recipe(folder, origin) if origin.text else changed_parts(folder, record)
    if changes and record["steps"] < step:
        raise UserError(
            f"{folder.path} has {step} steps already, more than `steps={record['steps']}`; give as many, or more"
        )
    return changes


def check_same_run(folder: RunFolder, origin: Origin, seed: int, start: Path | str | None) -> None:
    """Whether a recipe is the one that a run is of, with its seed and its start, whatever was changed in it.

    Raises:
        UserError: it is another.
    """
    folder.check_trained()
    record, before = folder.read(), folder.origin()
    if before.function != origin.function:
        raise UserError(f"{folder.path} was started with the function {before.function}, not {origin.function}")
    if origin.text and not before.text:
        raise UserError(f"{folder.path} was composed in Python: continue it there, by af.Trainer(…, resume=True)")
    if before.text and not origin.text:
        raise UserError(
            f"{folder.path} was started from the recipe {before.name}: extend it on the command line, or say by "
            "`origin=` what the recipe is now"
        )
    if before.name != origin.name:
        raise UserError(f"{folder.path} is a run of {before.name}, not of {origin.name}; choose another `out=`")
    fixed = {"seed": (record["seed"], seed), "start": (_resolved(record.get("start")), _resolved(start))}
    for name, pair in fixed.items():
        if pair[0] != pair[1]:
            was, given = ("nothing" if value is None else value for value in pair)
            raise UserError(
                f"{folder.path} was started with `{name}={was}`, not {given}; "
                "resume with the same options, or start another run with `out=`"
            )


def changed_recipe(folder: RunFolder, origin: Origin) -> Changes:
    """What differs in the recipe's arguments and in its code."""
    record, now = folder.origin(), json.loads(json.dumps(origin.arguments))
    values = dict(_different(record.arguments, now))
    codes = {"recipe.py": (record.text, origin.text)}
    kept = _kept_modules(folder)
    beside = own_modules(origin.text, Path(origin.folder)) if origin.folder else {}
    if (kept and beside) or not same_code(*codes["recipe.py"]):  # else nobody kept them, or they lie elsewhere
        for file in sorted(kept.keys() | beside.keys()):
            codes[f"modules/{file.as_posix()}"] = kept.get(file, ""), beside.get(file, "")
    return Changes(values, "\n".join(_diff(name, *pair) for name, pair in codes.items() if not same_code(*pair)))


def changed_parts(folder: RunFolder, record: Mapping[str, Any]) -> Changes:
    """What differs in a recipe that was composed in Python, as far as run.json describes it."""
    before, now = folder.read(), json.loads(json.dumps(record))
    names = ("model", "autoencoder", "objective", "dataset", "samplers", "steps")
    parts = [{name: each.get(name) for name in names} | (each.get("training") or {}) for each in (before, now)]
    return Changes(dict(_different(*parts)))


def same_code(one: str, other: str) -> bool:
    """Whether two sources are the same but for comments, spacing and docstrings."""
    try:
        return one == other or _meaning(one) == _meaning(other)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python: then every letter counts
        return False


def _meaning(source: str) -> str:
    """A source as its syntax tree is printed, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            del node.body[: ast.get_docstring(node, clean=False) is not None]
    return ast.dump(tree)


def _kept_modules(folder: RunFolder) -> dict[Path, str]:
    """The modules that are kept with a run: path ↦ source."""
    files = [file for file in folder.modules.rglob("*.py") if file.is_file()] if folder.modules.is_dir() else []
    return {file.relative_to(folder.modules): file.read_text(encoding="utf-8", errors="replace") for file in files}


def _diff(name: str, before: str, now: str) -> str:
    names = f"before/{name}", f"now/{name}"
    return "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), *names, lineterm=""))


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """What differs between two descriptions, by name; inside of an object of the same class, by ``object.name``."""
    for name in sorted(before.keys() | now.keys()):
        was, given = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(given, dict) and was.get("type") == given.get("type"):
            yield from ((f"{name}.{inner}", pair) for inner, pair in _different(was, given))
        elif was != given:
            yield name, [was, given]


def _told(name: str, before: Any, now: Any) -> str:
    both = isinstance(before, bool) and isinstance(now, bool)
    return f"`{name}={_brief(before)}` → " + (f"`{name}={now}`" if both else _brief(now))


def _brief(value: Any) -> str:
    text = str(value["type"]) if isinstance(value, dict) and "type" in value else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _resolved(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
