"""α-Flow on 8×8 handwritten digits that come with the package: a one-step generator in minutes on a laptop."""

from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["alpha-flow", "mean-flow", "improved-mean-flow", "flow-matching"] = "alpha-flow",  # Objective.
    steps: int = 2600,  # Number of training steps.
    batch_size: int = 128,  # Number of digits in each batch.
    width: int = 128,  # Width of the network.
    depth: int = 4,  # Number of blocks.
    lr: float = 2e-3,  # Learning rate; it falls to 0 in the second half.
) -> af.Recipe:
    """A small class-conditional DiT; by default with the curriculum that anneals α from 1 to 0."""
    digits = af.Digits(batch_size=batch_size)
    weighting = af.AdaptiveWeighting(p=0.5)
    objective = {
        "alpha-flow": af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.25, weighting=weighting),
        "mean-flow": af.MeanFlow(fm_share=0.75, weighting=weighting),
        "improved-mean-flow": af.ImprovedMeanFlow(guidance=af.GuidanceInputs(), weighting=weighting),
        "flow-matching": af.FlowMatching(weighting=weighting),
    }[method]
    guided = method == "improved-mean-flow"  # its guidance is chosen when sampling: `alphaflow sample --guidance 2.5`
    solver: Literal["euler", "jump"] = "euler" if method == "flow-matching" else "jump"
    return af.Recipe(
        model=af.DiT(digits.shape, patch=4, depth=depth, width=width, heads=2, classes=digits.classes, guidance=guided),
        objective=objective,
        dataset=digits,
        samplers=[af.ODE(nfe, solver=solver) for nfe in (1, 2, 4)],
        steps=steps,
        lr=af.Linear(start=steps // 2, end=steps, first=lr, last=0.0),
        ema=0.999,
    )
