"""What training needs to go on exactly, beside the weights: tensors as safetensors, the rest as JSON.

The optimiser's state is kept whole and by parameters' names, so that any number of processes, whole or sharded, can go
on from it. Nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..averages import PowerLaw
from ..errors import UserError, said
from ..parallel.pieces import placed_as, whole_copies
from ..runs import checkpoint
from ..seeds import derived
from ..version import versions
from .engine import Engine

_OPTIMIZER = "optimizer."
_OBJECTIVE = "objective."
_RANDOM = "random."


def tensors(engine: Engine, generator: torch.Generator) -> dict[str, Tensor]:
    """Copies, on the CPU, of the optimiser's tensors, the objective's own weights, and all processes' randomness.

    All processes must ask; only the first gets anything.
    """
    world, state = engine.world, engine.optimizer.state
    named = {
        f"{_OPTIMIZER}{name}.{key}": value
        for name, parameter in engine.named_parameters()
        for key, value in state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    if engine.network is not None:
        named |= {_OBJECTIVE + name: value for name, value in engine.network.state_dict().items()}
    found = whole_copies(named, world.main)
    for kind, own in _randomness(engine, generator).items():
        parts = {f"{_RANDOM}{kind}.{rank}": part for rank, part in enumerate(world.gathered(own))}
        found |= parts if world.main else {}
    return found


def plain(engine: Engine) -> dict[str, Any]:
    """What is no tensor: numbers in the optimiser's state and groups, how often each average was updated, and how."""
    numbers = {
        f"{name}.{key}": value
        for name, parameter in engine.named_parameters()
        for key, value in engine.optimizer.state.get(parameter, {}).items()
        if not isinstance(value, Tensor)
    }
    kind, groups = type(engine.optimizer).__name__, _groups(engine)
    updates = {name: average.updates for name, average in engine.averages.items()}
    widths = {n: average.decay.width for n, average in engine.averages.items() if isinstance(average.decay, PowerLaw)}
    made = {"made_with": _circumstances(engine)}
    return {**made, "optimizer": kind, "numbers": numbers, "groups": groups, "updates": updates, "widths": widths}


_PLAIN = (bool, int, float, str)


def _groups(engine: Engine) -> list[dict[str, Any]]:
    """The optimiser's settings, those that are plain numbers and words, of each of its groups."""
    return [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, _PLAIN)}
        for group in engine.optimizer.param_groups
    ]


def own_optimizer(engine: Engine) -> dict[str, Any]:
    """What run.json says of an optimiser that the recipe makes itself, as it is before the first step; else nothing."""
    if engine.recipe.optimizer is None:
        return {}
    pairs = [
        {key: value for key, value in group.items() if _is_pair(value)} for group in engine.optimizer.param_groups
    ]  # betas, which a checkpoint doesn't keep
    groups = [plain | more for plain, more in zip(_groups(engine), pairs, strict=True)]
    return {"optimizer": {"type": type(engine.optimizer).__name__, "groups": groups}}


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, _PLAIN) for part in value)


def remarks(folder: Path, engine: Engine) -> list[str]:
    """Says what differs from how a checkpoint was made, of what the last bits of weights may depend on."""
    before, now = checkpoint.read_plain(folder)["made_with"], _circumstances(engine)
    names = [name for name in now if name in before and before[name] != now[name]]
    changed = ", ".join(f"{name} {now[name]} (was {before[name]})" for name in names)
    return [f"the weights may differ, by rounding, from those of a run in one go: {changed}"] if changed else []


