"""diffusers' autoencoders, randomly initialised, saved to disk and loaded by the real code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alphaflow as af
from alphaflow.autoencoders.autoencoder import Normalisation
from alphaflow.autoencoders.opening import AUTOENCODERS
from alphaflow.data.dataset import IndexedDataset, Indices
from alphaflow.describe import describe, rebuild

diffusers = pytest.importorskip("diffusers")


def kl() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        norm_num_groups=4, scaling_factor=0.5, shift_factor=0.25,
    )  # fmt: skip


def tiny() -> Any:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip


def dc() -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=8, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), scaling_factor=0.4,
    )  # fmt: skip


def cogvideox() -> Any:
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=2, scaling_factor=1.15,
    )  # fmt: skip


def wan() -> Any:
    mean, std = [0.1, 0.2, 0.3, 0.4], [2.0, 1.0, 0.5, 4.0]
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], latents_mean=mean,
        latents_std=std,
    )  # fmt: skip


def ltx() -> Any:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False), decoder_inject_noise=(False, False, False),
        upsample_residual=(False, False), upsample_factor=(1, 1), down_block_types=("LTXVideoDownBlock3D",) * 2,
        patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False, timestep_conditioning=False,
    )  # fmt: skip


def mochi() -> Any:
    return diffusers.AutoencoderKLMochi(
        in_channels=15, encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=4, layers_per_block=(1, 1, 1, 1, 1), latents_mean=(0.1, 0.2, 0.3, 0.4),
        latents_std=(1.0, 2.0, 0.5, 4.0), scaling_factor=1.0,
    )  # fmt: skip


def cosmos() -> Any:
    return diffusers.AutoencoderKLCosmos(
        encoder_block_out_channels=(8, 8, 8), decode_block_out_channels=(8, 8, 8), attention_resolutions=(8,),
        resolution=32, num_layers=1, patch_size=2, latent_channels=4, spatial_compression_ratio=4,
        temporal_compression_ratio=2, latents_mean=[0.1] * 64, latents_std=[0.5] * 64,
    )  # fmt: skip


# name ↦ (how it is made, whether it takes videos, whether it has a posterior)
KINDS: dict[str, tuple[Any, bool, bool]] = {
    "kl": (kl, False, True),
    "tiny": (tiny, False, False),
    "dc": (dc, False, False),
    "cogvideox": (cogvideox, True, True),
    "wan": (wan, True, True),
    "ltx": (ltx, True, True),
    "mochi": (mochi, True, True),
    "cosmos": (cosmos, True, False),
}


@pytest.fixture(scope="module", params=KINDS)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, af.DiffusersVAE]:
    make, _, _ = KINDS[request.param]
    torch.manual_seed(1)
    vae = make().eval()
    place = tmp_path_factory.mktemp(request.param)
    vae.save_pretrained(place)
    return request.param, vae, af.DiffusersVAE(str(place), device="cpu")


def test_every_kind_encodes_and_decodes(loaded: tuple[str, Any, af.DiffusersVAE]) -> None:
    """Moments are the posterior's mean and deviation; decode undoes the normalisation; against diffusers itself."""
    name, vae, ours = loaded
    _, video, posterior = KINDS[name]
    assert (ours.video, ours.posterior) == (video, posterior)
    frames = 9 if name != "mochi" else 7
    shape = (2, 3, frames, 32, 32) if video else (2, 3, 32, 32)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    encoded = ours.encode(pixels)
    with torch.no_grad():
        out = vae.encode(pixels)
    if posterior:
        expected = torch.cat([out.latent_dist.mean, out.latent_dist.std], dim=1)
    else:
        expected = {"tiny": "latents", "dc": "latent", "cosmos": "latent_dist"}[name]
        expected = getattr(out, expected)
        expected = expected.mode() if hasattr(expected, "mode") and not isinstance(expected, torch.Tensor) else expected
    assert torch.allclose(encoded, expected, atol=1e-5)
    channels = encoded.shape[1] // (2 if posterior else 1)
    assert ours.latent_shape(32, frames if video else None) == (channels, *encoded.shape[2:])
    latents = encoded[:, :channels]
    normal = ours.normalisation.forward(latents)
    with torch.no_grad():
        expected = vae.decode(latents).sample.clamp(-1, 1)
    assert torch.allclose(ours.decode(normal), expected, atol=1e-4)
    assert ours.decode(normal).shape == expected.shape


def test_normalisation_is_the_configs(loaded: tuple[str, Any, af.DiffusersVAE]) -> None:
    name, _, ours = loaded
    found = ours.normalisation
    expected = {
        "kl": ((0.25,) * 4, (0.5,) * 4),
        "tiny": ((0.0,) * 4, (1.0,) * 4),
        "dc": ((0.0,) * 8, (0.4,) * 8),
        "cogvideox": ((0.0,) * 4, (1.15,) * 4),
        "wan": ((0.1, 0.2, 0.3, 0.4), (0.5, 1.0, 2.0, 0.25)),
        "ltx": ((0.0,) * 8, (1.0,) * 8),
        "mochi": ((0.1, 0.2, 0.3, 0.4), (1.0, 0.5, 2.0, 0.25)),
        "cosmos": ((0.1,) * 4, (2.0,) * 4),
    }[name]
    assert np.allclose(found.shift, expected[0])
    assert np.allclose(found.scale, expected[1])


