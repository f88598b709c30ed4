"""One step from a flow model of ImageNet-1K 256² latents (decoupled MeanFlow, arXiv 2510.24474): give it by --from."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    size: Literal["b2", "l2", "xl2"] = "xl2",  # Size of the network, which is the flow model's.
    late: int = 8,  # Number of last blocks that see the length of a jump.
    data: Path = Path("shards/imagenet256"),  # Folder that holds the shards in train/.
    steps: int = 100_000,  # Number of training steps.
    batch_size: int = 256,  # Number of images in each batch.
    lr: float = 1e-4,  # Learning rate.
) -> af.Recipe:
    """The blocks before the last ones do what they did. Nobody has trained this here at its size."""
    latents = af.LatentShards(data / "train", batch_size=batch_size, kind="images")
    build = {"b2": af.DiT.B, "l2": af.DiT.L, "xl2": af.DiT.XL}[size]
    return af.Recipe(
        model=build(latents.shape, patch=2, classes=latents.classes, late=late),
        objective=af.DecoupledMeanFlow(),
        dataset=latents,
        autoencoder=latents.autoencoder,
        samplers=(af.ODE(1), af.ODE(2), af.ODE(4)),
        steps=steps,
        lr=lr,
        precision="bf16",
    )
