"""The layouts of other projects' checkpoints that are known."""

from __future__ import annotations

from .dit_layout import Layout
from .in_context_layout import InContextLayout

LAYOUTS = {
    "dit": Layout("facebookresearch/DiT", noise=True),
    "sit": Layout("willisma/SiT", to_data=True),
    "repa": Layout("sihyun-yu/REPA", variance=False, unused=("projectors.",)),
    "lightningdit": Layout("hustvl/LightningDiT", to_data=True),
    "imf": InContextLayout("Lyy-iiis/imeanflow", prefix="net."),
    "meanflow": Layout("zhuyu-cs/MeanFlow", jump="r_embedder"),
    "alphaflow": Layout(
        "snap-research/alphaflow",
        "noise_labels_embedder",
        "noise_labels_next_embedder",
        prefix="model.",
        variance=False,
    ),
}
"""Layouts by the name that `convert` knows them by."""
