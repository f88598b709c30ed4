"""Averages of weights of any width, after training (EDM2, arXiv 2312.02696, section 3.2)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from ..averages import PowerLaw
from ..errors import UserError
from .checkpoint import read_plain
from .folder import RunFolder, step_of


def post_hoc_average(run: Path | str, width: float, step: int | None = None) -> dict[str, Tensor]:
    """The weights' power-law average of any width, from those that a run kept in its checkpoints.

    The wanted profile of weights over training is approached by a combination of the kept ones', by least squares
    (EDM2, algorithm 3); the closer the kept widths and the more checkpoints, the closer it is.

        run = af.Run("runs/mine")
        run.model.load_state_dict(af.post_hoc_average("runs/mine", 0.12))

    Args:
        run: its folder; its recipe kept averages with `PowerLaw`.
        width: σ_rel.
        step: step of the average; None for the last checkpoint.

    Raises:
        UserError: it is not a run, kept none, or has no such checkpoint.
    """
    folder = RunFolder(run)
    folder.read()
    end = step_of(folder.checkpoint_of(step))
    kept: list[tuple[Path, float, float]] = []
    for place in folder.checkpoints():
        saved = read_plain(place)
        for name, kept_width in saved["widths"].items():
            if saved["step"] <= end and saved["updates"][name]:
                kept.append((place / f"{name}.safetensors", saved["updates"][name], PowerLaw(kept_width).gamma))
    if not kept:
        raise UserError(f"{run} kept no power-law average: give its recipe ema=(0.9999, af.PowerLaw(0.05), …)")
    times, gammas = np.array([t for _, t, _ in kept]), np.array([gamma for *_, gamma in kept])
    shares = combination(times, gammas, max(times), PowerLaw(width).gamma)
    total: dict[str, Tensor] = {}
    for (file, *_), share in zip(kept, shares.tolist(), strict=True):
        for name, weight in load_file(file).items():
            part = weight.double() * share if weight.is_floating_point() else weight
            total[name] = total[name] + part if name in total and weight.is_floating_point() else part
    return {name: weight.float() if weight.is_floating_point() else weight for name, weight in total.items()}


Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def combination(times: Numbers, gammas: Numbers, time: float, gamma: float) -> Numbers:
    """How much of each kept average makes the wanted one: least squares between their profiles.

    Args:
        times: updates of the kept averages, (n,).
        gammas: their γ, (n,).
        time: updates of the wanted one.
        gamma: its γ.
    """
    among = np.array(
        [[overlap(a, c, b, d) for b, d in zip(times, gammas, strict=True)] for a, c in zip(times, gammas, strict=True)]
    )
    wanted = np.array([overlap(a, c, time, gamma) for a, c in zip(times, gammas, strict=True)])
    shares: Numbers = np.linalg.lstsq(among, wanted, rcond=1e-12)[0]
    return shares


def overlap(time: float, gamma: float, other_time: float, other_gamma: float) -> float:
    """∫ p·q dτ of two profiles, p(τ) = (γ + 1)·τ^γ / t^(γ + 1) on [0, t]."""
    low = math.log(min(time, other_time))
    exponent = (gamma + other_gamma + 1) * low
    exponent -= (gamma + 1) * math.log(time) + (other_gamma + 1) * math.log(other_time)
    return (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * math.exp(exponent)
