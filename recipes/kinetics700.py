"""Few-step video on Kinetics-700 latents: flow matching, MeanFlow, α-Flow; S to XL; images beside clips."""

from pathlib import Path
from typing import Literal

import alphaflow as af


def recipe(
    *,
    method: Literal["fm", "meanflow", "alphaflow"] = "alphaflow",
    size: Literal["s", "b", "l", "xl"] = "b",
    cfg: bool = False,
    factorised: bool = False,
    data: Path = Path("shards/kinetics700"),
    images: Path | None = None,
    image_share: float = 0.2,
    steps: int = 400_000,
    batch_size: int = 64,
) -> af.Recipe:
    """ImageNet's settings over patches (1, 2, 2), for latents of a video autoencoder or of an image one."""
    clips = af.LatentShards(data / "train", batch_size=batch_size, kind="clips")
    stills = None if images is None else af.LatentShards(images / "train", batch_size=batch_size, kind="images")
    dataset: af.Dataset = clips if stills is None else af.Mixture(clips, stills, image_share)  # single frames, jointly
    omega, kappa, end = {"l": (0.2, 0.92, 0.8), "xl": (0.2, 0.92, 0.75)}.get(size, (1.0, 0.5, 1.0))
    guidance = af.Guidance(omega=omega, kappa=kappa, interval=(0.0, end), label_drop=0.1) if cfg else None
    large, build = size in ("l", "xl"), getattr(af.DiT, size.upper())
    alpha = af.Sigmoid(start=steps // 2, end=steps * 5 // 6) if large else af.Sigmoid(end=steps)
    share, clamp = 0.25 if cfg and not large else 0.5, 4.0 if large else None
    objective: dict[str, af.Objective] = {
        "fm": af.FlowMatching(guidance=guidance),
        "meanflow": af.MeanFlow(fm_share=0.5 if cfg else 0.75, guidance=guidance, clamp=4.0 if cfg else None),
        "alphaflow": af.AlphaFlow(alpha=alpha, fm_share=share, guidance=guidance, clamp=clamp),
    }
    return af.Recipe(
        model=build(clips.shape, patch=(1, 2, 2), classes=dataset.classes, factorised=factorised),
        objective=objective[method],
        samplers={80: af.ODE(80, solver="euler")} if method == "fm" else {1: af.ODE(1), 2: af.Consistency(2)},
        dataset=dataset, steps=steps, autoencoder=clips.autoencoder,
    )  # fmt: skip
