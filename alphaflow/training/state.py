"""What training needs to go on exactly, beside the weights: torch.distributed.checkpoint's format.

The optimiser's state is kept by parameters' names, so that any number of processes, whole or sharded, can go on from
it. What is no tensor stands in state.json.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .distributed import World, is_split, local
from .ema import PowerLaw
from .engine import Engine

FOLDER, PLAIN = "training", "state.json"
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
_OPTIMIZER, _OBJECTIVE, _RANDOM = "optimizer.", "objective.", "random."


def tensors(engine: Engine, generator: torch.Generator) -> dict[str, Tensor]:
    """Copies, on the CPU, of the optimiser's tensors, the objective's own weights, and this process's randomness."""
    found: dict[str, Tensor] = {}
    for name, parameter in engine.named_parameters():
        for key, value in engine.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{_OPTIMIZER}{name}.{key}"] = _copied(value)
    if engine.network is not None:
        found |= {_OBJECTIVE + name: _copied(value) for name, value in engine.network.state_dict().items()}
    rank = engine.world.rank
    found[f"{_RANDOM}generator.{rank}"] = generator.get_state().clone()
    found[f"{_RANDOM}torch.{rank}"] = torch.get_rng_state()
    if engine.device.type == "cuda":
        found[f"{_RANDOM}cuda.{rank}"] = torch.cuda.get_rng_state(engine.device)
    return found


def plain(engine: Engine) -> dict[str, Any]:
    """What is no tensor: numbers in the optimiser's state and groups, and how often each average was updated."""
    numbers = {
        f"{name}.{key}": value
        for name, parameter in engine.named_parameters()
        for key, value in engine.optimizer.state.get(parameter, {}).items()
        if not isinstance(value, Tensor)
    }
    groups = [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, (bool, int, float, str))}
        for group in engine.optimizer.param_groups
    ]
    updates = {name: average.updates for name, average in engine.averages.items()}
    widths = {n: average.decay.width for n, average in engine.averages.items() if isinstance(average.decay, PowerLaw)}
    run = {"world": engine.world.size, "device": engine.device.type}
    return {**run, "numbers": numbers, "groups": groups, "updates": updates, "widths": widths}


def write(folder: Path, found: dict[str, Tensor], world: World) -> None:
    """Writes tensors to FOLDER/training; all processes together, each its part."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_state

    place = folder / FOLDER
    writer = FileSystemWriter(place, thread_count=1)
    save_state(found, storage_writer=writer, process_group=world.files, no_dist=world.size == 1)


def read_plain(folder: Path) -> dict[str, Any]:
    """state.json.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / PLAIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PLAIN} can't be read: {error}") from error
    return found


def read(folder: Path, saved: dict[str, Any], engine: Engine, generator: torch.Generator) -> bool:
    """Brings optimiser, objective and randomness to a checkpoint's state.

    Returns:
        Whether randomness goes on where it stood: it does with as many processes as before, on the same kind of device.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_state

    same: bool = saved["world"] == engine.world.size and saved["device"] == engine.device.type
    reader = FileSystemReader(folder / FOLDER)
    sizes: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    optimizer: dict[torch.nn.Parameter, dict[str, Any]] = {}
    wanted: dict[str, Tensor] = {}
    on_device = {p for group in engine.optimizer.param_groups if _counts_on_device(group) for p in group["params"]}
    owned: dict[str | None, list[str]] = {}
    for entry in sizes:
        owned.setdefault(_owner(entry), []).append(entry)
    named = dict(engine.named_parameters())
    for name, parameter in named.items():
        optimizer[parameter] = {}
        for entry in owned.get(name, []):
            key = entry.rpartition(".")[2]
            where = "cpu" if key == "step" and parameter not in on_device else parameter.device
            wanted[entry] = optimizer[parameter][key] = _like(sizes[entry], parameter, where)
    own = {} if engine.network is None else engine.network.state_dict()
    wanted |= {_OBJECTIVE + name: value.clone() for name, value in own.items()}
    rank = engine.world.rank
    random = [entry for entry in sizes if entry.startswith(_RANDOM) and entry.endswith(f".{rank}")] if same else []
    wanted |= {entry: torch.empty(sizes[entry].size, dtype=torch.uint8) for entry in random}
    load_state(wanted, storage_reader=reader, no_dist=engine.world.size == 1)

    for key, value in saved["numbers"].items():
        name, _, kind = key.rpartition(".")
        optimizer[named[name]][kind] = value
    engine.optimizer.state.clear()
    engine.optimizer.state.update({p: values for p, values in optimizer.items() if values})
    for group, values in zip(engine.optimizer.param_groups, saved["groups"], strict=True):
        group.update(values)
    for name, average in engine.averages.items():
        average.updates = saved["updates"].get(name, average.updates)
    if engine.network is not None:
        engine.network.load_state_dict({name: wanted[_OBJECTIVE + name] for name in own})
    for entry in random:
        _set_random(entry.removeprefix(_RANDOM).rpartition(".")[0], wanted[entry], generator, engine.device)
    return same


def _owner(entry: str) -> str | None:
    """The parameter whose optimiser state an entry is."""
    return entry.removeprefix(_OPTIMIZER).rpartition(".")[0] if entry.startswith(_OPTIMIZER) else None


def _counts_on_device(group: dict[str, Any]) -> bool:
    """Whether an optimiser keeps its count of steps beside the parameters, as torch's fused and capturable ones do."""
    return bool(group.get("fused") or group.get("capturable"))


def _like(meta: Any, parameter: Tensor, where: torch.device | str) -> Tensor:
    """An empty tensor for a saved one, split as the parameter is if it has the parameter's shape."""
    dtype = meta.properties.dtype
    if meta.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(meta.size, dtype=dtype, device=where)


def _set_random(kind: str, state: Tensor, generator: torch.Generator, device: torch.device) -> None:
    if kind == "generator":
        generator.set_state(state)
    elif kind == "torch":
        torch.set_rng_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)


def _copied(tensor: Tensor) -> Tensor:
    """A copy on the CPU that training doesn't change; of a split tensor, this process's part."""
    if not is_split(tensor):
        return tensor.detach().to("cpu", copy=True)
    from torch.distributed.tensor import DTensor

    split: Any = tensor
    mesh = split.device_mesh
    if mesh.device_type != "cpu":
        mesh = _on_cpu(tuple(mesh.shape), mesh.mesh_dim_names)
    part = local(tensor.detach()).to("cpu", copy=True)
    return DTensor.from_local(part, mesh, split.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


@cache
def _on_cpu(shape: tuple[int, ...], names: tuple[str, ...]) -> Any:
    """The mesh of the same processes on their CPUs; made once, because it makes process groups."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape, mesh_dim_names=names)
