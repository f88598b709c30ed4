"""α-Flow on clips of handwritten digits that move and bounce: a one-step video generator in minutes on a laptop."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["alpha-flow", "mean-flow", "flow-matching"] = "alpha-flow",  # Objective.
    cache: Path | None = None,  # Folder for the rendered clips; by default the user's cache.
    digits: int = 1797,  # Number of digits to render.
    steps: int = 10_000,  # Number of training steps.
    batch_size: int = 32,  # Number of clips in each batch.
    width: int = 128,  # Width of the network.
    depth: int = 4,  # Number of blocks.
    lr: float = 2e-3,  # Learning rate; it falls to 0 in the second half.
) -> af.Recipe:
    """The clips are rendered to MP4 and encoded to shards at the first run; patches are of 4 frames, 4 × 4 pixels."""
    clips = af.LatentShards(af.moving_digits(cache, digits=digits), batch_size=batch_size, kind="clips")
    # eight frames of one digit show it through more noise than an image does: times nearer to 1
    times, weighting = af.LogitNormal(0.5, 1.0), af.AdaptiveWeighting(p=0.5)
    alpha = af.Sigmoid(end=max(steps * 2 // 3, 1))
    objective = {
        "alpha-flow": af.AlphaFlow(alpha=alpha, fm_share=0.5, times=times, weighting=weighting),
        "mean-flow": af.MeanFlow(fm_share=0.75, times=times, weighting=weighting),
        "flow-matching": af.FlowMatching(times=times, weighting=weighting),
    }[method]
    return af.Recipe(
        model=af.DiT(clips.shape, patch=(4, 4, 4), depth=depth, width=width, heads=2, classes=clips.classes),
        objective=objective,
        dataset=clips,
        samplers=[af.ODE(nfe, solver="euler" if method == "flow-matching" else "jump") for nfe in (1, 2, 4)],
        steps=steps,
        autoencoder=clips.autoencoder,
        lr=af.Linear(start=steps // 2, end=steps, first=lr, last=0.0),
        ema=0.999,
        clip=1.0,
    )
