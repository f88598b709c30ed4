"""Random samples of a folder of shards, decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphaflow.autoencoders.autoencoder import Autoencoder
from alphaflow.data.latent_shards import LatentShards
from alphaflow.errors import UserError
from alphaflow.pixel_values import to_bytes


def preview(
    folder: Path,
    count: int = 64,
    seed: int = 0,
    autoencoder: Autoencoder | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, list[str]]:
    """Random samples, decoded: 8-bit pixels (n, 3, h, w) or (n, 3, f, h, w), and their classes' names.

    Args:
        folder: folder of shards.
        count: how many.
        seed: seed of the choice and of drawn latents.
        autoencoder: to decode with; None for the one that the shards name.
        device: where that one runs; None for its own choice.

    Raises:
        UserError: no shards, an autoencoder that is the user's own was not given, or something else was.
    """
    shards = LatentShards(folder, batch_size=1, seed=seed, draw=True)
    decoder = shards.autoencoder if autoencoder is None else shards.description.measured(Autoencoder.of(autoencoder))
    if decoder is None:
        raise UserError(f"{folder} was encoded with an autoencoder of your own: give it as `autoencoder=`")
    if device is not None:
        decoder = decoder.on(device)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(shards))[:count])
    batch = shards.fetch(chosen, np.random.default_rng(seed))
    with torch.inference_mode():
        x = batch.x if device is None else batch.x.to(device)
        pixels = [to_bytes(decoder.decode(latent)).cpu() for latent in torch.split(x, 8)]
    labels = batch.cond.labels
    names = [] if labels is None else [shards.class_names[int(label)] for label in labels]
    return torch.cat(pixels), names
