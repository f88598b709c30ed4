"""Feature extractors against torch-fidelity, transformers and independent code, and figures against torch-fidelity's.

No pretrained weights are needed: networks with random weights are saved to disk and loaded by the real path.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import alphaflow as af
from alphaflow.features.builtin import FEATURES
from alphaflow.features.extractors import EXTRACTORS, LOGITS, open_extractor
from alphaflow.features.vit import DINOv2, VideoMAE

CPU = torch.device("cpu")
Own = Callable[[Path], str]
Rows = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> tuple[Path, Path]:
    """Two folders of real pictures, 24 test and 36 training images of CIFAR-10, as PNG."""
    place = tmp_path_factory.mktemp("sets")
    for name, count in (("test", 24), ("train", 36)):
        with zipfile.ZipFile(real_data / f"cifar10-{name}.zip") as archive:
            members = sorted(archive.namelist())
            members = [member for member in members if member.endswith(".jpg")]
            for i, member in enumerate(members[:: len(members) // count][:count]):
                file = place / name / member.split("/")[-2] / f"{i:03d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as stream:
                    Image.open(stream).save(file)
    return place / "test", place / "train"


@pytest.mark.slow
def test_figures_equal_torch_fidelitys(sets: tuple[Path, Path], inception: Path, rows: Rows, own: Own) -> None:
    from torch_fidelity import calculate_metrics

    test, train = sets
    options = {
        "cuda": False, "isc": True, "fid": True, "prc": True, "feature_extractor": "inception-v3-compat",
        "feature_extractor_weights_path": str(inception), "samples_find_deep": True, "cache": False, "verbose": False,
        "save_cpu_ram": True, "batch_size": 12,
    }  # fmt: skip
    theirs = calculate_metrics(input1=str(test), input2=str(train), **options)
    ours = rows(test, train, "fid", "is", "pr", weights={"": own(inception)}, batch_size=10)
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert ours["is_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-3)
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-4)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-4)


@pytest.mark.slow
def test_features_and_preprocessing_equal_torch_fidelitys(inception: Path, own: Own) -> None:
    """At sizes below and above the network's, greyscale, and in any batch: to rounding; among batches, bit for bit."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception)
    )
    ours = open_extractor("inception", CPU, own(inception))
    generator = torch.Generator().manual_seed(0)
    for height, width in ((32, 32), (310, 400)):
        pixels = torch.randint(256, (3, 3, height, width), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            expected = theirs(pixels)
        found = ours(pixels)
        for layer, value in zip((FEATURES, LOGITS), expected, strict=True):
            assert (found[layer] - value).norm() < 3e-6 * value.norm()
        assert torch.equal(torch.cat([ours(part)[FEATURES] for part in pixels.split(1)]), found[FEATURES])
    grey = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8, generator=generator)
    assert torch.equal(ours(grey)[FEATURES], ours(grey.expand(2, 3, 28, 28))[FEATURES])


