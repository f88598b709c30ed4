"""From a network to samples: the one way that samples are drawn, of a run on disk and of one in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.pixels import Pixels
from ..data.dataset import Dataset, describe_data
from ..errors import UserError, is_whole, said
from ..guidance import CFG
from ..network import Upcast, known
from ..pixel_values import finished, is_picture_shape
from ..recipe import Recipe
from ..samplers import ODE, Sampler
from ..sources import Gaussian, Source, seen
from ..types import Cond, Labels
from .conditioning import Conditioning, read_forms
from .labels import balanced_labels
from .maker import Maker, check_noise

MAX_NFE = 4096
"""Network evaluations a sample: more are surely a mistake."""


class Pipeline(ABC):
    """A network with what samples are drawn by: samplers, an autoencoder, and what is known of its data.

    Args:
        model: the network, on the device.
        samplers: the samplers by number of network evaluations.
        autoencoder: the autoencoder, on the device.
        data: description of its training data, as `describe_data` gives it.
        device: where samples are drawn.
        name: what messages call it.
        label_drop: the share of samples that it was trained on without their label; None where that isn't known.
        source: what it was trained to start from at t = 1.

    Attributes:
        shape: shape of one sample, channels first.
        conditioning: the conditions that samples are made from.
        classes, class_names: the number of classes or None, and their names.
        sampled_classes: samples are of the first so many classes unless one says: of clips', where images were joined.
        fps: frames a second of the clips it was trained on; None for images, or where the data don't say.
    """

    def __init__(
        self,
        model: nn.Module,
        samplers: Mapping[int, Sampler],
        autoencoder: Autoencoder,
        data: Mapping[str, Any],
        device: torch.device,
        *,
        name: str = "the run",
        label_drop: float | None = None,
        source: Source | None = None,
    ) -> None:
        self.model = model
        self.samplers = dict(samplers)
        self.autoencoder = autoencoder
        self.device = device
        self.name, self.label_drop = name, label_drop
        self.shape: tuple[int, ...] = tuple(data["shape"])
        takes = known(model).conditions
        labelled = takes is None or "labels" in takes
        self.classes: int | None = data["classes"] if labelled else None
        self.class_names: list[str] = data["class_names"] if labelled else []
        self.sampled_classes: int | None = data.get("sampled_classes", self.classes) if labelled else None
        self.fps: float | None = data.get("fps")
        self.source = source or Gaussian()
        forms = read_forms(data, name)
        self.conditioning = Conditioning(forms, takes, self.source.conditions, self.classes, name)

    @abstractmethod
    def recipe(self) -> Recipe:
        """The recipe that the network was trained by: its dataset, objective, and all else."""

    def dataset(self) -> Dataset:
        """What it was trained on."""
        return self.recipe().dataset

    def sampler(self, nfe: int, guidance: CFG | None = None) -> Sampler:
        """The recipe's sampler for this many network evaluations, or its ODE sampler on an even grid.

        Args:
            nfe: network evaluations a sample.
            guidance: for networks that don't take guidance as an input, the sampler applies it, which costs a second
                evaluation at each step inside its interval.

        Raises:
            UserError: nfe is below 1, no sampler of the recipe goes with it, or the run can't be guided.
        """
        if not is_whole(nfe) or not 1 <= nfe <= MAX_NFE:
            raise UserError(f"`nfe=` must be a whole number, at least 1 and at most {MAX_NFE:,}, got {nfe}")
        if guidance is not None and guidance.scale <= 0:
            raise UserError(f"a guidance scale is a positive number, 1 for none, got {guidance.scale}")
        cfg = None if self.takes_guidance else guidance
        if cfg is not None:
            self._check_guidable()
        if nfe in self.samplers and cfg is None:
            return self.samplers[nfe]
        for sampler in self.samplers.values():
            if isinstance(sampler, ODE):
                for steps in range(max(nfe // 4, 1), nfe + 1):  # a step costs 1 to 4 evaluations
                    fitting = replace(sampler, steps=steps, times=None, cfg=cfg or sampler.cfg)
                    if fitting.nfe == nfe:
                        return fitting
        listed = ", ".join(map(str, sorted(self.samplers))) or "none"
        if cfg is not None:
            raise UserError(
                f"guidance costs this run two evaluations per step, so {nfe} is not possible; try `nfe={nfe + 1}`"
            )
        raise UserError(f"this run has no sampler for `nfe={nfe}`; its recipe lists: {listed}")

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is an input of the network (`GuidanceInputs`)."""
        return bool(known(self.model).takes_guidance)

    @property
    def makes_pictures(self) -> bool:
        """Whether samples are pictures or clips of pixels; what is none is left as it is, floats.

        They are where an autoencoder decodes them to one or three channels, or nothing has to: `is_picture_shape`.
        """
        return is_picture_shape(self.shape) if self.autoencoder.plain else is_picture_shape(self.pixel_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type of samples unless one says: 8-bit pixels where they are pictures, else float32."""
        return torch.uint8 if self.makes_pictures else torch.float32

    def decoded(self, x: Tensor) -> Tensor:
        """What the network makes (b, …) as the samples that one looks at: decoded, where an autoencoder made them."""
        return x if self.autoencoder.plain else self.autoencoder.decode(x)

    def finished(self, x: Tensor, start: int = 0) -> Tensor:
        """Data or samples (b, …), the first of them number ``start``, as one looks at them: 8-bit pixels, or floats.

        Raises:
            UserError: one is not finite.
        """
        with torch.no_grad():
            x = self.decoded(x.to(self.device))
        return finished(x, start, self.dtype)

    def _check_guidable(self) -> None:
        if not self.classes and not self.conditioning.seen:
            raise UserError(f"{self.name} can't be guided: its data have no classes, nor other conditions")
        if self.label_drop == 0:
            raise UserError(
                f"{self.name} can't be guided: its network never saw a dropped label; "
                "train with guidance=af.Guidance(label_drop=0.1), or with af.GuidanceInputs() and DiT(guidance=True)"
            )

    def sample(
        self,
        count: int | None = None,
        nfe: int = 1,
        *,
        labels: Labels | None = None,
        cond: Cond | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 256,
        guidance: CFG | None = None,
    ) -> Tensor:
        """Samples (count, …) on the CPU: pictures as 8-bit pixels (count, c, h, w), clips (count, c, f, h, w).

        Args:
            count: how many; as many as there are ``labels``, conditions or noise if it isn't given.
            nfe: network evaluations a sample, see `sampler`.
            labels: (count,); None for every class equally often, unless ``cond`` has them.
            cond: what they are conditioned on, of ``count`` samples.
            seed: seed of the noise. Sample i has the same noise at every nfe, count and batch size (the fresh noise of
                consistency sampling depends on the batch size).
            noise: the noise that the source starts from, (count, …) of the network's samples' shape, in place of the
                seed's.
            dtype: ``torch.uint8`` for pixels; a floating type for floats, which are clipped nowhere. None for pixels
                where samples are pictures (`makes_pictures`), float32 where they aren't.
            batch_size: samples at a time.
            guidance: scale and interval; an input of the network where it takes one, else applied by the sampler.

        Raises:
            UserError: conditions are missing, too many, or of another number or shape than in training; as `maker`.
        """
        given = [*([] if cond is None else cond.tensors.values()), labels, noise]
        sizes = [len(tensor) for tensor in given if tensor is not None]
        if count is None and not sizes:
            raise UserError("give the number of samples, `count=`, or the labels or conditions of each")
        count = sizes[0] if count is None else count
        if count < 1 or batch_size < 1:
            raise UserError(f"`count=` and `batch_size=` are at least 1, got {count} and {batch_size}")
        every = self.conditions(count, labels, cond)
        check_noise(noise, count, self.shape)
        maker = self.maker(nfe, seed=seed, guidance=guidance, noise=noise, dtype=dtype)
        ends = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        return torch.cat([maker(i, j, every[i:j]) for i, j in ends])

    def conditions(self, count: int, labels: Labels | None = None, cond: Cond | None = None, start: int = 0) -> Cond:
        """What so many samples, from the ``start``-th on, are conditioned on: what is given, and each class in turn.

        Raises:
            UserError: it is not what samples are made from.
        """
        cond = Cond() if cond is None else cond
        if labels is not None and len(labels) != count:
            raise UserError(f"`labels=` is of {len(labels)} samples, and {count} are to be made")
        every = cond if labels is None else cond.replace(labels=labels)
        self.conditioning.check(every, count)
        if every.labels is None and self.sampled_classes:
            every = every.replace(labels=balanced_labels(count, self.sampled_classes, start))
        return every

    def maker(
        self,
        nfe: int,
        *,
        seed: int = 0,
        guidance: CFG | None = None,
        noise: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Maker:
        """Makes samples part by part, in any order; arguments as those of `sample`.

        Raises:
            UserError: as `sampler`; or pixels are asked for, and the run's samples are no pictures.
        """
        sampler = self.sampler(nfe, guidance)
        if dtype is None:
            dtype = self.dtype
        if dtype != torch.uint8 and not dtype.is_floating_point:
            raise UserError(f"`dtype=` is torch.uint8, for pixels, or a floating type, got {dtype}")
        if dtype == torch.uint8 and not self.makes_pictures:
            raise UserError(
                f"{self.name}'s samples {self.shape} are no pictures: take floats, `dtype=torch.float32`; if they are "
                "latents, its recipe lacks the autoencoder that they were encoded with, af.Recipe(…, autoencoder=…)"
            )
        return Maker(self, sampler, seed, guidance, noise, dtype)

    def resize(self, frames: int | None = None, size: int | None = None) -> None:
        """Samples clips of another length, or samples of another size, than was trained; see `DiT` for what that means.

        More frames show the same time, so that there are more of them a second (`fps`).

        Args:
            frames: number of frames of the clip, in pixels' frames; None leaves it.
            size: pixels along each side; None leaves it.

        Raises:
            UserError: the run is of images and frames are asked for, or its network or autoencoder can't do it.
        """
        if frames is None and size is None:
            return
        if not self.makes_pictures:
            raise UserError(f"{self.name}'s samples {self.shape} are no pictures, and are made in their own size only")
        if frames is not None and len(self.shape) == 3:
            raise UserError(f"{self.name} makes images, which have no frames; leave `frames=` out")
        _, *trained, height, width = self.pixel_shape
        if height != width:
            raise UserError(f"{self.name} makes samples of {height} × {width} pixels; only squares are resized")
        side, length = size or height, frames or (trained[0] if trained else None)
        one = torch.ones(1, device=self.device)
        try:
            shape = (self.shape[0], *self.autoencoder.latent_shape(side, length)[1:])
            with torch.inference_mode():
                conditioning = self.conditioning.resized(self.shape, shape)
                blank = conditioning.blank(1, self.device)
                given = seen(blank, self.source, self.model)
                Upcast(self.model)(torch.zeros(1, *shape, device=self.device), one, one, given)
            made = self._decoded(shape)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.name} can't make this size: {said(error)}") from error
        _, *there, height, width = made
        if (*there, height, width) != (*([] if length is None else [length]), side, side):
            nearest = " ".join([*(f"`frames={n}`" for n in there), f"`size={height}`"])
            raise UserError(f"{self.name} can't make exactly this size; its autoencoder would give {nearest}")
        if self.fps and trained and made[1] > trained[0] > 1:  # more frames of the same time (`DiT`)
            self.fps *= (made[1] - 1) / (trained[0] - 1)
        self.shape, self.pixel_shape, self.conditioning = shape, made, conditioning

    def undecoded(self) -> Self:
        """The same without its autoencoder: samples are what the network makes, floats."""
        found = copy(self)
        found.__dict__.pop("pixel_shape", None)
        found.autoencoder = Pixels(self.shape[0])
        return found

    @cached_property
    def pixel_shape(self) -> tuple[int, ...]:
        """Shape of one sample as it is looked at, of pictures (c, h, w); found by decoding one, if they are decoded."""
        return self._decoded(self.shape)

    def _decoded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.autoencoder.plain:
            return shape
        return tuple(self.autoencoder.decode(torch.zeros(1, *shape, device=self.device)).shape[1:])


class InTraining(Pipeline):
    """A recipe with a network that nothing on disk has: its average, while it is trained.

    Args:
        recipe: names samplers, autoencoder and data.
        model: the network, on the device.
        device: where samples are drawn.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        autoencoder = recipe.decoder.on(device)
        data, source = describe_data(recipe.dataset), recipe.objective.source
        super().__init__(model, recipe.samplers_by_nfe, autoencoder, data, device, source=source)
        self._recipe = recipe

    def recipe(self) -> Recipe:
        """The recipe."""
        return self._recipe
