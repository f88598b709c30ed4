"""Autoencoders of the diffusers library, from the Hub or a local folder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..data.decoding.sizes import Size, sides
from ..describe import Compact
from ..errors import UserError, reason
from ..hub import check_hub
from ..parallel.device import find_device
from .autoencoder import Autoencoder, Normalisation, per_channel
from .chunks import decode_in_chunks

VIDEO = ("CogVideoX", "Wan", "LTX", "Cosmos", "Mochi", "HunyuanVideo", "Magvit", "Allegro", "QwenImage")
"""Names in the classes of autoencoders that take (b, c, f, h, w)."""

STREAMED = ("CogVideoX", "Wan")
"""Those of them that decode frame by frame and keep what they need of the frames before."""


@dataclass(frozen=True, repr=False)
class DiffusersVAE(Compact, Autoencoder):
    """An autoencoder of diffusers: AutoencoderKL, AutoencoderTiny, AutoencoderDC, and those for video.

    The class is the one that the folder's config.json names. Nothing is loaded until it is needed. Scale and shift are
    the config's: ``latents_mean`` and ``latents_std`` for each channel, else ``scaling_factor`` and ``shift_factor``.
    An autoencoder of images encodes the frames of a video one by one; one of videos decodes long clips in parts that
    overlap (`decode_in_chunks`), unless it does so by itself. Weights are kept in float32 and run in bfloat16
    on a GPU.

    Args:
        name: a model on the Hub (``"stabilityai/sd-vae-ft-ema"``) or a local folder.
        subfolder: the autoencoder's folder inside it, for example ``"vae"`` in a whole pipeline.
        scale, shift: in place of the config's: a number, or one for each channel or each element (`Normalisation`).
        tiling: encode and decode in overlapping tiles, for large pictures and long clips.
        device: where it runs; ``"auto"`` takes a GPU if there is one, under torchrun each process its own.

    Raises:
        UserError: on first use: diffusers isn't installed, or there is no such model or device.
    """

    name: str
    subfolder: str | None = None
    scale: float | tuple[float, ...] | None = None
    shift: float | tuple[float, ...] | None = None
    tiling: bool = False
    device: Literal["auto"] | str = "auto"
    brief: ClassVar[tuple[str, ...]] = ("scale", "shift")

    @cached_property
    def vae(self) -> Any:
        """The loaded network, in evaluation mode."""
        try:
            diffusers: Any = importlib.import_module("diffusers")
        except ImportError as error:
            raise UserError("this needs diffusers: pip install 'alphaflow[diffusers]'") from error
        device = find_device(self.device)
        try:
            vae = self._loaded(diffusers, local_files_only=True)  # a folder, or the Hub's cache
        except UserError:
            if Path(self.name).is_dir():
                raise
            check_hub("autoencoder", self.name, "give a folder that holds it, or `pixels` for none")
            vae = self._loaded(diffusers)
        if self.tiling:
            vae.enable_tiling()
        return vae.to(device).eval().requires_grad_(False)

    def _loaded(self, diffusers: Any, **options: Any) -> Any:
        options |= {} if self.subfolder is None else {"subfolder": self.subfolder}
        try:
            config: Any = diffusers.AutoencoderKL.load_config(self.name, **options)
            kind = getattr(diffusers, str(config.get("_class_name")), None)
            if kind is None or not hasattr(kind, "encode") or "TemporalDecoder" in kind.__name__:
                raise UserError(
                    f"{self.name} holds a {config.get('_class_name')}, which is not an autoencoder of diffusers"
                )
            return kind.from_pretrained(self.name, low_cpu_mem_usage=False, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise UserError(
                f"can't load the autoencoder {self.name!r}: {reason(error)}; give a model on the Hub, or a folder with "
                "config.json and diffusion_pytorch_model.safetensors"
            ) from error

    @cached_property
    def video(self) -> bool:
        """Whether it takes videos (b, c, f, h, w) as a whole."""
        return any(name in type(self.vae).__name__ for name in VIDEO)

    @cached_property
    def posterior(self) -> bool:
        """Whether `encode` gives the posterior's moments."""
        return "KL" in type(self.vae).__name__ and "Cosmos" not in type(self.vae).__name__

    @cached_property
    def normalisation(self) -> Normalisation:
        """Shift and scale of each channel, from the arguments or the config."""
        config = self.vae.config
        channels = self.channels
        mean, std = config.get("latents_mean"), config.get("latents_std")
        factor, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        buffers = dict(self.vae.named_buffers())
        if "latents_mean" in buffers and "latents_std" in buffers:  # LTX
            mean, std = buffers["latents_mean"].tolist(), buffers["latents_std"].tolist()
        if mean is not None and std is not None:
            mean, std = _first(mean, channels), _first(std, channels)
            found = Normalisation(tuple(mean), tuple(factor / s for s in std))
        else:
            found = Normalisation((float(shift),) * channels, (float(factor),) * channels)
        return Normalisation(
            found.shift if self.shift is None else per_channel(self.shift, channels),
            found.scale if self.scale is None else per_channel(self.scale, channels),
        )

    @cached_property
    def channels(self) -> int:
        """Number of channels of the latents."""
        config = self.vae.config
        return int(config.get("latent_channels") or config.get("z_dim"))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] (b, 3, h, w) or (b, 3, f, h, w) → moments (b, 2c, …) or latents (b, c, …), float32."""
        frames = _Frames(pixels, one_by_one=not self.video)
        with self._precision():
            parts = [_moments(self.vae.encode(part.to(self.vae.device))).float() for part in self._parts(frames.batch)]
        return frames.restore(torch.cat(parts)).to(pixels.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (b, c, …) → pixels in [-1, 1], float32."""
        frames = _Frames(self.normalisation.inverse(latents.float()), one_by_one=not self.video)
        with self._precision():
            if torch.compiler.is_exporting():  # in a program the batch has no size yet
                pixels = self._decoded(frames.batch)
            else:
                pixels = torch.cat([self._decoded(part.to(self.vae.device)) for part in self._parts(frames.batch)])
        return frames.restore(pixels).clamp(-1, 1).to(latents.device)

    def _decoded(self, part: Tensor) -> Tensor:
        def whole(latents: Tensor) -> Tensor:
            pixels: Tensor = self.vae.decode(latents).sample
            return pixels.float()

        streamed = any(name in type(self.vae).__name__ for name in STREAMED)
        return whole(part) if part.ndim == 4 or streamed else decode_in_chunks(whole, part)

    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        """The latents' shape for pixels of this size, found by encoding black ones."""
        shape = (1, 3, *sides(size)) if frames is None else (1, 3, frames, *sides(size))
        encoded = self.encode(torch.zeros(shape))
        return (self.channels, *encoded.shape[2:])

    def on(self, device: torch.device) -> Autoencoder:
        """The same on this device, where it was left open (``"auto"``); else itself."""
        return replace(self, device=str(device)) if self.device == "auto" else self

    def networks(self) -> list[nn.Module]:
        """The loaded network."""
        return [self.vae]

    def measured(self, normalisation: Normalisation) -> Autoencoder:
        """The same with this shift and scale."""
        return replace(self, shift=normalisation.shift, scale=normalisation.scale)

    @staticmethod
    def _parts(batch: Tensor) -> tuple[Tensor, ...]:
        """What is run at once: 16 pictures, one clip."""
        return torch.split(batch, 16 if batch.ndim == 4 else 1)

    def _precision(self) -> Any:
        kind = self.vae.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")


