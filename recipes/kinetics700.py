"""Few-step video on Kinetics-700 latents: flow matching, MeanFlow, α-Flow; S to XL; images beside clips."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["fm", "meanflow", "alphaflow"] = "alphaflow",  # Objective.
    size: Literal["s", "b", "l", "xl"] = "b",  # Size of the network.
    cfg: bool = False,  # Train with guidance.
    factorised: bool = False,  # Attend within frames and across them in turn.
    data: Path = Path("shards/kinetics700"),  # Folder that holds the shards of clips in train/.
    images: Path | None = None,  # Folder of shards of images to train on as well, in train/.
    image_share: float = 0.2,  # Share of the batches that consist of images.
    steps: int = 400_000,  # Number of training steps.
    batch_size: int = 64,  # Number of clips in each batch.
) -> af.Recipe:
    """ImageNet's settings over patches (1, 2, 2), for latents of a video autoencoder or of an image one."""
    clips = af.LatentShards(data / "train", batch_size=batch_size, kind="clips")
    stills = None if images is None else af.LatentShards(images / "train", batch_size=batch_size, kind="images")
    dataset: af.Dataset = clips if stills is None else af.Mixture(clips, stills, image_share)  # single frames, jointly
    build = {"s": af.DiT.S, "b": af.DiT.B, "l": af.DiT.L, "xl": af.DiT.XL}[size]
    row: dict[str, Literal["b2", "l2", "xl2"]] = {"s": "b2", "b": "b2", "l": "l2", "xl": "xl2"}
    return af.Recipe(
        model=build(clips.shape, patch=(1, 2, 2), classes=dataset.classes, factorised=factorised),
        dataset=dataset,
        autoencoder=clips.autoencoder,
        **af.published_settings(method, row[size], guided=cfg, steps=steps),
    )
