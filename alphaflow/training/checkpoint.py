"""Checkpoints on disk: weights as safetensors, a manifest that tells whether they are whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError, is_number
from ..files import parsed, sha256, write_json
from ..models.inflation import CLASSES
from .distributed import full, load_whole

MODEL, AVERAGE, MANIFEST = "model.safetensors", "ema.safetensors", "manifest.json"
TENSORS, PLAIN = "training.safetensors", "state.json"
"""What training goes on from, beside the weights."""

EMBEDS_R = (
    "is of an earlier alphaflow, whose DiT embedded the time r; this one's embeds the length of the jump, t - r, and "
    "can't use those weights: train anew, or go on with the alphaflow that they were made with"
)
"""What is said of a run or of weights that embed r."""


def weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Copies of a network's weights on the CPU, whole: as safetensors takes them, none sharing memory with another.

    Args:
        model: all processes must ask, where it is split among them.
        keep: whether this process wants them.
    """
    return whole_copies(model.state_dict(), keep)


def whole_copies(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """As `weights`, of any tensors: one after another, so that never more than one is whole on a GPU."""
    found = {}
    for name, tensor in tensors.items():
        whole = full(tensor)
        if keep:
            found[name] = whole.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return found


def write_weights(file: Path, found: Mapping[str, Tensor]) -> None:
    """Writes weights as safetensors."""
    save_file(dict(found), file)


def seal(folder: Path, step: int, values: Mapping[str, float]) -> None:
    """Writes manifest.json: every file's length and SHA-256. The last thing that a checkpoint gets.

    Args:
        folder: of the checkpoint.
        step: of the checkpoint.
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
        return "its training state is an earlier alphaflow's; its weights are good for --from"
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
        load_whole(model, _read(file, model))
    except RuntimeError as error:
        detail = _line(error).removeprefix("Error(s) in loading state_dict for ")
        raise UserError(f"{file} holds the weights of another network ({detail}); was the recipe changed?") from error


@dataclass(frozen=True)
class Start:
    """Names of weights after `load_matching`.

    Attributes:
        new: the network's that the file doesn't have; they stay as they are.
        unused: the file's that the network doesn't have.
        fitted: of another shape in the file, which the network fitted to itself.
    """

    new: list[str]
    unused: list[str]
    fitted: list[str]


def load_matching(file: Path, model: nn.Module, *, of_images: bool = False) -> Start:
    """Loads the weights that a network shares with a safetensors file, by name: a start for fine-tuning.

    A network with a method ``adapt`` first fits the file's weights to itself, as `DiT` does with those of images.

    Args:
        file: the weights.
        model: takes them over.
        of_images: the file is of a network of images, which have no time.

    Raises:
        UserError: the file is missing or cut short, a shared weight has another shape, or nothing is shared.
    """
    there, own = _read(file, model), model.state_dict()
    adapt = getattr(model, "adapt", None)
    weights = there if adapt is None else adapt(there, of_images=of_images)
    shared = {name: weight for name, weight in weights.items() if name in own}
    if not shared:
        raise UserError(
            f"{file} has no weight in common with this recipe's network; start from a run of a like network"
        )
    for name, weight in shared.items():
        if weight.shape != own[name].shape:
            raise UserError(
                f"{file} holds {name} of shape {tuple(weight.shape)}, this recipe's network {tuple(own[name].shape)}; "
                "give the recipe that run's parameters, or start from a run of a like network"
            )
    model.load_state_dict(shared, strict=False)
    return Start(
        new=[name for name in own if name not in shared],
        unused=[name for name in weights if name not in shared],
        fitted=[name for name, weight in shared.items() if weight.shape != there[name].shape],
    )


def start_from(file: Path, model: nn.Module, *, of_images: bool = False) -> str:
    """Loads what a network shares with a safetensors file (`load_matching`); says what it did in a line."""
    start = load_matching(file, model, of_images=of_images)
    says = [f"starting from {file}"]
    says += [f"{len(start.new)} weights are new, {start.new[0]} the first"] if start.new else []
    says += [f"{len(start.unused)} of its weights are not used, {start.unused[0]} the first"] if start.unused else []
    fitted = [name for name in start.fitted if name != CLASSES]
    says += [f"fitted to another shape: {', '.join(fitted)}"] if fitted else []
    says += ["its classes are others: only 'no class' is taken over"] if CLASSES in start.fitted else []
    return "; ".join(says)


def _read(file: Path, model: nn.Module) -> dict[str, Tensor]:
    """A file's weights, which are to go into this network."""
    try:
        found = load_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_remedy(file)}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short ({_line(error)}); {_remedy(file)}") from error
    own = model.state_dict().keys()
    if any(name not in own and name.replace("embed_r.", "embed_jump.") in own for name in found):
        raise UserError(f"{file} {EMBEDS_R}")
    return found


def _remedy(file: Path) -> str:
    if file.parent.name.startswith("step-"):
        return f"remove the folder {file.parent} to use the checkpoint before it"
    return "give another file"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
