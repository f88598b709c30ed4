"""Starting one DiT from another's weights: a video network from one of images, other classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .embeddings import TimeEmbedding, sincos

INPUT, IMAGE = "patches.proj", "image_patches.proj"
OUTPUTS = ("final.out", "velocity_final.out")
CLASSES = "embed_class.weight"
JUMP = "embed_jump."


def inflated(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: Mapping[str, int], frames: int, timed: bool
) -> dict[str, Tensor]:
    """Weights as a network can take them over, where they fit once they are repeated.

    Patches of one frame become patches of several (as I3D inflates filters, arXiv 1705.07750): the input's weights are
    shared out evenly among the frames and the output's repeated, so that a patch that stands still is treated as its
    image's. The input's bias makes up for the first moment's embedding, which images don't have: what the other network
    makes of an image this one makes of it as a single frame, and of clips with one patch in time. Of other classes than
    its own only 'no class' is taken over.

    Args:
        weights: weights of the other network, by name.
        own: weights of the network that starts.
        channels: number of channels of its samples, by the name of the layer that takes them in.
        frames: number of frames in each of its patches.
        timed: this network embeds moments, the other one, of images, doesn't.
    """
    found = dict(weights)

    def fits(name: str, dim: int) -> bool:
        there, here = weights.get(name), own.get(name)
        if there is None or here is None or there.ndim != here.ndim:
            return False
        expected = list(there.shape)
        expected[dim] *= frames
        return expected == list(here.shape)

    def repeated(weight: Tensor, channels: int) -> Tensor:  # (c · n, …) → (c · frames · n, …)
        rows = weight.reshape(channels, 1, -1).expand(-1, frames, -1)
        return rows.reshape(-1, *weight.shape[1:])

    if frames > 1:
        for layer, count in channels.items():
            if fits(name := f"{layer}.weight", 1):
                found[name] = repeated(weights[name].mT, count).mT.contiguous() / frames
        for name in (f"{layer}.{kind}" for layer in OUTPUTS for kind in ("weight", "bias")):
            if fits(name, 0):
                found[name] = repeated(weights[name], channels[INPUT]).contiguous()
    bias = weights.get(f"{INPUT}.bias")
    if timed and bias is not None:
        found[f"{INPUT}.bias"] = bias - sincos(torch.zeros(1), len(bias))[0].to(bias)
    there, here = weights.get(CLASSES), own.get(CLASSES)
    if there is not None and here is not None and len(there) != len(here) and there.shape[1:] == here.shape[1:]:
        found[CLASSES] = here.clone()
        found[CLASSES][-1] = there[-1]
    return found


def without_jump(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A DiT's embedding of t − r whose last layer starts at zero, and so does its change, at what it gives for r = t.

    The layer before it keeps its weights, so that the last one gets a gradient.
    """
    parts = {name.removeprefix(JUMP): weight for name, weight in weights.items() if name.startswith(JUMP)}
    if not parts:
        return {}
    embed = TimeEmbedding(len(parts["out.bias"])).to(parts["out.bias"].dtype)
    embed.load_state_dict(parts)
    with torch.no_grad():
        constant = embed(torch.zeros(64, dtype=parts["out.bias"].dtype))[0]
    return {f"{JUMP}out.weight": torch.zeros_like(parts["out.weight"]), f"{JUMP}out.bias": constant}
