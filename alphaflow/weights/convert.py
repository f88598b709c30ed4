"""Other projects' checkpoints as runs: sampled, evaluated and trained on like any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder, Normalised
from ..autoencoders.diffusers_vae import DiffusersVAE
from ..autoencoders.pixels import Pixels
from ..describe import NotDescribableError, describe
from ..errors import UserError, near, reason
from ..files import adding, sha256
from ..guidance import Guidance
from ..models.noise_prediction import INNER, NoisePrediction
from ..network import Network
from ..objectives.flow_matching import FlowMatching
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..runs.record import Origin
from ..samplers import ODE, Consistency, Sampler
from ..sources import Gaussian
from .layouts import LAYOUTS
from .weight_reading import read_state

LATENTS = "stabilityai/sd-vae-ft-ema"
"""The autoencoder of latents with four channels: that of all published checkpoints, in one of its two versions."""

JUMPS: tuple[Sampler, ...] = (ODE(1), ODE(2))
SAMPLERS = {"meanflow": JUMPS, "imf": JUMPS, "alphaflow": (ODE(1), Consistency(2))}
"""How few-step networks are sampled."""

EULER: tuple[Sampler, ...] = (ODE(50, solver="euler"),)
"""How all others are, flow models, which saw a tenth of their samples without labels."""


def convert(
    src: Path | str,
    out: Path | str,
    layout: str,
    *,
    autoencoder: Autoencoder | None = None,
    heads: int | None = None,
    classes: int | None = None,
    ema: bool = True,
) -> Path:
    """Makes a run of another project's checkpoint; nothing that the file holds is run.

    Training starts from the run by ``start=``, from a noise predictor's only with a network like it. It can't be
    resumed. What a flow model computes at r = t it computes at every r.

    Args:
        src: the checkpoint, .pt or .safetensors: weights, or a dictionary that holds them (``ema``, ``model``).
        out: the run's folder, which isn't there yet, or is empty.
        layout: whose network it is: ``"dit"`` (facebookresearch/DiT, see `NoisePrediction`), ``"sit"`` (willisma/SiT),
            ``"repa"`` (sihyun-yu/REPA), ``"lightningdit"`` (hustvl/LightningDiT), ``"meanflow"`` (zhuyu-cs/MeanFlow),
            ``"imf"`` (Lyy-iiis/imeanflow) or ``"alphaflow"`` (snap-research/alphaflow).
        autoencoder: what decodes its samples; None for `DiffusersVAE` with sd-vae-ft-ema where they have four channels,
            and pixels otherwise.
        heads: number of attention heads, which weights don't tell; None for the published sizes'.
        classes: number of classes; None for what the rows of the labels' embedding say.
        ema: of a checkpoint, its averaged weights rather than the raw ones, if it has any.

    Raises:
        UserError: the file is damaged, holds code, or another network; or ``out`` holds anything.
    """
    src, out = Path(src), Path(out)
    if layout not in LAYOUTS:
        hint = near(str(layout).lower(), LAYOUTS)
        raise UserError(f"there is no layout {layout!r}: there are {', '.join(LAYOUTS)}{hint and '; ' + hint}")
    kind = LAYOUTS[layout]
    with adding(out) as beside:
        state = read_state(src, ema=ema)
        model, weights = kind.network(state, heads, classes)
        decoder = _decoder(model.shape, state) if autoencoder is None else _fitting(autoencoder, model.shape)
        network: Network = model
        dropped = bool(weights["embed_class.weight"][-1].any())  # else nothing trained 'no class'
        if kind.noise:
            network, weights = NoisePrediction(model), {f"{INNER}{name}": weight for name, weight in weights.items()}
        came = {"file": src.name, "sha256": sha256(src), "layout": layout, "project": kind.project}
        folder, record = RunFolder(beside), _record(network, model.shape, model.classes, decoder, layout, dropped)
        folder.create(Origin(f"{layout} weights"), {**record, "converted": came})
        _write(folder.checkpoint(0), weights)
    return out


def _fitting(autoencoder: Autoencoder, shape: Sequence[int]) -> Autoencoder:
    """An autoencoder that was given, for samples of this shape, if run.json can describe it."""
    found = Autoencoder.of(autoencoder)
    try:
        describe(found)
    except NotDescribableError as error:
        raise UserError(f"a converted run's autoencoder is one of alphaflow's: {reason(error)}") from error
    return Pixels(shape[0]) if isinstance(found, Pixels) else found


def _decoder(shape: Sequence[int], state: dict[str, Tensor]) -> Autoencoder:
    """What decodes samples of this shape; with the latents' moments that α-Flow keeps among its weights."""
    if shape[0] != 4:
        return Pixels(shape[0])
    latents = DiffusersVAE(LATENTS)
    mean, variance = state.get("autoencoder_mean"), state.get("autoencoder_var")
    if mean is None or variance is None:
        return latents
    return Normalised(latents, tuple(mean.flatten().tolist()), tuple((variance + 1e-16).rsqrt().flatten().tolist()))


def _record(
    model: Network,
    shape: Sequence[int],
    classes: int | None,
    autoencoder: Autoencoder,
    layout: str,
    dropped: bool,
) -> dict[str, Any]:
    """What run.json keeps of a run that nobody here trained."""
    samplers = SAMPLERS.get(layout, EULER)
    flow = FlowMatching(guidance=Guidance(label_drop=0.1) if dropped else None)
    objective = None if layout in SAMPLERS else flow
    data = {
        "shape": list(shape), "classes": classes, "sampled_classes": classes,
        "class_names": [str(index) for index in range(classes or 0)], "fps": None, "conditions": None, "text": None,
    }  # fmt: skip
    return {
        "model": describe(model),
        "autoencoder": describe(autoencoder),
        "objective": describe(objective),
        "source": describe(Gaussian()),
        "dataset": None,
        "samplers": {str(sampler.nfe): describe(sampler) for sampler in samplers},
        "data": data,
        "steps": 0,
        "seed": 0,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "start": None,
    }


def _write(place: Path, weights: dict[str, Tensor]) -> None:
    """A checkpoint that holds weights only, which are the averaged ones, too."""
    place.mkdir(parents=True)
    whole = {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
    checkpoint.write_weights(place / checkpoint.AVERAGE, whole)
    with suppress(OSError):  # one file under two names, where the disk can
        os.link(place / checkpoint.AVERAGE, place / checkpoint.MODEL)
    if not (place / checkpoint.MODEL).exists():
        checkpoint.write_weights(place / checkpoint.MODEL, whole)
    checkpoint.seal(place, 0, {})
