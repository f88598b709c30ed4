"""The published ImageNet-1K 256² runs on sd-vae latents: flow matching, MeanFlow and α-Flow, B/2, L/2 and XL/2."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["fm", "meanflow", "alphaflow"] = "alphaflow",  # Objective.
    size: Literal["b2", "l2", "xl2"] = "b2",  # Size of the network.
    cfg: bool = False,  # Train with guidance.
    data: Path = Path("shards/imagenet256"),  # Folder that holds the shards in train/.
    steps: int | None = None,  # Number of training steps; by default as published.
    batch_size: int = 256,  # Number of images in each batch.
) -> af.Recipe:
    """400k steps; with guidance 1.2M. XL/2+: fine-tune with ``--method meanflow --size xl2 --cfg --from RUN``."""
    latents = af.LatentShards(data / "train", batch_size=batch_size, kind="images")
    build = {"b2": af.DiT.B, "l2": af.DiT.L, "xl2": af.DiT.XL}[size]
    return af.Recipe(
        model=build(latents.shape, patch=2, classes=latents.classes),
        dataset=latents,
        autoencoder=latents.autoencoder,
        **af.published_settings(method, size, guided=cfg, steps=steps),
    )
