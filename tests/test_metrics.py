"""Metrics against scipy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

import alphaflow as af
from alphaflow.evaluation.catalogue import METRICS, default_metrics
from alphaflow.evaluation.compare import compare
from alphaflow.evaluation.statistics import Space, Statistics
from alphaflow.features.builtin import UNPUBLISHED
from alphaflow.features.motion import centroid_speed, frame_difference_energy
from alphaflow.metrics.wasserstein import wasserstein


def features(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    return torch.from_numpy(rng.normal(size=(n, d)) @ mixing + shift)


@pytest.mark.parametrize(("n", "d"), [(500, 5), (400, 30), (2000, 64)])
def test_frechet_distance_equals_scipys(n: int, d: int) -> None:
    a, b = features(n, d, 1), features(n, d, 2, shift=0.3)
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    gap = a.numpy().mean(0) - b.numpy().mean(0)
    expected = gap @ gap + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    found = af.metrics.frechet_distance(af.metrics.Moments.of(a), af.metrics.Moments.of(b))
    assert found == pytest.approx(expected, rel=1e-9)
    assert af.metrics.frechet_distance(af.metrics.Moments.of(b), af.metrics.Moments.of(a)) == pytest.approx(
        found, rel=1e-9
    )


def test_frechet_distance_of_singular_covariances() -> None:
    """Commuting covariances have the closed form Σ(√λ_a − √λ_b)²; half of these eigenvalues are zero."""
    basis = torch.linalg.qr(features(8, 8, 3)).Q
    a = torch.tensor([1.0, 4.0, 9.0, 0.5, 0, 0, 0, 0], dtype=torch.float64)
    b = torch.tensor([4.0, 0.0, 1.0, 0.5, 2.0, 0, 0, 0], dtype=torch.float64)
    mean = torch.zeros(8, dtype=torch.float64)
    moments = [af.metrics.Moments(mean, basis @ torch.diag(values) @ basis.T) for values in (a, b)]
    assert af.metrics.frechet_distance(*moments) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-6)
    assert af.metrics.frechet_distance(moments[0], moments[0]) == pytest.approx(0, abs=1e-6)


def test_precision_and_recall_equal_brute_force() -> None:
    real, fake = features(150, 4, 1).float(), (features(120, 4, 1) * 0.7 + 0.5).float()

    def manifold(points: np.ndarray, centres: np.ndarray, k: int) -> float:
        inside = 0
        for point in points:
            for i, centre in enumerate(centres):
                radius = sorted(np.linalg.norm(np.delete(centres, i, 0) - centre, axis=1))[k - 1]
                if np.linalg.norm(point - centre) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    found = af.metrics.precision_recall(real, fake, k=3)
    assert found.precision == manifold(fake.numpy(), real.numpy(), 3)
    assert found.recall == manifold(real.numpy(), fake.numpy(), 3)
    assert 0 < found.recall < found.precision < 1


def test_precision_and_recall_see_collapse_and_garbage() -> None:
    real = features(300, 6, 1)
    collapsed = real[:1] + 1e-3 * features(300, 6, 2)
    found = af.metrics.precision_recall(real, collapsed)
    assert found.precision > 0.9
    assert found.recall < 0.05
    assert af.metrics.precision_recall(real, real + 1000).precision == 0
    with pytest.raises(ValueError, match="more than k = 3 generated"):
        af.metrics.precision_recall(real, real[:3])


def test_label_agreement_equals_brute_force() -> None:
    rng = np.random.default_rng(1)
    real, labels = rng.normal(size=(200, 3)), rng.integers(0, 4, 200)
    fake, asked = rng.normal(size=(90, 3)), rng.integers(0, 4, 90)
    agreeing = 0
    for point, label in zip(fake, asked, strict=True):
        near = labels[np.argsort(np.linalg.norm(real - point, axis=1))[:5]].tolist()
        most = max(near.count(vote) for vote in near)
        agreeing += next(vote for vote in near if near.count(vote) == most) == label
    tensors = [torch.from_numpy(array) for array in (real, labels, fake, asked)]
    assert af.metrics.label_agreement(*tensors) == agreeing / 90


def test_real_digits_agree_with_their_labels() -> None:
    batch = af.Digits().all()
    assert batch.cond.labels is not None
    pixels = ((batch.x + 1) * 127.5).round().to(torch.uint8)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    half, other = order[:898], order[898:]
    real = af.InMemorySamples(pixels[other], batch.cond.labels[other])
    values = measured(
        af.InMemorySamples(pixels[half], batch.cond.labels[half]), real, "pixel-fd", "pixel-pr", "agreement"
    )
    assert values["agreement"] > 0.97
    assert 0.2 < values["pixel-fd"] < 0.4
    assert values["pixel-precision"] > 0.85
    wrong = af.InMemorySamples(pixels[half], (batch.cond.labels[half] + 1) % 10)
    assert measured(wrong, real, "agreement")["agreement"] < 0.02


def measured(target: af.InMemorySamples, reference: af.InMemorySamples, *metrics: str) -> dict[str, float]:
    result = af.evaluate(target, reference, metrics=metrics, device="cpu")
    return result.rows[0].values


def test_wrong_sets() -> None:
    images = af.InMemorySamples(torch.zeros(20, 1, 4, 4, dtype=torch.uint8))
    other = af.InMemorySamples(torch.zeros(20, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(af.UserError, match="4×4 with 1 channel, but the reference is 8×8 with 3 channels"):
        measured(images, other, "pixel-fd")
    with pytest.raises(af.UserError, match="no metric 'fif'; did you mean fid"):
        measured(images, images, "fif")
    with pytest.raises(af.UserError, match="agreement needs labels"):
        measured(images, images, "agreement")
    with pytest.raises(af.UserError, match="at least 10 sample images, got 3"):
        measured(af.InMemorySamples(images.pixels[:3]), images, "pixel-fd")
    with pytest.raises(ValueError, match="8-bit"):
        af.InMemorySamples(torch.zeros(20, 1, 4, 4, dtype=torch.int32))


def test_pixel_fd_is_for_small_images() -> None:
    large = af.InMemorySamples(torch.zeros(20, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(af.UserError, match=r"at most 4096 values.*take random-fd"):
        measured(large, large, "pixel-fd")
    assert set(measured(large, large, "pixel-pr")) == {"pixel-precision", "pixel-recall"}


@pytest.mark.parametrize("parts", [[1000], [1, 999], [300, 0, 500, 200]])
def test_moments_of_parts_are_those_of_the_whole(parts: list[int]) -> None:
    """Far from zero too, where sums of squares would lose all digits."""
    x = features(1000, 12, 4, shift=1e6)
    running = af.metrics.RunningMoments()
    for part in x.split(parts):
        running.add(part)
    found, expected = running.moments(), np.cov(x.numpy().T)
    assert np.linalg.norm(found.covariance.numpy() - expected) < 1e-9 * np.linalg.norm(expected)
    assert np.allclose(found.mean.numpy(), x.numpy().mean(0), rtol=1e-14)
    halves = [af.metrics.RunningMoments(), af.metrics.RunningMoments()]
    halves[0].add(x[:400])
    halves[1].add(x[400:])
    halves[0].merge(*halves[1].parts())
    assert torch.allclose(halves[0].moments().covariance, found.covariance, rtol=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        af.metrics.RunningMoments().moments()


def test_frechet_distance_of_few_samples_is_exact() -> None:
    """40 samples in 300 dimensions: the exact cross term is the nuclear norm of a small product of the samples."""
    a, b = features(40, 300, 5), features(40, 300, 6)
    centred = [(x - x.mean(0)) / 39**0.5 for x in (a, b)]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    expected = float(gap + centred[0].square().sum() + centred[1].square().sum() - 2 * cross)
    assert af.metrics.frechet_distance(af.metrics.Moments.of(a), af.metrics.Moments.of(b)) == pytest.approx(
        expected, rel=1e-12
    )
    with pytest.raises(ValueError, match="300 and of 12"):
        af.metrics.frechet_distance(af.metrics.Moments.of(a), af.metrics.Moments.of(features(40, 12, 1)))


def test_scores_and_kernel_distances_equal_torch_fidelitys() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    logits = features(137, 20, 7).float()
    score = af.metrics.InceptionScore(137)
    for start in (100, 0, 50):  # in any order
        score.add(logits[start : start + (50 if start < 100 else 37)], start)
    expected = isc_features_to_metric(logits)
    found = score.score()
    assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert found.std == pytest.approx(expected["inception_score_std"], rel=1e-9)

    real, fake = features(400, 16, 8).float() / 4, features(300, 16, 9, shift=1.0).float() / 4
    for size, subsets in ((100, 20), (250, 2)):  # by the whole kernel, and subset by subset
        given = {"kid_subsets": subsets, "kid_subset_size": size, "verbose": False}
        theirs = kid_features_to_metric(fake, real, **given)
        ours = af.metrics.kernel_distance(real, fake, subsets, size)
        assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
        assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)
    with pytest.raises(ValueError, match="subsets of 301"):
        af.metrics.kernel_distance(real, fake, 2, 301)


def moving_square(speed: int, frames: int = 6, size: int = 24, background: int = 30) -> torch.Tensor:
    """A white square of 4 × 4 that moves right: (1, 1, f, h, w), 8-bit."""
    clip = torch.full((1, 1, frames, size, size), background, dtype=torch.uint8)
    for k in range(frames):
        clip[..., k, 8:12, 2 + speed * k : 6 + speed * k] = 255
    return clip


@pytest.mark.parametrize("speed", [0, 1, 3])
def test_motion_of_a_square(speed: int) -> None:
    """Its centroid moves at its speed; the energy counts the pixels that change, in closed form."""
    clip = moving_square(speed)
    assert float(centroid_speed(clip)) == pytest.approx(speed, abs=1e-5)
    changed = 2 * 4 * min(speed, 4)
    expected = changed * ((255 - 30) / 127.5) ** 2 / 24**2
    assert float(frame_difference_energy(clip)) == pytest.approx(expected, rel=1e-5)
    both = torch.cat([clip, clip.transpose(3, 4)]).expand(-1, 3, -1, -1, -1)
    assert torch.allclose(centroid_speed(both), torch.full((2,), float(speed)), atol=1e-5)


def test_motion_of_dark_frames() -> None:
    """A frame without light keeps its place: no NaN."""
    clip = moving_square(2, background=0)
    clip[:, :, 2] = 0
    assert float(centroid_speed(clip)) == pytest.approx((2 + 0 + 4 + 2 + 2) / 5, abs=1e-5)
    assert float(centroid_speed(torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8))) == 0


def test_motion_needs_motion() -> None:
    """Clips of one frame have none by default; asked for, and where real clips stand still, it is refused in a line."""
    assert "motion" in default_metrics((1, 2, 8, 8))
    assert "motion" not in default_metrics((1, 1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    moving = af.InMemorySamples(torch.randint(256, (16, 1, 3, 8, 8), generator=generator).byte())
    still = af.InMemorySamples(moving.pixels[:, :, :1].expand(-1, -1, 3, -1, -1))
    one = af.InMemorySamples(moving.pixels[:, :, :1])
    with pytest.raises(af.UserError, match="at least two frames"):
        af.evaluate(one, one, metrics=("motion",))
    with pytest.raises(af.UserError, match="which stand still"):
        af.evaluate(moving, still, metrics=("motion",))
    found = af.evaluate(still, moving, metrics=("motion",))
    assert found.rows[0].values["motion-energy"] == pytest.approx(1)  # all of it is missing


def test_wasserstein_is_scipys() -> None:
    from scipy.stats import wasserstein_distance

    generator = torch.Generator().manual_seed(0)
    for n, m in ((1, 1), (5, 7), (100, 33), (2, 1000)):
        a, b = torch.randn(n, generator=generator), 1 + 2 * torch.randn(m, generator=generator)
        expected = wasserstein_distance(a.double().numpy(), b.double().numpy())
        assert wasserstein(a, b) == pytest.approx(expected, rel=1e-6)


def by_hand(pixels: torch.Tensor, strides: tuple[int | tuple[int, ...], ...]) -> torch.Tensor:
    """Random features by functions alone: He-normal weights from seed 0, leaky ReLUs, means and deviations."""
    generator, x = torch.Generator().manual_seed(0), pixels.float() / 127.5 - 1
    if x.ndim == 5:  # frames of 32 × 32
        x = torch.nn.functional.adaptive_avg_pool3d(x, (x.shape[2], 32, 32))
    convolve = torch.nn.functional.conv3d if x.ndim == 5 else torch.nn.functional.conv2d
    for stride, width in zip(strides, (32, 64, 128, 128), strict=True):
        fan = x.shape[1] * 3 ** (x.ndim - 2)
        weight = torch.randn(width, x.shape[1], *[3] * (x.ndim - 2), generator=generator) * (2 / fan) ** 0.5
        x = torch.nn.functional.leaky_relu(convolve(x, weight, stride=stride, padding=1), 0.2)
    return torch.cat([x.flatten(2).mean(2), x.flatten(2).std(2, correction=0)], dim=1)


@pytest.mark.parametrize("side", [8, 64, 96])
def test_random_features_of_pictures(side: int) -> None:
    """Of any size, grey as three equal channels; their distance grows with noise, and is 0 of a set to itself."""
    generator = torch.Generator().manual_seed(1)
    grey = torch.randint(0, 256, (600, 1, side, side), dtype=torch.uint8, generator=generator)
    random = UNPUBLISHED["random"](torch.device("cpu"))
    assert torch.allclose(
        random(grey[:5])["features"], by_hand(grey[:5].expand(-1, 3, -1, -1), (2, 2, 2, 2)), atol=1e-4
    )
    smooth = (grey // 2 + 64).float().cumsum(-1).remainder(200)
    noise = torch.randn(smooth.shape, generator=generator)
    real, *noisy = [
        af.InMemorySamples((smooth + level * noise).clamp(0, 255).to(torch.uint8), name=str(level))
        for level in (0, 5, 20, 60)
    ]
    found = [measured(real, real, "random-fd"), *(measured(fake, real, "random-fd") for fake in noisy)]
    values = [one["random-fd"] for one in found]
    assert values == sorted(values)
    assert abs(values[0]) < 1e-6 < values[1]


def test_kids_subsets_can_be_smaller() -> None:
    """Any size estimates the same without bias; too few samples are said before anything is looked at."""
    spaces = []
    for seed, shift in ((1, 0.0), (2, 0.4)):
        x = features(400, 8, seed, shift=shift).float()
        spaces.append(Statistics(400, (3, 8, 8), {"inception": Space(400, features=x)}))
    small, large = (compare(*spaces, ["kid"], size) for size in (50, 300))
    assert small["kid_std"] > large["kid_std"]
    assert small["kid"] == pytest.approx(large["kid"], abs=3 * small["kid_std"] / 10)
    assert small["kid"] == af.metrics.kernel_distance(*(s.spaces["inception"].features for s in spaces), size=50).mean
    with pytest.raises(af.UserError, match=r"kid draws subsets of 1,000, but there are 400.*`kid_subset_size=`"):
        compare(*spaces, ["kid"])
    with pytest.raises(af.UserError, match="at least 2"):
        compare(*spaces, ["kid"], 1)


def test_features_of_clips_without_a_file() -> None:
    """The same on every call; shrunk ones are means over areas; random ones see motion, not only frames."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (3, 3, 15, 32, 40), dtype=torch.uint8, generator=generator)
    shrunk = UNPUBLISHED["shrunk"](torch.device("cpu"))(clips)["features"]
    assert shrunk.shape == (3, 512)
    frame = clips[0, :, 14].float().mean(0)[28:, 35:].mean() / 127.5 - 1
    assert float(shrunk[0].view(8, 8, 8)[7, 7, 7]) == pytest.approx(float(frame), abs=1e-5)
    random = UNPUBLISHED["random"](torch.device("cpu"))
    features = random(clips)["features"]
    assert features.shape == (3, 256)
    assert torch.equal(features, UNPUBLISHED["random"](torch.device("cpu"))(clips)["features"])
    shuffled = random(clips[:, :, torch.randperm(15, generator=generator)])["features"]
    assert float((shuffled - features).norm() / features.norm()) > 1e-3
    assert torch.allclose(features, by_hand(clips, ((1, 2, 2), (2, 2, 2), (1, 2, 2), (2, 1, 1))), atol=1e-5)
    for name in ("random-fd", "shrunk-fd"):
        assert "not FVD" in METRICS[name].about
        assert "not FVD" in METRICS[name].values[0].title


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 27)])
def test_sliced_wasserstein_is_scipys_on_each_direction(n: int, m: int) -> None:
    """Equally many or not; a sample of any shape is flattened."""
    from scipy.stats import wasserstein_distance

    a, b = features(n, 6, 1).view(n, 2, 3), features(m, 6, 2, shift=0.5).view(m, 2, 3)
    drawn = torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).numpy()
    drawn = drawn / np.linalg.norm(drawn, axis=0)
    lines = [(x.flatten(1).numpy() @ drawn).T for x in (a, b)]
    expected = np.mean([wasserstein_distance(u, v) for u, v in zip(*lines, strict=True)])
    assert af.metrics.sliced_wasserstein(a, b, projections=30, seed=4) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_by_its_formula() -> None:
    """Of pairs of different points, in blocks as at once; scipy's in one dimension, but for those pairs."""
    from scipy.spatial.distance import cdist, pdist
    from scipy.stats import energy_distance

    a, b = features(2100, 3, 1), features(70, 3, 2, shift=0.2)
    expected = 2 * cdist(a, b).mean() - pdist(a).mean() - pdist(b).mean()
    assert af.metrics.energy_distance(a, b) == pytest.approx(expected, rel=1e-10)
    a, b = a[:50, :1], b[:, :1]
    biased = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
    assert biased == pytest.approx(energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2, rel=1e-9)
    gap = pdist(a).mean() / 50 + pdist(b).mean() / 70
    assert af.metrics.energy_distance(a, b) == pytest.approx(biased - gap, rel=1e-9)
    halves = [af.metrics.energy_distance(x[:30], x[30:]) for x in (features(60, 2, seed) for seed in range(200))]
    assert abs(np.mean(halves)) < 3 * np.std(halves) / 200**0.5  # unbiased
    with pytest.raises(ValueError, match="of one shape"):
        af.metrics.energy_distance(a, features(9, 2, 1))


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 256, (2, 3, height, width))
    return first.astype(np.uint8), np.clip(first + rng.normal(0, 20, first.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(24, 17), (11, 11), (8, 20), (1, 4)])
