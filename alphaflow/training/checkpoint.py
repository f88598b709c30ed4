"""Checkpoints: weights as safetensors, and what training needs to go on exactly."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError
from ..files import replacing

MODEL, AVERAGE, STATE = "model.safetensors", "ema.safetensors", "training.pt"


def save(folder: Path, model: nn.Module, average: nn.Module, state: dict[str, Any]) -> None:
    """Writes a checkpoint folder, whole or not at all.

    Args:
        folder: the checkpoint's place.
        model: the network in training.
        average: its EMA.
        state: all else that training needs: tensors, numbers, strings, and containers of them.
    """
    with replacing(folder) as beside:
        beside.mkdir()
        save_file(_separate(model), beside / MODEL)
        save_file(_separate(average), beside / AVERAGE)
        torch.save(state, beside / STATE)


def _separate(model: nn.Module) -> dict[str, Tensor]:
    """Weights as safetensors takes them: contiguous, none sharing memory with another (tied weights)."""
    return {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in model.state_dict().items()}


def load_weights(file: Path, model: nn.Module) -> None:
    """Loads a safetensors file into a network. Never unpickles.

    Raises:
        UserError: the file is missing, cut short, or of another network.
    """
    try:
        model.load_state_dict(_read(file))
    except RuntimeError as error:
        detail = _line(error).removeprefix("Error(s) in loading state_dict for ")
        raise UserError(f"{file} holds the weights of another network ({detail}); was the recipe changed?") from error


def load_matching(file: Path, model: nn.Module) -> tuple[list[str], list[str]]:
    """Loads the weights that a network shares with a safetensors file, by name: a start for fine-tuning.

    Returns:
        Names of the network's weights that the file doesn't have (they stay as they are), and of the file's that the
        network doesn't.

    Raises:
        UserError: the file is missing or cut short, a shared weight has another shape, or nothing is shared.
    """
    weights, own = _read(file), model.state_dict()
    shared = {name: weight for name, weight in weights.items() if name in own}
    if not shared:
        raise UserError(
            f"{file} has no weight in common with this recipe's network; start from a run of a like network"
        )
    for name, weight in shared.items():
        if weight.shape != own[name].shape:
            raise UserError(
                f"{file} holds {name} of shape {tuple(weight.shape)}, this recipe's network {tuple(own[name].shape)}; "
                "give the recipe the parameters of that run"
            )
    model.load_state_dict(shared, strict=False)
    return [name for name in own if name not in shared], [name for name in weights if name not in shared]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_remedy(file)}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short ({_line(error)}); {_remedy(file)}") from error


def load_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint: tensors and plain values only.

    Raises:
        UserError: the file is missing or cut short.
    """
    file = folder / STATE
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_remedy(file)}") from error
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged or cut short ({_line(error)}); {_remedy(file)}") from error
    return state


def _remedy(file: Path) -> str:
    if file.parent.name.startswith("step-"):
        return f"remove the folder {file.parent} to use the checkpoint before it"
    return "give another file"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
