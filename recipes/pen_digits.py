"""α-Flow on pen strokes: sequences of eight points, real digits as they were written, that come with the package."""

import alphaflow as af


def recipe(
    *,
    steps: int = 6000,  # Number of training steps.
    batch_size: int = 128,  # Number of strokes in each batch.
    width: int = 128,  # Width of the network.
    depth: int = 4,  # Number of blocks.
    lr: float = 2e-3,  # Learning rate; it falls to 0 in the second half.
) -> af.Recipe:
    """Samples are (2, 8): two coordinates of eight points, each of which is a token of the network's."""
    strokes = af.PenDigits(batch_size=batch_size)
    weighting = af.AdaptiveWeighting(p=0.5)
    return af.Recipe(
        model=af.DiT(strokes.shape, patch=1, depth=depth, width=width, heads=4, classes=strokes.classes),
        objective=af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.25, weighting=weighting),
        dataset=strokes,
        samplers=[af.ODE(nfe) for nfe in (1, 2, 4)],
        steps=steps,
        lr=af.Linear(start=steps // 2, end=steps, first=lr, last=0.0),
        ema=0.999,
    )