class _Frames:
    """Pixels or latents as an autoencoder takes them: images, videos, or a video's frames as images."""

    def __init__(self, x: Tensor, one_by_one: bool) -> None:
        self.split = one_by_one and x.ndim == 5
        self.single = not one_by_one and x.ndim == 4
        self.frames = x.shape[2] if x.ndim == 5 else 1
        if self.split:
            x = x.transpose(1, 2).flatten(0, 1)  # (b·f, c, h, w)
        self.batch = x.unsqueeze(2) if self.single else x

    def restore(self, out: Tensor) -> Tensor:
        """What came out, in the form of what went in."""
        if self.split:
            return out.view(-1, self.frames, *out.shape[1:]).transpose(1, 2)
        return out.squeeze(2) if self.single else out


def _moments(out: Any) -> Tensor:
    """The posterior's mean and standard deviation stacked, or the latents of an autoencoder without one."""
    posterior = getattr(out, "latent_dist", None)
    if posterior is not None and hasattr(posterior, "std"):
        return torch.cat([posterior.mean, posterior.std], dim=1)
    for name in ("latents", "latent", "latent_dist"):
        found = getattr(out, name, None)
        if isinstance(found, Tensor):
            return found
        if found is not None and hasattr(found, "mode"):
            mode: Tensor = found.mode()
            return mode
    raise UserError(f"this autoencoder's output, {type(out).__name__}, is not known")


def _first(values: Sequence[float], channels: int) -> list[float]:
    """One number a channel; Cosmos lists them for each latent frame too, (c, f) flattened: the first frame's."""
    if len(values) % channels:
        raise UserError(f"the autoencoder's config gives {len(values)} numbers for {channels} channels")
    each = len(values) // channels
    return [float(values[channel * each]) for channel in range(channels)]
