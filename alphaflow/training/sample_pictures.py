"""Sample pictures while training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..data.dataset import Form
from ..media.previews import Chart, Picture
from ..recipe import Recipe
from ..runs.condition_rows import shown_beside
from ..runs.conditioning import Conditioning
from ..runs.labels import balanced_labels
from ..runs.pipeline import InTraining
from ..types import Batch, Cond

GRID_SEED = 2**31 - 1
"""Seed of the noise behind sample pictures: the same at every step, apart from training's own randomness."""

PICTURES, CLIPS, POINTS = 8, 4, 512
"""Samples that are drawn beside the data that they are made from, or compared with."""


def example_count(recipe: Recipe) -> int:
    """How many samples of the data are looked at beside a run's samples, of those that can be drawn."""
    dimensions = len(recipe.dataset.shape)
    return {1: POINTS, 4: CLIPS}.get(dimensions, PICTURES)


def fixed_examples(recipe: Recipe) -> Batch | None:
    """The same few samples, spread evenly over the data; None where these have no order, or none are needed."""
    known = recipe.dataset.indexed
    if known is None or (len(recipe.dataset.shape) > 2 and not Conditioning.of(recipe).needed):
        return None
    return known.fetch(np.linspace(0, len(known) - 1, min(example_count(recipe), len(known))).round().astype(np.int64))


def sample_picture(
    recipe: Recipe, model: nn.Module, device: torch.device, examples: Batch | None = None
) -> Picture | Chart | None:
    """One batch of samples by the recipe's cheapest sampler; None for data that can't be drawn.

    Of images eight for each class, a column a class; of clips one each; of 16 classes at most. Samples that are made
    from conditions other than labels are made from those of the examples: a row of the input, the sample, and the
    truth. Numbers, points and series are charts, beside the data.

    Args:
        recipe: recipe of the run.
        model: the network.
        device: where it is.
        examples: samples of the data.
    """
    if not recipe.samplers:
        return None
    run = InTraining(recipe, model, device)
    if run.conditioning.forms is None and examples is not None:  # a stream: nobody knew before it was read
        forms = {name: Form.of(tensor) for name, tensor in examples.cond.tensors.items()}
        run.conditioning = replace(run.conditioning, forms=forms)
    if not run.makes_pictures and len(run.pixel_shape) > 2:
        return None
    if run.conditioning.needed or not run.makes_pictures:
        return None if examples is None else _beside(run, examples)
    columns = min(run.sampled_classes or 8, 16)
    count = columns * (8 if len(run.shape) == 3 else 1)
    labels = balanced_labels(count, columns) if run.sampled_classes else None
    pixels = run.maker(min(run.samplers), seed=GRID_SEED)(0, count, Cond(labels=labels))
    return Picture(pixels, columns if len(run.shape) == 3 else None, run.fps)


def _beside(run: InTraining, examples: Batch) -> Picture | Chart | None:
    """Samples made from the conditions of the examples, beside these."""
    if tuple(examples.x.shape[1:]) != run.shape:  # of a mixture's images
        return None
    count = len(examples.x)
    cond = run.conditions(count, cond=run.conditioning.picked(examples.cond))
    samples = run.maker(min(run.samplers), seed=GRID_SEED)(0, count, cond)
    inputs, truths = shown_beside(run, cond, examples.x)
    if run.makes_pictures:
        return Picture.beside(samples, inputs, truths, fps=run.fps)
    stacks = {"input": inputs, "data": truths, "samples": samples}
    if not run.conditioning.needed and len(run.pixel_shape) == 2:
        stacks.pop("data")  # other series than these samples
    return Chart.of({name: stack for name, stack in stacks.items() if stack is not None})
