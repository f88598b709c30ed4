"""The networks of the feature extractors, built from their files, with the preprocessing that their figures come with.

Those for images are torch-fidelity's: every picture is resized to the network's size as TensorFlow 1 does. DINOv2 is
built here from its published file, since torch-fidelity can only fetch it with its repository; the preprocessing is
torch-fidelity's too. Each takes 8-bit RGB, (b, 3, h, w) or clips (b, 3, f, h, w), and gives a tuple of layers.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UserError
from .vit import DINOv2, VideoMAE

FRAMES = 16
"""Frames of a clip that FVD looks at: its first 16, one after another."""


def inception(file: Path) -> nn.Module:
    """torch-fidelity's Inception, with its batch norms folded into the convolutions and the channels last.

    That is 1.6 times as fast on a CPU, and differs by rounding (4e-7).
    """
    module: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    _state(file)  # unpickles nothing: what torch-fidelity unpickles next is plain tensors
    network: nn.Module = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    for part in network.modules():
        if isinstance(part, module.BasicConv2d):
            convolution: Any = part
            convolution.conv = fuse_conv_bn_eval(convolution.conv, convolution.bn)
            convolution.bn = nn.Identity()
    return network.to(memory_format=torch.channels_last)


def vgg16(file: Path) -> nn.Module:
    """torch-fidelity's VGG-16."""
    module: Any = importlib.import_module("torch_fidelity.feature_extractor_vgg16")
    _state(file)
    network: nn.Module = module.FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(file))
    return network.to(memory_format=torch.channels_last)


def clip(file: Path) -> nn.Module:
    """torch-fidelity's CLIP ViT-B/32, from OpenAI's TorchScript archive."""
    module: Any = importlib.import_module("torch_fidelity.feature_extractor_clip")
    with _quietly():
        network: nn.Module = module.FeatureExtractorCLIP(
            "clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(file)
        )
    return network


class _Resized(nn.Module):
    """DINOv2 behind torch-fidelity's preprocessing: to 224² as TensorFlow 1 resizes, ImageNet's mean and deviation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        module: Any = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
        self._resize = module.interpolate_bilinear_2d_like_tensorflow1x
        self.register_buffer("mean", 255 * torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        resized = self._resize(pixels.float(), size=(224, 224), align_corners=False)
        return (self.network((resized - self.mean) / self.std),)


def dinov2(file: Path) -> nn.Module:
    """DINOv2 with torch-fidelity's preprocessing."""
    return _Resized(DINOv2(_state(file)))


def i3d(file: Path) -> nn.Module:
    """StyleGAN-V's I3D."""
    with _quietly():
        return _I3D(torch.jit.load(str(file), map_location="cpu"))  # type: ignore[no-untyped-call]


def videomae(file: Path) -> nn.Module:
    """VideoMAE-v2 with content-debiased FVD's preprocessing."""
    return _VideoMAE(VideoMAE(_state(file)))


class _I3D(nn.Module):
    """The TorchScript file of StyleGAN-V (arXiv 2112.14683): it rescales to [-1, 1] and resizes to 224² by itself."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.script = script

    def forward(self, clips: Tensor) -> tuple[Tensor]:
        return (self.script(_first_frames(clips).float(), rescale=True, resize=True, return_features=True),)


class _VideoMAE(nn.Module):
    """VideoMAE-v2 as content-debiased FVD feeds it: [0, 1], each frame to 224² bilinearly, without antialiasing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> tuple[Tensor]:
        clips = _first_frames(clips).float() / 255
        frames = rearrange(clips, "b c f h w -> (b f) c h w")
        frames = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
        return (self.network(rearrange(frames, "(b f) c h w -> b c f h w", b=len(clips))),)


def _first_frames(clips: Tensor) -> Tensor:
    if clips.ndim != 5 or clips.shape[2] < FRAMES:
        raise UserError(
            f"FVD looks at {FRAMES} frames of a clip; these have {clips.shape[2] if clips.ndim == 5 else 1}"
        )
    return clips[:, :, :FRAMES]


@contextmanager
def _quietly() -> Iterator[None]:
    """Published TorchScript files outlive torch's warning that TorchScript ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _state(file: Path) -> Mapping[str, Tensor]:
    """A state dict; nothing else is unpickled."""
    found: Any = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("model", "module"):
        found = found.get(key, found)
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it is not a state dict")
    state: Mapping[str, Tensor] = found
    return state
