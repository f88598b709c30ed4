"""Checkpoints on disk: weights as safetensors, a manifest that tells whether they are whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError, is_number, reason
from ..files import parsed, sha256, write_json
from ..parallel.pieces import load_whole

MODEL = "model.safetensors"
AVERAGE = "ema.safetensors"
MANIFEST = "manifest.json"

TENSORS, PLAIN = "training.safetensors", "state.json"
"""What training goes on from, beside the weights."""

EMBEDS_R = (
    "is of an earlier alphaflow, whose DiT embedded the time r; this one's embeds the length of the jump, t - r, and "
    "can't use those weights: train again, or use the version of alphaflow that made them"
)
"""What is said of a run or of weights that embed r."""


def write_weights(file: Path, found: Mapping[str, Tensor]) -> None:
    """Writes weights as safetensors."""
    file.touch()
    mode = file.stat().st_mode
    save_file(dict(found), file)
    file.chmod(mode)  # as other files', which safetensors' are not: only their owner may read these


def seal(folder: Path, step: int, values: Mapping[str, float]) -> None:
    """Writes manifest.json: every file's length and SHA-256. The last thing that a checkpoint gets.

    Args:
        folder: folder of the checkpoint.
        step: step of the checkpoint.
        values: what was measured at this step.
    """
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    write_json(folder / MANIFEST, {"step": step, "values": dict(values), "files": files})


def manifest(folder: Path) -> dict[str, Any] | None:
    """What manifest.json says; None if it is missing or damaged."""
    try:
        found: dict[str, Any] = parsed((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and _is_manifest(found) else None


def _is_manifest(found: dict[str, Any]) -> bool:
    files, values = found.get("files"), found.get("values")
    if (
        not isinstance(files, dict)
        or not isinstance(values, dict)
        or not all(isinstance(v, float) or is_number(v) for v in values.values())
    ):
        return False
    return all(isinstance(about, dict) and {"bytes", "sha256"} <= about.keys() for about in files.values())


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, by its manifest; empty if it is whole."""
    known = manifest(folder)
    if known is not None and "training/.metadata" in known["files"]:
        return (
            "its training state was written by an earlier version of alphaflow; its weights can be used with `start=`"
        )
    if known is None or not {MODEL, AVERAGE, TENSORS, PLAIN} <= known["files"].keys():
        return f"{MANIFEST} is missing or damaged"
    for name, about in known["files"].items():
        try:
            if (folder / name).stat().st_size != about["bytes"]:
                return f"{name} is cut short"
            if sha256(folder / name) != about["sha256"]:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing"
    return ""


def load_weights(file: Path, model: nn.Module) -> None:
    """Loads a safetensors file into a network. Never unpickles.

    Raises:
        UserError: the file is missing, cut short, or of another network.
    """
    try:
        load_whole(model, read_weights(file, model))
    except RuntimeError as error:
        detail = reason(error).removeprefix("Error(s) in loading state_dict for ")
        raise UserError(f"{file} holds the weights of another network ({detail}); was the recipe changed?") from error


def read_weights(file: Path, model: nn.Module) -> dict[str, Tensor]:
    """A file's weights, which are to go into this network."""
    try:
        found = load_file(file)
    except FileNotFoundError as error:
        raise missing(file) from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short ({reason(error)}); {_remedy(file)}") from error
    own = model.state_dict().keys()
    if any(name not in own and name.replace("embed_r.", "embed_jump.") in own for name in found):
        raise UserError(f"{file} {EMBEDS_R}")
    return found


def missing(file: Path) -> UserError:
    """The error for a file of weights that isn't there."""
    return UserError(f"{file} is missing; {_remedy(file)}")


def _remedy(file: Path) -> str:
    if file.parent.name.startswith("step-"):
        return f"remove the folder {file.parent} to use the checkpoint before it"
    return "give another file"


_KINDS = {"step": int, "made_with": dict, "numbers": dict, "groups": list, "updates": dict, "widths": dict,
          "dataset": dict, "watch": dict}  # fmt: skip
"""What state.json holds."""


def read_plain(folder: Path) -> dict[str, Any]:
    """state.json.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        found: dict[str, Any] = parsed((folder / PLAIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PLAIN} can't be read: {reason(error)}") from error
    wrong = [name for name, kind in _KINDS.items() if not isinstance(found, dict) or type(found.get(name)) is not kind]
    if wrong:
        raise UserError(f"{folder / PLAIN} is damaged, or of an earlier alphaflow: {wrong[0]!r} is not what it holds")
    return found
