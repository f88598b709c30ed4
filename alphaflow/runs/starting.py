"""Weights to start from, of a network that may differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError
from ..models.inflation import CLASSES, JUMP
from ..models.noise_prediction import INNER
from ..network import Network
from ..objectives.flow_matching import FlowMatching
from ..sources import Source
from . import checkpoint
from .checkpoint import read_weights
from .folder import RunFolder
from .rebuilding import source_of


@dataclass(frozen=True)
class Start:
    """Names of weights after `load_matching`.

    Attributes:
        new: the network's that the file doesn't have; they stay as they are.
        unused: the file's that the network doesn't have.
        fitted: of another shape in the file, which the network fitted to itself.
        still: every jump starts as one of length 0.
    """

    new: list[str]
    unused: list[str]
    fitted: list[str]
    still: bool


def load_matching(file: Path, model: nn.Module, *, of_images: bool = False, of_flow: bool = False) -> Start:
    """Loads the weights that a network shares with a safetensors file, by name: a start for fine-tuning.

    A network with a method ``adapt`` first fits the file's weights to itself, as `DiT` does with those of images.

    Args:
        file: the weights.
        model: takes them over.
        of_images: the file is of a network of images, which have no time.
        of_flow: the file is of a flow model's network, which was trained at r = t only.

    Raises:
        UserError: the file is missing or cut short, a shared weight has another shape, or nothing is shared.
    """
    there, own = read_weights(file, model), model.state_dict()
    weights = model.adapt(there, of_images=of_images, of_flow=of_flow) if isinstance(model, Network) else there
    shared = {name: weight for name, weight in weights.items() if name in own}
    if not shared:
        noise = any(name.startswith(INNER) for name in weights)
        why = "it predicts the noise, and can be a teacher" if noise else "start from a run of a like network"
        raise UserError(f"{file} has no weight in common with this recipe's network; {why}")
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
        still=of_flow and any(weight is not there[name] for name, weight in shared.items() if name.startswith(JUMP)),
    )


def start_from(file: Path, model: nn.Module, source: Source | None = None) -> str:
    """Loads what a network shares with a safetensors file (`load_matching`); says what it did in a line.

    Also where the file lies in a run that started from another source at t = 1 than ``source``.
    """
    record = _record_of(file)
    of_images = record is not None and len(record["data"]["shape"]) == 3
    of_flow = record is not None and (record.get("objective") or {}).get("type") == FlowMatching.__name__
    start = load_matching(file, model, of_images=of_images, of_flow=of_flow)
    says = [f"starting from {file}"]
    says += ["a flow model's, so that every jump starts as one of length 0"] if start.still else []
    says += [f"{len(start.new)} weights are new, {start.new[0]} the first"] if start.new else []
    says += [f"{len(start.unused)} of its weights are not used, {start.unused[0]} the first"] if start.unused else []
    fitted = [name for name in start.fitted if name != CLASSES]
    says += [f"fitted to another shape: {', '.join(fitted)}"] if fitted else []
    says += ["its classes are others: only 'no class' is taken over"] if CLASSES in start.fitted else []
    if record is not None and source is not None:
        before = source_of(record)
        if before is None or before != source:
            known = "a function of the user's own" if before is None else repr(before)
            says.append(f"it was trained from another source, {known}, and now from {source!r}")
    return "; ".join(says)


def find_weights(path: Path | str) -> Path:
    """The weights to start from: a run's last averaged ones, a checkpoint's averaged ones, or a safetensors file.

    Raises:
        UserError: the path is none of them.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    if (path / checkpoint.AVERAGE).is_file():
        return path / checkpoint.AVERAGE
    folder = RunFolder(path)
    folder.read()
    return folder.last_checkpoint() / checkpoint.AVERAGE


def _record_of(weights: Path) -> dict[str, Any] | None:
    """run.json of the run that weights lie in, RUN/checkpoints/step-N/ema.safetensors; None where they lie in none."""
    try:
        return RunFolder(weights.resolve().parent.parent.parent).read()
    except UserError:
        return None