@pytest.fixture
def image_vae(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    kl().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_videos_go_through_an_image_autoencoder_frame_by_frame(image_vae: Path) -> None:
    ours = af.DiffusersVAE(str(image_vae), device="cpu")
    clip = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    encoded = ours.encode(clip)
    for frame in range(4):
        assert torch.allclose(encoded[:, :, frame], ours.encode(clip[:, :, frame]), atol=1e-5)
    decoded = ours.decode(encoded[:, :4])
    for frame in range(4):
        assert torch.allclose(decoded[:, :, frame], ours.decode(encoded[:, :4, frame]), atol=1e-5)
    assert ours.latent_shape(16, 4) == (4, 4, 8, 8)


def test_options_and_descriptions(image_vae: Path) -> None:
    ours = af.DiffusersVAE(str(image_vae), scale=(1.0, 2.0, 3.0, 4.0), shift=0.5, device="cpu")
    assert ours.normalisation == Normalisation((0.5,) * 4, (1.0, 2.0, 3.0, 4.0))
    assert rebuild(describe(ours), AUTOENCODERS) == ours
    wrapped = af.Normalised(af.Pixels(), (0.1,) * 3, (2.0,) * 3)
    assert rebuild(describe(wrapped), AUTOENCODERS) == wrapped
    latents = torch.rand(2, 3, 4, 4) - 0.5
    assert torch.allclose(wrapped.decode(wrapped.normalisation.forward(latents)), latents, atol=1e-6)
    tiled = af.DiffusersVAE(str(image_vae), tiling=True, device="cpu")
    assert tiled.vae.use_tiling


def test_subfolders_and_what_is_not_there(image_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert af.DiffusersVAE(str(image_vae.parent), subfolder="vae", device="cpu").channels == 4
    with pytest.raises(af.UserError, match="can't load the autoencoder"):
        _ = af.DiffusersVAE(str(tmp_path / "none")).vae
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(af.UserError, match="holds a UNet2DModel, which is not an autoencoder"):
        _ = af.DiffusersVAE(str(tmp_path / "other")).vae
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(af.UserError, match=r"pip install 'alphaflow\[diffusers\]'"):
        _ = af.DiffusersVAE(str(image_vae)).vae


def test_long_clips_have_no_seams(loaded: tuple[str, Any, af.DiffusersVAE]) -> None:
    """Decoded in parts, 70 latent frames are those decoded at once: exactly where the autoencoder streams by itself or
    takes frame by frame, else nearly; from frame to frame nothing jumps more than it does at once."""
    name, vae, ours = loaded
    video = KINDS[name][1]
    latents = torch.randn(1, ours.channels, 70, 2, 2, generator=torch.Generator().manual_seed(0))
    found = ours.decode(latents)
    plain = ours.normalisation.inverse(latents)
    with torch.no_grad():
        if video:
            whole = vae.decode(plain).sample.clamp(-1, 1)
        else:
            whole = torch.stack([vae.decode(plain[:, :, k]).sample.clamp(-1, 1) for k in range(70)], dim=2)
    assert found.shape == whole.shape
    if name in ("cogvideox", "wan"):
        assert torch.equal(found, whole)
    elif not video:
        assert torch.allclose(found, whole, atol=1e-5)
    else:
        assert float((found - whole).abs().mean()) < 0.02 * float(whole.std())
        jumps, usual = (clip.diff(dim=2).abs().mean(dim=(0, 1, 3, 4)) for clip in (found, whole))
        assert float(jumps.max()) < 1.1 * float(usual.max())


class Noise(IndexedDataset):
    """Latents of a shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(2, 0)
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def class_names(self) -> list[str]:
        return []

    def __len__(self) -> int:
        return 4

    def fetch(self, indices: Indices, generator: np.random.Generator | None = None) -> af.Batch:
        return af.Batch(torch.randn(len(indices), *self._shape), af.Cond())


def run_of(make: Callable[[], Any], shape: tuple[int, ...], place: Path) -> af.Run:
    """A run of one step over an autoencoder's latents."""
    make().save_pretrained(place / "vae")
    data = Noise(shape)
    model = af.DiT(shape, patch=2, depth=1, width=16, heads=2)
    recipe = af.Recipe(
        model=model, objective=af.MeanFlow(), dataset=data, samplers=(af.ODE(1),), steps=1,
        autoencoder=af.DiffusersVAE(str(place / "vae"), device="cpu"),
    )  # fmt: skip
    af.Trainer(recipe, out=place / "run", device="cpu").fit()
    return af.Run(place / "run", device="cpu")


def test_other_sizes_and_lengths_are_what_was_asked_for(tmp_path: Path) -> None:
    """Where the autoencoder would round them it is said, and the run stays as it was."""
    run = run_of(kl, (4, 8, 8), tmp_path / "images")
    with pytest.raises(af.UserError, match=r"can't make exactly this size; its autoencoder would give `size=24`$"):
        run.resize(size=25)
    with pytest.raises(af.UserError, match="can't make this size: "):
        run.resize(size=1)
    assert run.sample(1).shape == (1, 3, 16, 16)
    run.resize(size=24)
    assert run.sample(1).shape == (1, 3, 24, 24)
    run = run_of(cogvideox, (4, 3, 8, 8), tmp_path / "clips")
    assert run.pixel_shape == (3, 5, 16, 16)
    with pytest.raises(af.UserError, match="its autoencoder would give `frames=5` `size=16`"):
        run.resize(frames=6)
    assert (run.pixel_shape, run.shape) == ((3, 5, 16, 16), (4, 3, 8, 8))
    run.resize(frames=9)
    assert run.sample(1).shape == (1, 3, 9, 16, 16)
