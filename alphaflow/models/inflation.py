"""Starting one DiT from another's weights: a video network from one of images, other classes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

INPUT, OUTPUTS, CLASSES = "patches.proj.weight", ("final.out", "velocity_final.out"), "embed_class.weight"


def inflated(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: int, frames: int) -> dict[str, Tensor]:
    """Weights as a network can take them over, where they fit once they are repeated.

    Patches of one frame become patches of several (as I3D inflates filters, arXiv 1705.07750): the input's weights are
    shared out evenly among the frames and the output's repeated, so that a still clip is treated as its image. Of other
    classes than its own only 'no class' is taken over.

    Args:
        weights: of the other network, by name.
        own: of the network that starts.
        channels: of its samples.
        frames: of its patches.
    """
    found = dict(weights)

    def fits(name: str, dim: int) -> bool:
        there, here = weights.get(name), own.get(name)
        if there is None or here is None or there.ndim != here.ndim:
            return False
        expected = list(there.shape)
        expected[dim] *= frames
        return expected == list(here.shape)

    def repeated(weight: Tensor) -> Tensor:  # (c · n, …) → (c · frames · n, …)
        rows = weight.reshape(channels, 1, -1).expand(-1, frames, -1)
        return rows.reshape(-1, *weight.shape[1:])

    if frames > 1:
        if fits(INPUT, 1):
            found[INPUT] = repeated(weights[INPUT].mT).mT.contiguous() / frames
        for name in (f"{layer}.{kind}" for layer in OUTPUTS for kind in ("weight", "bias")):
            if fits(name, 0):
                found[name] = repeated(weights[name]).contiguous()
    there, here = weights.get(CLASSES), own.get(CLASSES)
    if there is not None and here is not None and len(there) != len(here) and there.shape[1:] == here.shape[1:]:
        found[CLASSES] = here.clone()
        found[CLASSES][-1] = there[-1]
    return found