def restore(
    folder: Path, engine: Engine, generator: torch.Generator, seed: int, *, settings: bool = True
) -> dict[str, Any]:
    """Brings weights, averages, optimiser, objective and randomness to a checkpoint's state.

    Randomness goes on where it stood with as many processes as before, on the same kind of device; else it is drawn
    anew, from the seed and the step.

    Args:
        folder: folder of the checkpoint.
        engine: takes its state over.
        generator: that of this process's times and noise.
        seed: seed of the run.
        settings: whether the optimiser's are the checkpoint's, too. If not they stay the recipe's, as after a change.

    Returns:
        What it keeps that is no tensor.

    Raises:
        UserError: a file is missing or damaged, or of another network, optimiser or objective.
    """
    saved = checkpoint.read_plain(folder)
    checkpoint.load_weights(folder / checkpoint.MODEL, engine.model)
    for name, average in engine.averages.items():
        if name not in saved["updates"]:
            raise UserError(f"{folder} keeps no average {name!r}, only {', '.join(saved['updates'])}; leave it out")
        checkpoint.load_weights(folder / f"{name}.safetensors", average.model)
    before, now = saved["made_with"], _circumstances(engine)
    same = all(before.get(name) == now[name] for name in ("processes", "device"))
    try:
        with safe_open(folder / checkpoint.TENSORS, framework="pt") as file:
            _take(file, saved, engine, settings=settings)
            if same:
                for kind in _randomness(engine, generator):
                    _set_random(kind, file.get_tensor(f"{_RANDOM}{kind}.{engine.world.rank}"), generator, engine.device)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"training can't go on from {folder} ({said(error)}): it is damaged, or of another optimiser or objective"
        ) from error
    if not same:
        generator.manual_seed(engine.world.seed(derived(seed, saved["step"])))
    return saved


def _take(file: Any, saved: dict[str, Any], engine: Engine, *, settings: bool) -> None:
    """Takes over the optimiser's state, the averages' counts, and the objective's own weights."""
    kinds = [saved.get("optimizer"), type(engine.optimizer).__name__]
    if kinds[0] not in (None, kinds[1]) and not {*kinds} <= {"Adam", "AdamW"}:  # these two keep the same
        raise ValueError(f"its optimiser is {kinds[0]}, not {kinds[1]}")
    optimizer: dict[torch.nn.Parameter, dict[str, Any]] = {}
    on_device = {p for group in engine.optimizer.param_groups if _counts_on_device(group) for p in group["params"]}
    owned: dict[str, list[str]] = {}
    for entry in file.keys():  # noqa: SIM118
        if entry.startswith(_OPTIMIZER):
            owned.setdefault(entry.removeprefix(_OPTIMIZER).rpartition(".")[0], []).append(entry)
    named = dict(engine.named_parameters())
    plain = engine.recipe.optimizer is None  # of another nobody knows what its state looks like
    for name, parameter in named.items():
        optimizer[parameter] = {}
        for entry in owned.get(name, []):
            key, value = entry.rpartition(".")[2], file.get_tensor(entry)
            counts = key == "step" and parameter not in on_device
            form = ((), torch.float32) if key == "step" else (parameter.shape, parameter.dtype)
            if plain and (value.shape, value.dtype) != form:
                raise ValueError(f"{entry} is {value.dtype} {tuple(value.shape)}")  # Adam would read past its end
            optimizer[parameter][key] = value.clone() if counts else placed_as(parameter, value)
    for key, value in saved["numbers"].items():
        name, _, kind = key.rpartition(".")
        optimizer[named[name]][kind] = value
    engine.optimizer.state.clear()
    engine.optimizer.state.update({p: values for p, values in optimizer.items() if values})
    if settings:
        for group, values in zip(engine.optimizer.param_groups, saved["groups"], strict=True):
            group.update(values)
    for name, average in engine.averages.items():
        average.updates = saved["updates"].get(name, average.updates)
    if engine.network is not None:
        own = engine.network.state_dict()
        engine.network.load_state_dict({name: file.get_tensor(_OBJECTIVE + name) for name in own})


def _circumstances(engine: Engine) -> dict[str, Any]:
    """What the last bits of weights may depend on, beside the recipe."""
    device = engine.device
    of_device: dict[str, Any] = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    of_device |= {"threads": torch.get_num_threads()} if device.type == "cpu" else {}
    libraries = {name: version for name, version in versions().items() if name in ("torch", "numpy")}
    return {"processes": engine.world.size, "device": device.type, **of_device, **asdict(engine.setup), **libraries}


def _counts_on_device(group: dict[str, Any]) -> bool:
    """Whether an optimiser keeps its count of steps beside the parameters, as torch's fused and capturable ones do."""
    return bool(group.get("fused") or group.get("capturable"))


def _randomness(engine: Engine, generator: torch.Generator) -> dict[str, Tensor]:
    """The states of this process's generators, by kind."""
    found = {"generator": generator.get_state(), "torch": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(engine.device)} if engine.device.type == "cuda" else {})


def _set_random(kind: str, state: Tensor, generator: torch.Generator, device: torch.device) -> None:
    if kind == "generator":
        generator.set_state(state)
    elif kind == "torch":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
