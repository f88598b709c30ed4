"""run.json: what it records of a run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.dataset import describe_data
from ..describe import Configured, NotDescribableError, describe

if TYPE_CHECKING:
    from ..recipe import Recipe


def describe_run(recipe: Recipe, seed: int, start: Path | str | None, setup: Any, processes: int) -> dict[str, Any]:
    """What run.json keeps beside the recipe's origin."""
    objects: dict[str, Any] = {"model": recipe.model, "autoencoder": recipe.decoder, "objective": recipe.objective}
    objects["source"] = recipe.objective.source
    objects["dataset"] = recipe.dataset
    described: dict[str, Any] = {name: _describe(value) for name, value in objects.items()}
    if described["model"] is not None and _was_changed(recipe.model):
        described["model"] = None
    described["samplers"] = {str(nfe): _describe(sampler) for nfe, sampler in recipe.samplers_by_nfe.items()}
    parameters = sum(parameter.numel() for parameter in recipe.model.parameters())
    begun = None if start is None else str(start)
    run = {"steps": recipe.steps, "seed": seed, "parameters": parameters, "start": begun}
    settings = ("lr", "betas", "weight_decay", "ema", "clip")
    return {
        **described,
        "data": describe_data(recipe.dataset),
        **run,
        "training": {name: _describe(getattr(recipe, name)) for name in settings},
        "setup": _describe(setup),
        "processes": processes,
    }


def _describe(value: Any) -> Any:
    """The description, or None where the value is the user's own: the recipe rebuilds it then."""
    with suppress(NotDescribableError):
        return describe(value)
    return None


def _was_changed(model: nn.Module) -> bool:
    """Whether a network has other weights than its description builds, as one with adapters put into it has."""
    assert isinstance(model, Configured)
    assert model.config is not None
    if any(_was_changed(part) for part in model.config.values() if isinstance(part, nn.Module)):
        return True
    with torch.device("meta"):
        plain = type(model)(**model.config).state_dict()
    shapes = ({name: weight.shape for name, weight in weights.items()} for weights in (model.state_dict(), plain))
    return next(shapes) != next(shapes)


KEYS = {"recipe", "model", "autoencoder", "samplers", "data", "steps", "seed"}

SECOND_TIME = "t - r"
"""The second time that alphaflow's networks embed, as run.json has it; before it did, they embedded r."""


@dataclass(frozen=True)
class Origin:
    """Where a recipe came from: enough to call it again.

    Attributes:
        name: as the command line knows it, for example ``digits``.
        text: the recipe file's source; empty where the recipe was composed in Python without a file.
        function: the recipe function's name in that file.
        arguments: what it was called with, as JSON values.
        folder: where the file lay, for the modules beside it; None for built-in recipes.
        directory: the working directory, which relative paths among the arguments are of; None where nobody said.
    """

    name: str
    text: str = ""
    function: str = "recipe"
    arguments: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None
    directory: str | None = None


def wrong_types(record: dict[str, Any]) -> str:
    """The first entry of run.json that is of another type than `RunFolder.create` writes; empty if none is."""
    data, recipe = record["data"], record["recipe"]
    expected: list[tuple[str, Any, tuple[type, ...]]] = [
        ("recipe", recipe, (dict,)), ("data", data, (dict,)), ("samplers", record["samplers"], (dict,)),
        ("model", record["model"], (dict, type(None))), ("autoencoder", record["autoencoder"], (dict, type(None))),
        ("steps", record["steps"], (int,)), ("seed", record["seed"], (int,)),
        ("start", record.get("start"), (str, type(None))), ("source", record.get("source"), (dict, type(None))),
        ("objective", record.get("objective"), (dict, type(None))),
    ]  # fmt: skip
    extended = record.get("extended", [])
    expected += [("extended", extended, (list,))]
    if isinstance(extended, list):
        expected += [("extended", entry, (dict,)) for entry in extended]
        expected += [("extended.step", entry.get("step"), (int,)) for entry in extended if isinstance(entry, dict)]
    if isinstance(record.get("objective"), dict):
        expected += [("objective.guidance", record["objective"].get("guidance"), (dict, type(None)))]
    if isinstance(record["samplers"], dict):
        expected += [("samplers", int(nfe) if nfe.isdecimal() else nfe, (int,)) for nfe in record["samplers"]]
    if isinstance(data, dict):
        expected += [("data.sampled_classes", data.get("sampled_classes"), (int, type(None)))]
        expected += [("data.shape", data.get("shape"), (list,)), ("data.class_names", data.get("class_names"), (list,))]
        expected += [("data.classes", data.get("classes"), (int, type(None)))]
        expected += [("data.shape", n, (int,)) for n in data.get("shape") or ()]
        expected += [("data.class_names", name, (str,)) for name in data.get("class_names") or ()]
    if isinstance(recipe, dict):
        expected += [(f"recipe.{name}", recipe.get(name), (str,)) for name in ("name", "function")]
        expected += [("recipe.arguments", recipe.get("arguments"), (dict,))]
        expected += [(f"recipe.{name}", recipe.get(name), (str, type(None))) for name in ("folder", "directory")]
    return next((name for name, value, types in expected if not isinstance(value, types)), "")
