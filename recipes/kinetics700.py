"""α-Flow on Kinetics-700 latents: a video DiT, all frames' tokens attended together."""

from pathlib import Path

import alphaflow as af


def recipe(
    *, data: Path = Path("shards/kinetics700"), steps: int = 400_000, batch_size: int = 64, width: int = 768
) -> af.Recipe:
    """The B size over patches of one frame and 2 × 2 latents; the curriculum anneals α from 1 to 0."""
    latents = af.LatentShards(data / "train", batch_size=batch_size)
    return af.Recipe(
        model=af.DiT(latents.shape, patch=(1, 2, 2), depth=12, width=width, heads=width // 64, classes=latents.classes),
        objective=af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.5, times=af.LogitNormal(-0.4, 1.0)),
        dataset=latents,
        samplers={1: af.ODE(1), 2: af.Consistency(2), 4: af.ODE(4)},
        steps=steps,
        autoencoder=latents.autoencoder,
    )
