"""The recipe of a run that was composed in Python, from run.json: alphaflow's own objects are all described there."""

from __future__ import annotations

from typing import Any

from ..autoencoders.opening import AUTOENCODERS
from ..data.array_data import Arrays
from ..data.dataset import Dataset
from ..data.digits import Digits, PenDigits
from ..data.folders import ImageFolder, VideoFolder
from ..data.latent_shards import LatentShards
from ..data.mixture import Mixture
from ..describe import rebuild
from ..errors import UserError
from ..guidance import Guidance, GuidanceInputs
from ..objectives.align_your_flow import AlignYourFlow
from ..objectives.alpha_flow import AlphaFlow, MeanFlow, SoFlow, TrajectoryFlowMatching
from ..objectives.consistency import ConsistencyTraining, ContinuousConsistency
from ..objectives.decoupled_mean_flow import DecoupledMeanFlow
from ..objectives.facm import FACM
from ..objectives.flow_matching import FlowMatching
from ..objectives.improved_mean_flow import ImprovedMeanFlow
from ..objectives.lagrangian import Lagrangian, TerminalVelocity
from ..objectives.shortcut import Shortcut, SplitMeanFlow
from ..objectives.transition_model import TransitionModel
from ..pairs import DyadicPairs, GapPairs, TimePairs
from ..recipe import Recipe
from ..samplers import SAMPLERS
from ..schedules import (
    Constant,
    Cosine,
    DoublingIntervals,
    Exponential,
    Linear,
    Logarithmic,
    Sigmoid,
    StepSchedule,
    WarmUp,
)
from ..sources import SOURCES, OptimalTransport
from ..text.text_encoders import TEXT_ENCODERS
from ..times import (
    ArctanLogNormal,
    BetaTimes,
    LogitNormal,
    TruncatedLogitNormal,
    UniformTimes,
)
from ..weighting import AdaptiveWeighting, InverseAlphaWeighting, UniformWeighting
from .folder import RunFolder

DATASETS = {
    kind.__name__: kind for kind in (Arrays, Digits, PenDigits, ImageFolder, VideoFolder, LatentShards, Mixture)
}
"""What it may name as a dataset: what reads files on a disk. Nothing that fetches, or runs a command."""

_PARTS: tuple[Any, ...] = (
    AlphaFlow, MeanFlow, TrajectoryFlowMatching, ConsistencyTraining, ContinuousConsistency, FACM, FlowMatching,
    ImprovedMeanFlow, Shortcut, SplitMeanFlow, AlignYourFlow, DecoupledMeanFlow, Lagrangian, SoFlow, TerminalVelocity,
    TransitionModel,
    Constant, Cosine, DoublingIntervals, Exponential, Linear, Logarithmic, Sigmoid, StepSchedule, WarmUp,
    ArctanLogNormal, BetaTimes, DyadicPairs, GapPairs, LogitNormal, TimePairs, TruncatedLogitNormal, UniformTimes,
    Guidance, GuidanceInputs, AdaptiveWeighting, InverseAlphaWeighting, UniformWeighting, OptimalTransport,
)  # fmt: skip
LONGEST = 2**63
"""More than any step of a schedule, or seed."""

OBJECTIVES = {**{kind.__name__: kind for kind in _PARTS}, **SOURCES}
"""What it may name as an objective, or as a part of one. No network: a teacher's weights aren't the run's."""


def composed_dataset(folder: RunFolder) -> Dataset:
    """The data of a run that was composed in Python, in an order of their own.

    Raises:
        UserError: run.json doesn't describe them, or they aren't there.
    """
    found: Dataset = _rebuilt(folder, "dataset", folder.read().get("dataset"), {**DATASETS, **TEXT_ENCODERS})
    return found


def composed_recipe(folder: RunFolder, networks: dict[str, Any]) -> Recipe:
    """The recipe of a run that was composed in Python; what only training needs (rates, averages) is as by default.

    Args:
        folder: folder of the run.
        networks: what run.json may name as a network.

    Raises:
        UserError: run.json doesn't describe one of its parts, or it can't be built.
    """
    record = folder.read()
    if (record.get("objective") or {}).get("teacher") is not None:
        raise UserError(f"{folder.path} was composed in Python with a teacher, whose weights are not the run's")
    return Recipe(
        model=_rebuilt(folder, "model", record["model"], networks),
        objective=_rebuilt(folder, "objective", record.get("objective"), OBJECTIVES),
        dataset=composed_dataset(folder),
        steps=record["steps"],
        samplers=[_rebuilt(folder, "sampler", part, SAMPLERS) for part in record["samplers"].values()],
        autoencoder=_rebuilt(folder, "autoencoder", record["autoencoder"], AUTOENCODERS),
    )


def _rebuilt(folder: RunFolder, part: str, described: Any, kinds: dict[str, Any]) -> Any:
    if described is None:
        if "converted" in folder.read():
            raise UserError(
                f"{folder.path} was converted from weights, and knows no {part} that they were trained with or on; to "
                "evaluate it, give `reference=`"
            )
        instead = "to evaluate it, give `reference=`; or c" if part == "dataset" else "c"
        raise UserError(
            f"{folder.path} was composed in Python and has no recipe.py, and its {part} is none of alphaflow's that "
            f"run.json describes; {instead}ompose it in a recipe file"
        )
    return rebuild(described, kinds, **({"most": LONGEST} if part in ("objective", "dataset") else {}))