def dino_weights(width: int, depth: int) -> dict[str, Tensor]:
    """A state dict in the published form, from the field names of transformers' Dinov2Model."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64, image_size=518, patch_size=14
    )
    theirs = Dinov2Model(config).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    state = theirs.state_dict()
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias", "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }  # fmt: skip
    found = {ours: state[name] for ours, name in names.items()}
    for i in range(depth):
        a, b = f"blocks.{i}.", f"encoder.layer.{i}."
        for part in ("weight", "bias"):
            found[f"{a}attn.qkv.{part}"] = torch.cat([state[f"{b}attention.{n}_proj.{part}"] for n in "qkv"])
            found[f"{a}attn.proj.{part}"] = state[f"{b}attention.o_proj.{part}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{a}{same}.{part}"] = state[f"{b}{same}.{part}"]
        for n in (1, 2):
            found[f"{a}ls{n}.gamma"] = state[f"{b}layer_scale{n}.lambda1"]
    pixels = torch.randn(2, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 0]
        assert (DINOv2(found)(pixels) - expected).norm() < 1e-5 * expected.norm()
    return found


def test_dinov2_equals_transformers(tmp_path: Path, own: Own) -> None:
    """At its own 518 pixels; at 224 with resized positions; by the file, through torch-fidelity's preprocessing."""
    weights = dino_weights(128, 2)
    torch.save(weights, tmp_path / "dino.pth")
    extractor = open_extractor("dinov2", CPU, own(tmp_path / "dino.pth"))
    pixels = torch.randint(256, (3, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = extractor(pixels)[FEATURES]
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    resized = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(224, 224), align_corners=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    table = weights["pos_embed"][0, 1:].T.reshape(1, 128, 37, 37)
    small = nn.functional.interpolate(table, scale_factor=16.1 / 37, mode="bicubic")
    swapped = dict(weights, pos_embed=torch.cat([weights["pos_embed"][:, :1], small.flatten(2).mT], dim=1))
    with torch.no_grad():
        expected = DINOv2(swapped)((resized / 255 - mean) / std)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def videomae_weights() -> tuple[dict[str, Tensor], Any]:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=16, intermediate_size=100, patch_size=14,
        image_size=224, num_frames=16, tubelet_size=2, use_mean_pooling=True, num_labels=5, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = VideoMAEForVideoClassification(config).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    theirs.classifier = nn.Identity()
    state, found = theirs.state_dict(), {}
    embedding = "videomae.embeddings.patch_embeddings.projection"
    for part in ("weight", "bias"):
        found[f"patch_embed.proj.{part}"] = state[f"{embedding}.{part}"]
        found[f"fc_norm.{part}"] = state[f"fc_norm.{part}"]
        found[f"head.{part}"] = torch.zeros(5)
        for i in range(2):
            a, b = f"blocks.{i}.", f"videomae.encoder.layer.{i}."
            pairs = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
            pairs |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
            for ours, name in pairs.items():
                found[f"{a}{ours}.{part}"] = state[f"{b}{name}.{part}"]
            own_names = ("query", "key", "value")
            qkv = [state[f"{b}attention.attention.{name}.weight"] for name in own_names]
            found[f"{a}attn.qkv.weight"] = torch.cat(qkv)
            found[f"{a}attn.q_bias"] = state[f"{b}attention.attention.query.bias"]
            found[f"{a}attn.v_bias"] = state[f"{b}attention.attention.value.bias"]
    return found, theirs


@pytest.mark.slow
def test_videomae_equals_transformers(tmp_path: Path, own: Own) -> None:
    weights, theirs = videomae_weights()
    torch.save({"module": weights}, tmp_path / "mae.pth")
    extractor = open_extractor("videomae", CPU, own(tmp_path / "mae.pth"))
    clips = torch.randint(256, (2, 3, 17, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = [
        nn.functional.interpolate(clip[:, :16].transpose(0, 1) / 255, size=(224, 224), mode="bilinear")
        for clip in clips
    ]
    with torch.no_grad():
        expected = theirs(torch.stack(frames)).logits
        assert (VideoMAE(weights)(torch.stack(frames).transpose(1, 2)) - expected).norm() < 1e-5 * expected.norm()
    assert (extractor(clips)[FEATURES] - expected).norm() < 1e-5 * expected.norm()


def archive(state: dict[str, Tensor], file: Path) -> Path:
    """A TorchScript archive that holds these weights, as OpenAI's file does."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.register_parameter(last, nn.Parameter(value, requires_grad=False))
    torch.jit.script(root).save(str(file))
    return file


@pytest.mark.slow
def test_clip_and_vgg_load(tmp_path: Path, randomised: Callable[[nn.Module], nn.Module], own: Own) -> None:
    """CLIP's vision transformer and VGG-16 with random weights, against the networks without our loading."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    from torchvision.models import vgg16

    pixels = torch.randint(256, (3, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(224, 224), align_corners=False) / 255
    clip = CLIPVisual(32, 224, 2, 128, 32)
    for parameter in clip.parameters():
        parameter.data.copy_((0.1 * torch.randn_like(parameter)).half().float())
    state = {name: value.clone() for name, value in clip.state_dict().items()}
    file = archive({**state, "text_projection": torch.zeros(8, 32)}, tmp_path / "clip.pt")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        expected = clip.visual((resized - _rgb(mean)) / _rgb(std))
    found = open_extractor("clip", CPU, own(file))(pixels)[FEATURES]
    assert (found - expected).norm() < 1e-5 * expected.norm()

    vgg = randomised(vgg16()).eval()
    torch.save(vgg.state_dict(), tmp_path / "vgg.pth")
    del vgg.classifier[5:]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.no_grad():
        expected = vgg((resized - _rgb(mean)) / _rgb(std))
    found = open_extractor("vgg16", CPU, own(tmp_path / "vgg.pth"))(pixels)[FEATURES]
    assert (found - expected).norm() < 1e-5 * expected.norm()


def _rgb(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


class LikeI3D(nn.Module):
    """The interface of StyleGAN-V's file with a small network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 12, (3, 7, 7), stride=(2, 8, 8))
        self.fc = nn.Linear(12, 8)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            x = torch.nn.functional.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        x = self.conv(x).relu().mean(dim=[2, 3, 4])
        return self.fc(x) if return_features else x


@pytest.mark.slow
def test_fvd_equals_independent_code(tmp_path: Path, rows: Rows, own: Own) -> None:
    """Of random clips of 18 frames, from memory; the detector's first 16 frames, resized and rescaled here."""
    from scipy import linalg

    torch.manual_seed(0)
    network = LikeI3D()
    torch.jit.script(network).save(str(tmp_path / "i3d.pt"))
    generator = torch.Generator().manual_seed(1)
    real = torch.randint(256, (24, 3, 18, 20, 24), dtype=torch.uint8, generator=generator)
    fake = (
        torch.rand(20, 3, 18, 20, 24, generator=generator) * torch.rand(20, 1, 1, 1, 1, generator=generator) * 255
    ).byte()
    found = rows(
        af.InMemorySamples(fake),
        af.InMemorySamples(real),
        "fvd",
        weights={"i3d": own(tmp_path / "i3d.pt")},
        batch_size=7,
    )

    def statistics(clips: Tensor) -> tuple[Any, Any]:
        scaled = clips[:, :, :16].float() / 127.5 - 1
        frames = scaled.transpose(1, 2).flatten(0, 1)
        frames = nn.functional.interpolate(frames, size=(224, 224), mode="bilinear")
        with torch.no_grad():
            features = network(frames.view(len(clips), 16, 3, 224, 224).transpose(1, 2), return_features=True).numpy()
        return features.mean(0), np.cov(features.T)

    (mu, sigma), (mu_real, sigma_real) = statistics(fake), statistics(real)
    expected = ((mu - mu_real) ** 2).sum() + np.trace(sigma + sigma_real - 2 * linalg.sqrtm(sigma @ sigma_real).real)
    assert found["fvd"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(af.UserError, match="looks at 16 frames of a clip; these have 8"):
        rows(
            af.InMemorySamples(fake[:, :, :8]),
            af.InMemorySamples(real[:, :, :8]),
            "fvd",
            weights={"": own(tmp_path / "i3d.pt")},
        )
    with pytest.raises(af.UserError, match="fvd is for clips"):
        rows(
            af.InMemorySamples(fake[:, :, 0]),
            af.InMemorySamples(real[:, :, 0]),
            "fvd",
            weights={"": own(tmp_path / "i3d.pt")},
        )


@pytest.mark.slow
def test_image_metrics_of_clips_look_at_frames(tmp_path: Path, rows: Rows, own: Own) -> None:
    torch.save(dino_weights(64, 1), tmp_path / "dino.pth")
    weights = {"dinov2": own(tmp_path / "dino.pth")}
    clips = torch.randint(256, (12, 3, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_clips = rows(
        af.InMemorySamples(clips[:6].repeat(2, 1, 1, 1, 1)),
        af.InMemorySamples(clips),
        "fdd",
        weights=weights,
        batch_size=5,
    )
    frames = clips.transpose(1, 2).flatten(0, 1)
    of_frames = rows(
        af.InMemorySamples(frames[:12].repeat(2, 1, 1, 1)), af.InMemorySamples(frames), "fdd", weights=weights
    )
    assert of_clips["frame-fdd"] == pytest.approx(of_frames["fdd"], rel=1e-9)


@pytest.mark.network
def test_the_published_weights_are_where_we_say() -> None:
    """Downloads each extractor's file and compares its SHA-256."""
    if not os.environ.get("ALPHAFLOW_NETWORK"):
        pytest.skip("downloads 6 GB: set ALPHAFLOW_NETWORK=1 where there is a network")
    for name, published in EXTRACTORS.items():
        published.open(name, CPU)
