"""What is rebuilt of a run: its network by its description, all else by its recipe.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from ..describe import rebuild
from ..errors import UserError
from ..models.dit import DiT
from ..models.mit import MiT
from ..models.noise_prediction import NoisePrediction
from ..recipe import Recipe
from ..recipe_files import builtin_recipes, builtin_source, load_recipe
from ..recipe_modules import importing
from ..samplers import ODE, SAMPLERS, Consistency, Sampler
from ..sources import SOURCES, Gaussian, Source
from ..text.text_encoder import TextEncoder
from ..text.text_encoders import TEXT_ENCODERS
from .checkpoint import missing
from .composed import composed_recipe
from .folder import RunFolder
from .pipeline import MAX_NFE

NETWORKS = {"DiT": DiT, "MiT": MiT, "NoisePrediction": NoisePrediction}
"""What run.json may name as one."""


def network_of(record: dict[str, Any], weights: Path, where: Path) -> nn.Module:
    """The network that a record describes, whatever its weights; not one that a file of weights can't be of.

    Raises:
        UserError: it is none of alphaflow's, or larger than the file, or there is no file.
    """
    with torch.device("meta"):  # takes no memory
        size = sum(weight.nbytes for weight in rebuild(record["model"], NETWORKS).parameters())
    if not weights.is_file():
        raise missing(weights)
    if size > 2 * weights.stat().st_size + 2**28:  # one cut short is said to be so, later
        raise UserError(f"{where} describes a network of {size:,} bytes, which {weights} can't hold")
    return cast(nn.Module, rebuild(record["model"], NETWORKS))


def samplers_of(record: dict[str, Any], where: Path) -> dict[int, Sampler]:
    """The samplers that a record describes, by number of network evaluations.

    Raises:
        UserError: one is none of alphaflow's.
    """
    samplers = {int(nfe): cast(Sampler, rebuild(part, SAMPLERS)) for nfe, part in record["samplers"].items()}
    for nfe, sampler in samplers.items():
        if not isinstance(sampler, ODE | Consistency) or sampler.nfe != nfe or nfe > MAX_NFE:
            raise UserError(f"{where} is damaged: samplers holds what is no sampler of {nfe} evaluations; restore it")
    return samplers


def label_drop_of(record: dict[str, Any]) -> float | None:
    """The share of samples that the network was trained on without their label; None where that isn't known."""
    trained = record.get("objective")
    return None if trained is None else (trained.get("guidance") or {}).get("label_drop", 0)


def source_of(record: dict[str, Any]) -> Source | None:
    """The source that a run records, `Gaussian` where one of earlier versions says nothing; None if it is the user's.

    Raises:
        UserError: it is none of alphaflow's.
    """
    described = record.get("source", {"type": Gaussian.__name__})
    return None if described is None else cast(Source, rebuild(described, SOURCES))


def text_encoder_of(record: dict[str, Any]) -> TextEncoder:
    """What made tokens of the sentences that a run was trained on.

    Raises:
        UserError: the run doesn't say, or names none of alphaflow's.
    """
    described = record["data"].get("text")
    if described is None:
        raise UserError(
            "this run doesn't record how its sentences were encoded: encode yours as its data were, and give "
            "the tokens with `cond=`"
        )
    return cast(TextEncoder, rebuild(described, TEXT_ENCODERS))


def recipe_of(folder: RunFolder, *, trust: bool = False) -> Recipe:
    """Runs a run's recipe.py with its arguments: its dataset, objective, and all else.

    That of a run which was composed in Python is rebuilt from run.json.

    Args:
        folder: folder of the run.
        trust: run it whatever it holds; if not, only if it is one of the built-in recipes, to the letter.

    Raises:
        UserError: the recipe isn't trusted, or can't be run, or rebuilt.
    """
    origin = folder.origin()
    if not origin.text:
        return composed_recipe(folder, NETWORKS)
    known = origin.function == "recipe" and origin.text in map(builtin_source, builtin_recipes())
    if not (known or trust):
        raise UserError(
            f"{folder.recipe} would be run, and is not one of the built-in recipes: read it, then give `trust=True`; "
            "evaluating doesn't need it where a reference is given"
        )
    beside = None if known else Path(origin.folder or folder.modules)
    with importing(folder.modules, [beside]) if beside is not None else nullcontext():
        found = load_recipe(origin.text, origin.name, folder.recipe, origin.function, beside, first=False)
        hints = {parameter.name: parameter.type for parameter in found.parameters}
        places = [Path(origin.directory) if origin.directory else None, folder.path.resolve()]
        given = origin.arguments.items()
        return found(**{name: _typed(value, hints.get(name), places) for name, value in given})


def _typed(value: Any, hint: Any, places: Sequence[Path | None]) -> Any:
    """A JSON value as the recipe's parameter takes it: paths are kept as text.

    A relative one is looked for from here, then from where the run was started, and beside the run's own files.
    """
    if not (isinstance(value, str) and hint is not None and _takes_path(hint)):
        return value
    tried = [Path(value), *(place / value for place in places if place is not None)]
    there = next((path for path in tried if path.exists()), None)
    if there is None:  # where the user would look for it
        there = tried[1] if places[0] is not None and places[0].is_dir() else tried[0]
    return there


def _takes_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)
