"""Evaluation against torch-fidelity, transformers and independent code, with random weights of the real networks.

No pretrained weights are needed: the networks are made, saved to disk, and loaded by the real path.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.statistics import make_statistics
from PIL import Image
from torch import Tensor, nn

import alphaflow as af
from alphaflow.evaluation.sources import open_source
from alphaflow.evaluation.statistics import read_statistics
from alphaflow.metrics.features import EXTRACTORS, FEATURES, LOGITS, open_extractor
from alphaflow.metrics.gather import Gatherer, needs_of
from alphaflow.metrics.vit import DINOv2, VideoMAE

CPU = torch.device("cpu")
Cli = Callable[..., Any]


def own(file: Path) -> str:
    """A file of weights as `--weights` takes it: with its SHA-256, since it isn't the published one."""
    return f"{file}#{hashlib.sha256(file.read_bytes()).hexdigest()}"


def randomise(network: nn.Module) -> nn.Module:
    """He-normal convolutions, and batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("running_var") or (name.endswith("weight") and ".bn" in name):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias") or name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
    return network


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception v3 with random weights, in a file of the published form."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    place = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(randomise(network).state_dict(), place)
    return place


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


def rows(target: Any, reference: Any, *metrics: str, **options: Any) -> dict[str, float]:
    result = af.evaluate(target, reference, metrics=metrics, device="cpu", **options)
    assert result is not None
    return result.rows[0].values


@pytest.mark.slow
def test_figures_equal_torch_fidelitys(sets: tuple[Path, Path], inception: Path) -> None:
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
def test_features_and_preprocessing_equal_torch_fidelitys(inception: Path) -> None:
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


def test_dinov2_equals_transformers(tmp_path: Path) -> None:
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
def test_videomae_equals_transformers(tmp_path: Path) -> None:
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
def test_clip_and_vgg_load(tmp_path: Path) -> None:
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

    vgg = randomise(vgg16()).eval()
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
def test_fvd_equals_independent_code(tmp_path: Path) -> None:
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
    found = rows(af.Images(fake), af.Images(real), "fvd", weights={"i3d": own(tmp_path / "i3d.pt")}, batch_size=7)

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
        rows(af.Images(fake[:, :, :8]), af.Images(real[:, :, :8]), "fvd", weights={"": own(tmp_path / "i3d.pt")})
    with pytest.raises(af.UserError, match="fvd is for clips"):
        rows(af.Images(fake[:, :, 0]), af.Images(real[:, :, 0]), "fvd", weights={"": own(tmp_path / "i3d.pt")})


@pytest.mark.slow
def test_image_metrics_of_clips_look_at_frames(tmp_path: Path) -> None:
    torch.save(dino_weights(64, 1), tmp_path / "dino.pth")
    weights = {"dinov2": own(tmp_path / "dino.pth")}
    clips = torch.randint(256, (12, 3, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_clips = rows(af.Images(clips[:6].repeat(2, 1, 1, 1, 1)), af.Images(clips), "fdd", weights=weights, batch_size=5)
    frames = clips.transpose(1, 2).flatten(0, 1)
    of_frames = rows(af.Images(frames[:12].repeat(2, 1, 1, 1)), af.Images(frames), "fdd", weights=weights)
    assert of_clips["frame-fdd"] == pytest.approx(of_frames["fdd"], rel=1e-9)


def pixels_of(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_form_gives_the_same_figures(tmp_path: Path, cli: Cli) -> None:
    """PNG files, a zip, arrays (compressed or not), shards, statistics; any batch size."""
    from alphaflow.data.written import write_samples

    pixels, labels = pixels_of(40, 0), torch.arange(40) % 4
    write_samples(tmp_path / "png", lambda: pixels, labels, list("abcd"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "png").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "png"))
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "plain.npz", arr_0=arrays, arr_1=np.array(list("abcd"))[labels.numpy()])
    np.savez_compressed(tmp_path / "packed.npz", arr_0=arrays, arr_1=np.array(list("abcd"))[labels.numpy()])
    done = cli("encode", "images", tmp_path / "png", tmp_path / "shards", "--size", "8", "--autoencoder", "pixels",
               "--workers", "0")  # fmt: skip
    assert done.status == 0, done.err
    metrics = ("pixel-fd", "pixel-pr", "agreement")
    make_statistics(tmp_path / "png", tmp_path / "stats.npz", metrics=metrics)
    fake = af.Images(pixels_of(60, 1) // 2, torch.arange(60) % 4, list("abcd"))
    expected = rows(fake, af.Images(pixels, labels, list("abcd")), *metrics)
    for name in ("png", "set.zip", "plain.npz", "packed.npz", "shards", "stats.npz"):
        for batch_size in (7, 128):
            assert rows(fake, tmp_path / name, *metrics, batch_size=batch_size) == pytest.approx(expected, rel=1e-9), (
                name
            )
    assert rows(tmp_path / "shards", tmp_path / "png", "pixel-fd")["pixel-fd"] == pytest.approx(0, abs=1e-9)
    blocks = list(open_source(tmp_path / "packed.npz").blocks(16, 1, 2))
    assert [block.start for block in blocks] == [16]
    assert torch.equal(blocks[0].pixels, pixels[16:32])


@pytest.mark.slow
def test_statistics_of_adms_form(tmp_path: Path, inception: Path) -> None:
    """mu and sigma are taken as they are; other metrics look at the pictures beside them; ours reads back."""
    weights = {"inception": own(inception)}
    real, fake = pixels_of(12, 0), pixels_of(11, 1) // 2
    plain = rows(af.Images(fake), af.Images(real), "fid", "pr", weights=weights)
    make_statistics(_npz(tmp_path / "real.npz", real), tmp_path / "stats.npz", metrics=("fid",), weights=weights)
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as arrays:
        mu, sigma = arrays["mu"], arrays["sigma"]
        assert sigma.shape == (2048, 2048)
    stored, expected = read_statistics(tmp_path / "stats.npz").statistics.spaces["inception"], mu
    assert stored.moments is not None
    assert np.array_equal(stored.moments.mean.numpy(), expected)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, arr_0=real.permute(0, 2, 3, 1).numpy())
    assert rows(af.Images(fake), tmp_path / "adm.npz", "fid", "pr", weights=weights) == pytest.approx(plain)
    np.savez(tmp_path / "fid.npz", mu=mu, sigma=sigma)
    for name in ("fid.npz", "stats.npz"):
        with pytest.raises(af.UserError, match="the reference has nothing for pr; make it with `alphaflow stats"):
            rows(af.Images(fake), tmp_path / name, "pr", weights=weights)
    state = torch.load(inception, weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, tmp_path / "others.pth")
    with pytest.raises(af.UserError, match="made with weights"):
        rows(af.Images(fake), tmp_path / "stats.npz", "fid", weights={"": own(tmp_path / "others.pth")})
    np.savez(tmp_path / "narrow.npz", mu=mu[:64], sigma=sigma[:64, :64])
    with pytest.raises(af.UserError, match="64 features, but inception has 2048: it was made with another extractor"):
        rows(af.Images(fake), tmp_path / "narrow.npz", "fid", weights=weights)


def _npz(file: Path, pixels: Tensor) -> Path:
    np.savez(file, arr_0=pixels.permute(0, 2, 3, 1).numpy())
    return file


def test_damaged_statistics(tmp_path: Path, here: Cli) -> None:
    good = np.eye(4)
    np.savez(tmp_path / "nan.npz", mu=np.full(4, np.nan), sigma=good)
    np.savez(tmp_path / "skew.npz", mu=np.zeros(4), sigma=np.triu(np.ones((4, 4))))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=good)
    np.savez(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object), sigma=good)
    np.savez(tmp_path / "whole.npz", mu=np.zeros(4), sigma=good)
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    (tmp_path / "flipped.npz").write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    fake = _npz(tmp_path / "fake.npz", pixels_of(12, 0))
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("nan.npz", "is damaged"), ("skew.npz", "is damaged"), ("shapes.npz", "don't belong together"),
        ("pickled.npz", "pickled objects are refused"), ("cut.npz", "no readable"), ("flipped.npz", "is it whole"),
        ("empty", "holds no images"), ("none.npz", "doesn't exist"),
    ]:  # fmt: skip
        done = here("evaluate", fake, "--reference", tmp_path / name, "--metrics", "pixel-pr")
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), (name, done.err)
        assert message in done.err, (name, done.err)


def test_weights_are_never_others(tmp_path: Path, here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line and status 2: missing, another file, a file of something else, a wrong SHA-256 of one's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    fake = _npz(tmp_path / "fake.npz", pixels_of(12, 0))
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    (tmp_path / "text.pth").write_text("no weights")
    cached = tmp_path / "cache" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    call = ("evaluate", fake, "--reference", fake)
    for more, message in [
        ((), f"put https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{cached.name} at {cached}"),
        (("--weights", tmp_path / "none.pth"), "none.pth, don't exist"),
        (("--weights", tmp_path), "are a folder"),
        (("--weights", tmp_path / "a.pth"), "is not the published file of inception's weights"),
        (("--weights", f"inception={tmp_path / 'a.pth'}#1234"), "is not the file that you mean"),
        (("--weights", own(tmp_path / "a.pth")), "holds no weights of inception"),
        (("--weights", own(tmp_path / "text.pth")), "holds no weights of inception"),
        (("--weights", f"i3d={tmp_path / 'a.pth'}"), "--weights names i3d; fid use inception"),
        (("--metrics", "kid"), "kid draws subsets of 1,000, but there are 12"),
        (("--metrics", "fvd", "--weights", "x"), "fvd"),
    ]:
        metrics = () if "--metrics" in more else ("--metrics", "fid")
        done = here(*call, *metrics, *more)
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), (more, done.err)
        if "kid" not in more and "fvd" not in more:
            assert message in done.err, (more, done.err)
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"half a download")
    assert "is not the published file" in here(*call, "--metrics", "fid").err


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("Network is unreachable")


def test_a_pickle_among_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(af.UserError, match="holds no weights of inception"):
        open_extractor("inception", CPU, own(tmp_path / "bomb.pth"))
    assert not Path(Bomb.trace).exists()


class Bomb:
    trace = "bomb-went-off"

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.trace).touch, ()


@pytest.mark.network
def test_the_published_weights_are_where_we_say() -> None:
    """Downloads each extractor's file and compares its SHA-256."""
    if not os.environ.get("ALPHAFLOW_NETWORK"):
        pytest.skip("downloads 6 GB: set ALPHAFLOW_NETWORK=1 where there is a network")
    for name, published in EXTRACTORS.items():
        published.open(name, CPU)


