"""The published ImageNet-1K 256² runs on sd-vae latents: flow matching, MeanFlow and α-Flow, B/2, L/2 and XL/2."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["fm", "meanflow", "alphaflow"] = "alphaflow",
    size: Literal["b2", "l2", "xl2"] = "b2",
    cfg: bool = False,
    data: Path = Path("shards/imagenet256"),
    steps: int | None = None,
    batch_size: int = 256,
) -> af.Recipe:
    """400k steps; with guidance 1.2M. XL/2+: fine-tune with ``--method meanflow --size xl2 --cfg --from RUN``."""
    latents = af.LatentShards(data / "train", batch_size=batch_size, kind="images")
    steps, large = steps or (1_200_000 if cfg else 400_000), size != "b2"
    omega, kappa, end = {"b2": (1.0, 0.5, 1.0), "l2": (0.2, 0.92, 0.8), "xl2": (0.2, 0.92, 0.75)}[size]
    guidance = af.Guidance(omega=omega, kappa=kappa, interval=(0.0, end), label_drop=0.1) if cfg else None
    alpha = af.Sigmoid(start=steps // 2, end=steps * 5 // 6) if large else af.Sigmoid(end=steps)
    share, clamp = 0.25 if cfg and not large else 0.5, 4.0 if large else None
    objective: dict[str, af.Objective] = {
        "fm": af.FlowMatching(guidance=guidance),
        "meanflow": af.MeanFlow(fm_share=0.5 if cfg else 0.75, guidance=guidance, clamp=4.0 if cfg else None),
        "alphaflow": af.AlphaFlow(alpha=alpha, fm_share=share, guidance=guidance, clamp=clamp),
    }
    build = {"b2": af.DiT.B, "l2": af.DiT.L, "xl2": af.DiT.XL}[size]
    two = af.Consistency(times=(1.0, 0.55, 0.0)) if large else af.ODE(2)
    return af.Recipe(
        model=build(latents.shape, patch=2, classes=latents.classes),
        objective=objective[method],
        dataset=latents,
        samplers={80: af.ODE(80, solver="euler")} if method == "fm" else {1: af.ODE(1), 2: two},
        steps=steps,
        autoencoder=latents.autoencoder,
    )
