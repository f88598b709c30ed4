"""Measuring while training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..describe import Compact
from ..measurement import Measurement
from ..metrics.kid import SIZE
from ..parallel.world import World
from ..recipe import Recipe
from ..runs.pipeline import InTraining
from .catalogue import MAX_PIXELS, OUTPUTS, check_metrics, value_names
from .compare import MIN_SAMPLES
from .evaluator import Evaluator
from .measure import Sets, Settings, find_reference, measure_sets, samples_of
from .reference import EvaluationReference
from .result import flat


@dataclass(frozen=True, repr=False)
class TrainingEvaluation(Compact, Measurement):
    """Measures samples during training against the training data.

    ``Trainer(recipe, evaluation=TrainingEvaluation(1000))`` does so every 1,000 steps.

    Its values, ``pixel-fd_1`` and so on (the value's name and the network evaluations a sample), stand in metrics.jsonl
    as ``eval/pixel-fd_1`` and in the manifest of the next checkpoint, for ``CheckpointRetention(best="pixel-fd_1")``.

    Args:
        every: steps between measurements; the last step is measured too.
        nfes: network evaluations a sample.
        count: samples.
        metrics: names of METRICS; None for ``pixel-fd``, or ``random-fd`` of samples over 4,096 pixel values: both
            need no file; ``sliced-wasserstein`` of samples that are no pictures.
        seed: seed of the noise.
        reference: real pictures or clips, a file of statistics, a data set's name; None for the training data.
        weights: files of extractors' weights, by extractor.
        kid_subset_size: samples of each side in one of KID's subsets.
    """

    shares: ClassVar[bool] = True
    """It takes ``world``: all processes of a training share the work."""

    every: int
    nfes: tuple[int, ...] = (1,)
    count: int = 1000
    metrics: tuple[str, ...] | None = None
    seed: int = 0
    reference: Path | str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    kid_subset_size: int = SIZE
    _made: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        if self.metrics is not None:
            check_metrics(self.metrics)
        if self.every < 1 or self.count < MIN_SAMPLES:
            raise ValueError(f"TrainingEvaluation needs every >= 1 and count >= {MIN_SAMPLES}, got {self}")

    def __call__(
        self, recipe: Recipe, model: nn.Module, device: torch.device, world: World | None = None
    ) -> dict[str, float]:
        """What is measured of this network, by all processes of ``world``; empty in all but the first."""
        evaluator, sets, settings = self._opened(recipe, model, device, world)
        rows, _ = measure_sets(evaluator, sets, settings)
        return dict(flat([row for row in rows if row.nfe is not None]))

    def higher(self, value: str) -> bool:
        """Whether more of a value, ``pixel-recall_1``, is better."""
        known = OUTPUTS.get(value.rpartition("_")[0])
        return known is not None and known.higher

    def check(
        self, recipe: Recipe, model: nn.Module, device: torch.device, world: World | None = None
    ) -> tuple[str, ...]:
        """Opens all that measuring this recipe takes, before its first step; the names of what will be measured.

        Raises:
            UserError: it can't be measured so: missing weights, another shape, too few samples, no such sampler, …
        """
        evaluator, sets, _ = self._opened(recipe, model, device, world)
        for _, _, samples in sets:
            evaluator.check(samples)
        names = [name for metric in evaluator.metrics for name in value_names(metric, sets[0][2].shape)]
        return tuple(f"{name}_{nfe}" for nfe in self.nfes for name in names)

    def _opened(
        self, recipe: Recipe, model: nn.Module, device: torch.device, world: World | None
    ) -> tuple[Evaluator, Sets, Settings]:
        """What measures, opened at the first call, and the samples to measure."""
        run = InTraining(recipe, model, device)
        shape, given = run.pixel_shape, self.reference
        small = "pixel-fd" if math.prod(shape) <= MAX_PIXELS else "random-fd"
        metrics = self.metrics or (small if run.makes_pictures else "sliced-wasserstein",)
        settings = Settings(metrics=metrics, nfes=self.nfes, count=self.count, seeds=(self.seed,))
        if self._made.get("of") is not recipe.dataset:  # another recipe's measurements have another reference
            found = (
                EvaluationReference.of_run(run)
                if given is None
                else find_reference(given, settings, shape, device, run.fps)
            )
            more: dict[str, Any] = {"weights": self.weights, "kid_subset_size": self.kid_subset_size}
            made = Evaluator(metrics, found, device=device, world=world, **more)
            self._made.update(of=recipe.dataset, evaluator=made)
        evaluator: Evaluator = self._made["evaluator"]
        return evaluator, samples_of(run, settings, evaluator.reference), settings