def test_ssim_by_its_formula(size: tuple[int, int]) -> None:
    """Window by window with NumPy (Wang et al. 2004); of small images a smaller window."""
    a, b = images(*size)
    side = min(11, *size)
    side -= 1 - side % 2
    places = np.arange(side) - side // 2
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for x, y in zip(a.reshape(-1, *size).astype(float), b.reshape(-1, *size).astype(float), strict=True):
        found = []
        for i in range(size[0] - side + 1):
            for j in range(size[1] - side + 1):
                u, v = x[i : i + side, j : j + side], y[i : i + side, j : j + side]
                mu, nu = (window * u).sum(), (window * v).sum()
                su, sv, both = (
                    (window * p * q).sum() for p, q in ((u - mu, u - mu), (v - nu, v - nu), (u - mu, v - nu))
                )
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * mu * nu + c1) * (2 * both + c2) / ((mu**2 + nu**2 + c1) * (su + sv + c2)))
        expected.append(np.mean(found))
    ssim = af.metrics.ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert ssim.numpy() == pytest.approx(np.mean(np.reshape(expected, (2, 3)), axis=1), rel=1e-9)
    assert torch.allclose(af.metrics.ssim(torch.from_numpy(a), torch.from_numpy(a)), torch.ones(2, dtype=torch.float64))


