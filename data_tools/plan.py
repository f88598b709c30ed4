"""How shards are made: what must be the same when encoding goes on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

from alphaflow.autoencoders.autoencoder import Autoencoder
from alphaflow.errors import UserError
from alphaflow.text.text_encoder import TextEncoder

from .decode import ClipTransform, ImageTransform, Transform

Measure = Literal["channel", "element"]
"""What has a shift and a scale of its own."""

RECORDED = {ImageTransform: "ImageRecipe", ClipTransform: "ClipRecipe"}
"""Names that folders were begun with, and must go on with."""


BESIDE = {"text encoder": "captions", "pairs": "pairs"}
"""What a plan has only where samples have it, and what that is."""


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode.

    Attributes:
        prefix: the shards' first name, ``train-000000.tar``.
        samples_per_shard: the unit that is made again after a kill.
        batch_size: batch size of the autoencoder.
        workers: decoding processes; 0 decodes in this one.
        shard, shards: this job makes every shards-th shard, from ``shard`` on.
        max_rejects: the share of samples that may be left out.
        changed: make shards again whose files were replaced, added or removed since, instead of refusing to go on.
        measure: shift and scale on samples of all shards, for each ``"channel"`` or each ``"element"`` (channel and
            position), instead of taking the autoencoder's; None for the autoencoder's, and each channel's where it has
            none.
        measure_on: how many samples, spread over all shards.
    """

    prefix: str = "train"
    samples_per_shard: int = 1000
    batch_size: int = 32
    workers: int = 1
    shard: int = 0
    shards: int = 1
    max_rejects: float = 0.01
    changed: bool = False
    measure: Measure | None = None
    measure_on: int = 2048

    def __post_init__(self) -> None:
        if min(self.samples_per_shard, self.batch_size) < 1 or self.workers < 0:
            raise UserError("samples per shard and batch size must be at least 1, workers at least 0")
        if self.measure not in (None, "channel", "element") or self.measure_on < 2:
            raise UserError(
                "shift and scale are measured for each channel or each element, on at least 2 samples, not for each "
                f"{self.measure} on {self.measure_on}"
            )
        if not 0 <= self.shard < self.shards:
            raise UserError(f"`shard=` needs 0 <= shard < shards, got {self.shard} of {self.shards}")
        if not 0 <= self.max_rejects <= 1:
            raise UserError(f"`max_rejects=` is a share between 0 and 1, got {self.max_rejects}")
        if not self.prefix or "/" in self.prefix:
            raise UserError(f"the shards' prefix is a plain name, got {self.prefix!r}")


def plan_of(
    autoencoder: Autoencoder, transform: Transform, options: EncodeOptions, text: TextEncoder | None, paired: bool
) -> dict[str, Any]:
    """What must be the same when encoding goes on."""
    return {
        "recipe": {"kind": RECORDED.get(type(transform), type(transform).__name__), **asdict(transform)},
        "autoencoder": identity(autoencoder),
        **({} if text is None else {"text encoder": _of_texts(text)}),
        **({"pairs": True} if paired else {}),
        "prefix": options.prefix,
        "samples_per_shard": options.samples_per_shard,
        "batch_size": options.batch_size,
        "measure": [options.measure, options.measure_on],
    }


def _of_texts(encoder: TextEncoder) -> dict[str, Any]:
    """A text encoder's identity and its length, which an own one may not have among its settings."""
    found = identity(encoder)
    settings = {name: value for name, value in found["settings"].items() if name != "length"}
    return {**found, "settings": settings, "length": encoder.length}


def identity(encoder: Autoencoder | TextEncoder) -> dict[str, Any]:
    """An encoder's class and settings, the SHA-256 of its weights, and the kind of device it runs on.

    Not where it lies: a folder may be moved.
    """
    named: list[str] = [field.name for field in fields(encoder)] if is_dataclass(encoder) else []
    settings = {name: repr(getattr(encoder, name)) for name in named if name not in ("device", "inner", "name")}
    found, device = hashlib.sha256(), "cpu"
    for network in encoder.networks():
        for name, weight in network.state_dict().items():
            device = weight.device.type
            found.update(name.encode())
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    nested = {name: identity(held) for name, held in vars(encoder).items() if isinstance(held, Autoencoder)}
    return {
        "class": type(encoder).__name__,
        "settings": settings,
        "weights": found.hexdigest(),
        "device": device,
        **nested,
    }


def differences(before: dict[str, Any], plan: dict[str, Any], of: str = "") -> list[str]:
    """What two plans differ in, setting by setting."""
    found = []
    for name in sorted(before.keys() | plan.keys()):
        was, now = before.get(name), plan.get(name)
        if was == now:
            continue
        if name == "source":
            found.append("an earlier version, which didn't remember its files")
        elif isinstance(was, dict) and isinstance(now, dict):
            found += differences(was, now, name)
        elif name in BESIDE:
            found.append("no " * (was is None) + BESIDE[name])
        elif name == "weights":
            found.append(f"other weights of the {of if of in BESIDE else 'autoencoder'}")
        else:
            words = " ".join(word for word in (of.replace("recipe", ""), name.replace("_", " ")) if word)
            found.append(f"{words} {was}, not {now}")
    return found
