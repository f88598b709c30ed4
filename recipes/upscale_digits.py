"""α-Flow from 4×4 to 8×8 digits: image to image, from the small digit itself or from noise."""

from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["alpha-flow", "flow-matching"] = "alpha-flow",  # Objective.
    start: Literal["image", "noise"] = "image",  # Where trajectories start; the image is a condition in both cases.
    steps: int = 2600,  # Number of training steps.
    batch_size: int = 128,  # Number of digits in each batch.
    lr: float = 2e-3,  # Learning rate; it falls to 0 in the second half.
) -> af.Recipe:
    """The first 1,500 digits, which are scaled down to blocks' means and up again; 297 by others are held out."""
    from torch.nn import functional as F

    digits = af.Digits().all().x[:1500]
    image = F.interpolate(F.avg_pool2d(digits, 2), scale_factor=2, mode="bicubic").clamp(-1, 1)
    source = af.FromCondition("image", noise=0.5) if start == "image" else af.Gaussian()
    flow, weighting = method == "flow-matching", af.AdaptiveWeighting(p=0.5)
    few_step = af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.25, source=source, weighting=weighting)
    return af.Recipe(
        model=af.DiT((1, 8, 8), patch=4, depth=4, width=128, heads=2, image=1),
        objective=af.FlowMatching(source=source, weighting=weighting) if flow else few_step,
        dataset=af.Arrays(x=digits, image=image, batch_size=batch_size),
        samplers=[af.ODE(nfe, solver="euler" if flow else "jump") for nfe in (1, 2, 4)],
        steps=steps,
        lr=af.Linear(start=steps // 2, end=steps, first=lr, last=0.0),
        ema=0.999,
    )