def test_ssim_and_psnr_are_scikit_images() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    a, b = images(30, 26)
    same = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    maps = [skimage.structural_similarity(x, y, channel_axis=0, **same)[1] for x, y in zip(a, b, strict=True)]
    found = af.metrics.ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert found == pytest.approx([each[:, 5:-5, 5:-5].mean() for each in maps], rel=1e-6)
    expected = [skimage.peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)]
    assert af.metrics.psnr(torch.from_numpy(a), torch.from_numpy(b), peak=255.0).numpy() == pytest.approx(expected)


def test_psnr_in_either_range() -> None:
    """10·log10(255²/MSE) of bytes is 10·log10(2²/MSE) of the same in [-1, 1]; equal ones are infinitely near."""
    a, b = (torch.from_numpy(part) for part in images(9, 7))
    found = af.metrics.psnr(a, b, peak=255.0)
    expected = 10 * np.log10(255**2 / ((a.numpy() - b.numpy().astype(float)) ** 2).reshape(2, -1).mean(1))
    assert found.numpy() == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(af.metrics.psnr(a / 127.5 - 1, b / 127.5 - 1), found, atol=1e-4)
    assert torch.isinf(af.metrics.psnr(a, a)).all()
    with pytest.raises(ValueError, match="one shape"):
        af.metrics.mse(a, b[:1])
