"""Feature extractors: the published networks that metrics compare pictures and clips by, and where their files are."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import UserError, reason
from ..parallel.device import exact_float32
from . import networks
from .builtin import FEATURES, UNPUBLISHED
from .weight_files import Weights, WeightsFile, find_weights

LOGITS = "logits"
"""A layer beside the representation: class logits without their bias (Inception only)."""


class Extractor(Protocol):
    """Turns pixels into features: 8-bit (b, c, h, w), or clips (b, c, f, h, w), into layers (b, d), float32."""

    @property
    def weights(self) -> WeightsFile | None:
        """The file that was loaded; None where there is none."""
        ...

    @property
    def batch(self) -> int:
        """How many are best run at once."""
        ...

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """The features of each layer, on the extractor's device."""
        ...


@dataclass(frozen=True)
class PretrainedExtractor:
    """A pretrained network, in exact fp32 without TF32: the same figures on every device, as far as sums allow.

    Attributes:
        run: 8-bit RGB (b, 3, …) on the device ↦ a layer each.
        layers: their names.
        device: where it runs.
        weights: the file that was loaded.
        batch: how many are run at once.
    """

    run: Callable[[Tensor], tuple[Tensor, ...]]
    layers: tuple[str, ...]
    device: torch.device
    weights: WeightsFile
    batch: int

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Layers (b, d); greyscale counts as RGB with equal channels."""
        pixels = pixels.to(self.device)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, *pixels.shape[2:])
        with exact_float32(self.device):
            found = self.run(pixels)
        return {name: layer.float().flatten(1) for name, layer in zip(self.layers, found, strict=True)}


@dataclass(frozen=True)
class Published:
    """An extractor as it is published.

    Attributes:
        about: what it is.
        weights: its file.
        build: weights on disk ↦ what `PretrainedExtractor` runs, on the CPU.
        layers: what that gives.
        video: whether it takes clips.
    """

    about: str
    weights: Weights
    build: Callable[[Path], nn.Module]
    layers: tuple[str, ...] = (FEATURES,)
    video: bool = False

    def open(self, name: str, device: torch.device, given: str | None = None) -> PretrainedExtractor:
        """Loads it onto a device; ``given`` as `find_weights` takes it.

        Raises:
            UserError: there are no such weights, or they aren't this network's.
        """
        file = find_weights(name, self.weights, given)
        try:
            network = self.build(file.path)
        except ImportError as error:
            raise UserError(f"{name} needs torch-fidelity ({reason(error)}): pip install torch-fidelity") from error
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{file.path} does not hold the weights of {name}: {reason(error)}") from error
        network = network.to(device).eval().requires_grad_(False)
        return PretrainedExtractor(network, self.layers, device, file, 8 if self.video else 64)


_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"

_CLIP_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"

EXTRACTORS: Mapping[str, Published] = {
    "inception": Published(
        "Inception v3 of the original FID, torch-fidelity's inception-v3-compat",
        Weights(
            "weights-inception-2015-12-05-6726825d.pth",
            _FIDELITY + "weights-inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            "without it `metrics=('random-fd',)` compares images of any size, though its figures are not FID",
        ),
        networks.inception,
        (FEATURES, LOGITS),
    ),
    "dinov2": Published(
        "DINOv2 ViT-L/14",
        Weights(
            "dinov2_vitl14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        ),
        networks.dinov2,
    ),
    "clip": Published(
        "CLIP ViT-B/32",
        Weights(
            f"clip-vit-b-32-{_CLIP_SHA256}.pt",
            f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-B-32.pt",
            _CLIP_SHA256,
        ),
        networks.clip,
    ),
    "vgg16": Published(
        "VGG-16, its second fully connected layer",
        Weights(
            "vgg16-397923af.pth",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        networks.vgg16,
    ),
    "i3d": Published(
        "I3D, logits of Kinetics-400: StyleGAN-V's TorchScript file",
        Weights(
            "i3d_torchscript.pt",
            "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
            "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
            "without it `metrics=('random-fd', 'shrunk-fd', 'motion')` compares clips, though its figures are not FVD",
        ),
        networks.i3d,
        video=True,
    ),
    "videomae": Published(
        "VideoMAE-v2 ViT-g, fine-tuned on Something-Something-v2",
        Weights(
            "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
            "https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/internvideo/videomaev2/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
            None,
        ),
        networks.videomae,
        video=True,
    ),
}
"""The pretrained extractors by name."""


def by_frame(name: str) -> bool:
    """Whether an extractor looks at clips frame by frame: it is a published network of pictures."""
    return name in EXTRACTORS and not EXTRACTORS[name].video


def check_weights(name: str, given: str | None = None) -> None:
    """Finds an extractor's weights, or downloads them.

    Raises:
        UserError: as `find_weights`.
    """
    if name not in UNPUBLISHED:
        find_weights(name, EXTRACTORS[name].weights, given)


def open_extractor(name: str, device: torch.device, given: str | None = None) -> Extractor:
    """An extractor by name, on a device; ``given`` names its weights, as `find_weights` takes them."""
    return UNPUBLISHED[name](device) if name in UNPUBLISHED else EXTRACTORS[name].open(name, device, given)