def torchrun(processes: int, *arguments: str | Path) -> None:
    """Runs alphaflow in several processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    package = str(Path(af.__file__).resolve().parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    call = [*launch, "-m", "alphaflow", *map(str, arguments)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_processes_that_train_share_evaluations(tmp_path: Path) -> None:
    """What two training processes measure together is what one measures of the finished run."""
    small = ["--steps", "4", "--width", "32", "--depth", "1", "--batch-size", "16", "--evaluate-every", "4"]
    torchrun(2, "train", "digits", *small, "--device", "cpu", "--out", tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [row["eval/pixel-fd_1"] for row in logged if "eval/pixel-fd_1" in row]
    result = af.evaluate(tmp_path / "run", metrics=("pixel-fd",), count=1000, device="cpu")
    assert result is not None
    assert measured == pytest.approx(result.rows[0].values["pixel-fd"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_work(small_run: Path, tmp_path: Path, processes: int, cli: Cli) -> None:
    """The figures of one process, to the last digits, and every sample saved once."""
    call = ["evaluate", small_run, "--count", "90", "--nfe", "1,2", "--seed", "0,1", "--batch-size", "16"]
    alone = cli(*map(str, call), "--json", tmp_path / "one.json")
    assert alone.status == 0, alone.err
    torchrun(processes, *call, "--json", tmp_path / "many.json", "--save", tmp_path / "saved")
    one, many = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "many"))
    assert many["processes"] == processes
    for a, b in zip(one["rows"], many["rows"], strict=True):
        assert b["values"] == pytest.approx(a["values"], rel=1e-9, abs=1e-12)
    assert len(list((tmp_path / "saved" / "nfe-2-seed-1").rglob("*.png"))) == 90


def test_a_run_and_its_record(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    """Several seeds, JSON, CSV, pictures; the same samples from disk; sample i is the same at every batch size."""
    where = {name: tmp_path / name for name in ("out.json", "out.csv", "pictures", "saved")}
    call = ("evaluate", small_run, "--count", "60", "--nfe", "1,2", "--seed", "3,4", "--json", where["out.json"])
    call = (*call, "--csv", where["out.csv"], "--pictures", where["pictures"], "--save", where["saved"])
    done = cli(*call)
    assert done.status == 0, done.err
    assert "the worst classes by pixels" in done.out
    record = json.loads(where["out.json"].read_text())
    assert [(row["nfe"], row["seed"]) for row in record["rows"]] == [
        (1, 3), (1, 4), (1, None), (2, 3), (2, 4), (2, None), (None, None),
    ]  # fmt: skip
    first, second, mean = (row["values"]["pixel-fd"] for row in record["rows"][:3])
    assert mean == pytest.approx((first + second) / 2)
    assert record["rows"][2]["std"]["pixel-fd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert len(record["run"]["weights_sha256"]) == 64
    assert len(where["out.csv"].read_text().splitlines()) == 8
    assert Image.open(where["pictures"] / "nfe-1.png").width > 64
    nearest = json.loads((where["pictures"] / "nfe-2-neighbours.json").read_text())["nearest"]
    distances = [row["distance"] for row in nearest]
    assert all(row == sorted(row) for row in distances)
    worst = json.loads((where["pictures"] / "nfe-1-classes.json").read_text())["worst"]
    assert [row["kernel distance"] for row in worst] == sorted((row["kernel distance"] for row in worst), reverse=True)
    result = af.evaluate(where["saved"] / "nfe-1-seed-3", "digits", device="cpu")
    assert result is not None
    assert result.rows[0].values == pytest.approx(record["rows"][0]["values"], rel=1e-9)
    run = af.Run(small_run, device="cpu")
    again = af.evaluate(run, count=60, seeds=(3,), batch_size=7)
    assert again is not None
    assert again.rows[0].values == pytest.approx(record["rows"][0]["values"], rel=1e-9)


def test_samples_that_are_not_finite(small_run: Path) -> None:
    run = af.Run(small_run, device="cpu")
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(af.UserError, match="sample 0 is not finite"):
        af.evaluate(run, count=20)


def test_memory_does_not_grow_with_samples() -> None:
    """What is held of kept features is in a file; of moments, a mean and a matrix."""
    needs = needs_of(("pixel-fd", "pixel-pr"))
    gatherer = Gatherer(needs, {"pixels": open_extractor("pixels", CPU)}, 5000, (3, 8, 8))
    pixels = pixels_of(500, 0)
    for start in range(0, 5000, 500):
        gatherer.add(pixels, start)
    held = [value for part in gatherer._moments["pixels"] for value in part.parts()[1:]]
    assert sum(value.numel() for value in held) == 192 + 192**2
    assert not any(isinstance(value, Tensor) for value in vars(gatherer._kept["pixels"]).values())
    found = gatherer.finish()
    assert found is not None
    features = found.spaces["pixels"].features
    assert features is not None
    assert torch.equal(features[4500:], features[:500])
