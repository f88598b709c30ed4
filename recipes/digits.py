"""α-Flow on 8×8 handwritten digits that come with the package: a one-step generator in minutes on a laptop."""

from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["alpha-flow", "mean-flow", "flow-matching"] = "alpha-flow",
    steps: int = 3000,
    batch_size: int = 128,
    width: int = 96,
    depth: int = 4,
    lr: float = 1e-3,
) -> af.Recipe:
    """A small class-conditional DiT and the curriculum that anneals α from 1 to 0."""
    digits = af.Digits(batch_size=batch_size)
    objective = {
        "alpha-flow": af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.5),
        "mean-flow": af.MeanFlow(fm_share=0.75),
        "flow-matching": af.FlowMatching(),
    }[method]
    solver: Literal["euler", "jump"] = "euler" if method == "flow-matching" else "jump"
    return af.Recipe(
        model=af.DiT(digits.shape, patch=2, depth=depth, width=width, heads=4, classes=digits.classes),
        objective=objective,
        dataset=digits,
        samplers={nfe: af.ODE(nfe, solver=solver) for nfe in (1, 2, 4)},
        steps=steps,
        lr=lr,
        ema=0.999,
    )
