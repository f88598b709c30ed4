"""From a network to pixels: the one way that samples are drawn, of a run on disk and of one in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..data.dataset import Dataset, describe_data
from ..errors import UserError, said
from ..guidance import CFG
from ..guidance_input import guidance_setting
from ..network import known
from ..pixel_values import finite_bytes
from ..recipe import Recipe
from ..samplers import ODE, Sampler
from ..seeds import derived
from ..types import Cond, Labels
from .labels import balanced_labels

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

    Attributes:
        shape: shape of one sample, channels first.
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
    ) -> None:
        self.model = model
        self.samplers = dict(samplers)
        self.autoencoder = autoencoder
        self.device = device
        self.name, self.label_drop = name, label_drop
        self.shape: tuple[int, ...] = tuple(data["shape"])
        self.classes: int | None = data["classes"]
        self.class_names: list[str] = data["class_names"]
        self.sampled_classes: int | None = data.get("sampled_classes", self.classes)
        self.fps: float | None = data.get("fps")

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
        if not 1 <= nfe <= MAX_NFE:
            raise UserError(f"`nfe=` must be at least 1 and at most {MAX_NFE:,}, got {nfe:,}")
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
    def drawable(self) -> bool:
        """Whether something turns samples into pixels; latents without an autoencoder stay latents."""
        return not self.autoencoder.plain or self.shape[0] in (1, 3)

    def _check_guidable(self) -> None:
        if not self.classes:
            raise UserError(f"{self.name} can't be guided: its data have no classes")
        if self.label_drop == 0:
            raise UserError(
                f"{self.name} can't be guided: its network never saw a dropped label; "
                "train with guidance=af.Guidance(label_drop=0.1), or with af.GuidanceInputs() and DiT(guidance=True)"
            )

    def sample(
        self,
        count: int,
        nfe: int = 1,
        *,
        labels: Labels | None = None,
        seed: int = 0,
        batch_size: int = 256,
        guidance: CFG | None = None,
    ) -> Tensor:
        """Samples as 8-bit pixels (count, c, h, w); clips (count, c, f, h, w).

        Args:
            count: how many.
            nfe: network evaluations a sample, see `sampler`.
            labels: (count,); None for every class equally often.
            seed: seed of the noise. Sample i has the same noise at every nfe, count and batch size (the fresh noise of
                consistency sampling depends on the batch size).
            batch_size: samples at a time.
            guidance: scale and interval; an input of the network where it takes one, else applied by the sampler.
        """
        if labels is None and self.sampled_classes:
            labels = balanced_labels(count, self.sampled_classes)
        maker = self.maker(nfe, seed=seed, guidance=guidance)
        ends = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        return torch.cat([maker(i, j, None if labels is None else labels[i:j]) for i, j in ends])

    def maker(self, nfe: int, *, seed: int = 0, guidance: CFG | None = None) -> Maker:
        """Makes samples part by part, in any order; arguments as those of `sample`.

        Raises:
            UserError: as `sampler`; or nothing turns the run's samples into pixels.
        """
        sampler = self.sampler(nfe, guidance)
        if not self.drawable:
            raise UserError(
                f"the run's samples have {self.shape[0]} channels and nothing decodes them: its recipe names no "
                "autoencoder; give the one that the data were encoded with, af.Recipe(…, autoencoder=…)"
            )
        return Maker(self, sampler, seed, guidance)

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
                self.model(torch.zeros(1, *shape, device=self.device), one, one, Cond())
            made = self._decoded(shape)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.name} can't make this size: {said(error)}") from error
        _, *there, height, width = made
        if (*there, height, width) != (*([] if length is None else [length]), side, side):
            nearest = " ".join([*(f"`frames={n}`" for n in there), f"`size={height}`"])
            raise UserError(f"{self.name} can't make exactly this size; its autoencoder would give {nearest}")
        if self.fps and trained and made[1] > trained[0] > 1:  # more frames of the same time (`DiT`)
            self.fps *= (made[1] - 1) / (trained[0] - 1)
        self.shape, self.pixel_shape = shape, made

    @cached_property
    def pixel_shape(self) -> tuple[int, ...]:
        """Shape of one sample in pixels, (c, h, w) or (c, f, h, w); found by decoding one, if latents are decoded."""
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
        super().__init__(model, recipe.samplers_by_nfe, autoencoder, describe_data(recipe.dataset), device)
        self._recipe = recipe

    def recipe(self) -> Recipe:
        """The recipe."""
        return self._recipe


class Maker:
    """Samples, part by part. Sample i has the same noise whatever the parts are, and the same at every NFE.

    (The fresh noise of consistency sampling is drawn for each part, from the seed and the part's first sample.)
    """

    def __init__(self, run: Pipeline, sampler: Sampler, seed: int, guidance: CFG | None) -> None:
        self.run = run
        self.sampler = sampler
        self.seed = seed
        self.guidance = guidance
        self._drawn = 0
        self._source = torch.Generator().manual_seed(seed)

    def __call__(self, start: int, stop: int, labels: Labels | None = None) -> Tensor:
        """Samples ``start`` up to ``stop``, 8-bit pixels (b, …); labels (b,), or None for a run without classes.

        Raises:
            UserError: one is not finite.
        """
        run, count = self.run, stop - start
        noise = self._noise(start, stop).to(run.device)
        cond = Cond() if labels is None else Cond(labels=labels)
        if self.guidance is not None and run.takes_guidance:
            cond = cond.replace(guidance=guidance_setting(count, self.guidance.scale, self.guidance.interval))
        fresh = torch.Generator(run.device).manual_seed(derived(self.seed, start) if start else self.seed)
        x = self.sampler(run.model, noise, cond.to(run.device), fresh)
        return finite_bytes(run.autoencoder.decode(x), start)

    def _noise(self, start: int, stop: int) -> Tensor:
        if start < self._drawn:
            self._drawn, self._source = 0, torch.Generator().manual_seed(self.seed)
        for _ in range(self._drawn, start):
            torch.randn(self.run.shape, generator=self._source)
        self._drawn = stop
        return torch.stack([torch.randn(self.run.shape, generator=self._source) for _ in range(start, stop)])
