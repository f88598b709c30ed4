"""Measuring while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..metrics.catalogue import check_metrics
from ..metrics.compare import MIN_SAMPLES
from ..printing import Compact
from ..recipe import Recipe
from ..run import Run
from ..training.distributed import World
from .evaluate import Options, find_reference, measure_sets, samples_of
from .evaluator import Evaluator
from .reference import Reference
from .result import flat


@dataclass(frozen=True, repr=False)
class Evaluation(Compact):
    """Measures samples during training against the training data: ``Trainer(recipe, evaluation=Evaluation(1000))``.

    Its values, ``pixel-fd_1`` and so on (the value's name and the network evaluations a sample), stand in metrics.jsonl
    as ``eval/pixel-fd_1`` and in the manifest of the next checkpoint, for ``Keep(best="pixel-fd_1")``.

    Args:
        every: steps between measurements; the last step is measured too.
        nfes: network evaluations a sample.
        count: samples.
        metrics: names of METRICS.
        seed: of the noise.
        reference: real pictures or clips, a file of statistics, a data set's name; None for the training data.
        weights: files of extractors' weights, by extractor.
    """

    shares: ClassVar[bool] = True
    """It takes ``world``: all processes of a training share the work."""

    every: int
    nfes: tuple[int, ...] = (1,)
    count: int = 1000
    metrics: tuple[str, ...] = ("pixel-fd",)
    seed: int = 0
    reference: Path | str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        if self.every < 1 or self.count < MIN_SAMPLES:
            raise ValueError(f"Evaluation needs every >= 1 and count >= {MIN_SAMPLES}, got {self}")

    def __call__(
        self, recipe: Recipe, model: nn.Module, device: torch.device, world: World | None = None
    ) -> dict[str, float]:
        """What is measured of this network, by all processes of ``world``; empty in all but the first."""
        run = Run.of(recipe, model, device)
        options = Options(metrics=self.metrics, nfes=self.nfes, count=self.count, seeds=(self.seed,))
        if self._made.get("of") is not recipe.dataset:  # another recipe's measurements have another reference
            given = self.reference
            shape, fps = run.pixel_shape, run.fps
            found = Reference.of_run(run) if given is None else find_reference(given, options, shape, device, fps)
            made = Evaluator(self.metrics, found, device=device, weights=self.weights, world=world)
            self._made.update(of=recipe.dataset, evaluator=made)
        rows, _ = measure_sets(self._made["evaluator"], samples_of(run, options), options)
        return dict(flat([row for row in rows if row.nfe is not None]))
