"""Gradient conflict measured while training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..describe import Compact
from ..objectives.objective import Objective
from ..types import Batch
from .gradients import measure_conflict

PREFIX = "probe/"
"""Before the names of a probe's values in metrics.jsonl."""


@dataclass(frozen=True, repr=False)
class GradientProbe(Compact):
    """Measures `GradientConflict` every so many steps on the batch just trained on.

    ``Trainer(recipe, probe=GradientProbe())`` has one.

    Its values join the row of that step in metrics.jsonl: ``probe/cos_tfm_tc``, ``probe/cos_tc_fm``,
    ``probe/cos_tfm_fm``, ``probe/norm_tfm``, … and, with more than one draw, ``probe/variance_tfm``, … (over times and
    noise only: the draws share their samples). Training goes on as if it had not been there: the same weights, bit for
    bit. A draw costs about as much as six training steps.

    Args:
        every: steps between measurements; the last step is measured too.
        draws: how often times and noise are drawn for the batch.
    """

    every: int = 100
    draws: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.draws < 1:
            raise ValueError(f"GradientProbe needs every >= 1 and draws >= 1, got {self.every} and {self.draws}")

    def __call__(self, model: nn.Module, objective: Objective, batch: Batch, step: int) -> dict[str, float]:
        """The values at this step, by name; what is undefined (the angle to a zero gradient) is left out."""
        generator = torch.Generator(batch.x.device).manual_seed(step)
        found = measure_conflict(model, objective, [batch] * self.draws, step, generator)
        named = {"cos": found.cosine, "norm": found.norm, "variance": found.variance, "loss": found.loss}
        values = {f"{PREFIX}{kind}_{name}": value for kind, part in named.items() for name, value in part.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}
