"""Metrics against scipy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

import alphaflow as af
from alphaflow.metrics.pixels import ImageSet, measure


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
    found = af.frechet_distance(af.Moments.of(a), af.Moments.of(b))
    assert found == pytest.approx(expected, rel=1e-9)
    assert af.frechet_distance(af.Moments.of(b), af.Moments.of(a)) == pytest.approx(found, rel=1e-9)


def test_frechet_distance_of_singular_covariances() -> None:
    """Commuting covariances have the closed form Σ(√λ_a − √λ_b)²; half of these eigenvalues are zero."""
    basis = torch.linalg.qr(features(8, 8, 3)).Q
    a = torch.tensor([1.0, 4.0, 9.0, 0.5, 0, 0, 0, 0], dtype=torch.float64)
    b = torch.tensor([4.0, 0.0, 1.0, 0.5, 2.0, 0, 0, 0], dtype=torch.float64)
    mean = torch.zeros(8, dtype=torch.float64)
    moments = [af.Moments(mean, basis @ torch.diag(values) @ basis.T) for values in (a, b)]
    assert af.frechet_distance(*moments) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-6)
    assert af.frechet_distance(moments[0], moments[0]) == pytest.approx(0, abs=1e-6)


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

    found = af.precision_recall(real, fake, k=3)
    assert found.precision == manifold(fake.numpy(), real.numpy(), 3)
    assert found.recall == manifold(real.numpy(), fake.numpy(), 3)
    assert 0 < found.recall < found.precision < 1


def test_precision_and_recall_see_collapse_and_garbage() -> None:
    real = features(300, 6, 1)
    collapsed = real[:1] + 1e-3 * features(300, 6, 2)
    found = af.precision_recall(real, collapsed)
    assert found.precision > 0.9
    assert found.recall < 0.05
    assert af.precision_recall(real, real + 1000).precision == 0
    with pytest.raises(ValueError, match="more than k = 3 generated"):
        af.precision_recall(real, real[:3])


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
    assert af.label_agreement(*tensors) == agreeing / 90


def test_real_digits_agree_with_their_labels() -> None:
    batch = af.Digits().all()
    assert batch.cond.labels is not None
    halves = ImageSet(((batch.x + 1) * 127.5).round().to(torch.uint8), batch.cond.labels).halves()
    values = measure(halves[1], halves[0], ["pixel-fd", "pr", "agreement"])
    assert values["agreement"] > 0.97
    assert 0.2 < values["pixel-fd"] < 0.4
    assert values["precision"] > 0.85
    wrong = ImageSet(halves[0].pixels, (halves[0].labels + 1) % 10)  # type: ignore[operator]
    assert measure(halves[1], wrong, ["agreement"])["agreement"] < 0.02


def test_wrong_sets() -> None:
    images = ImageSet(torch.zeros(20, 1, 4, 4, dtype=torch.uint8))
    other = ImageSet(torch.zeros(20, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(af.UserError, match="8×8 with 3 channels, but the reference is 4×4 with 1 channel"):
        measure(images, other, ["pixel-fd"])
    with pytest.raises(af.UserError, match="no metric 'fid'; choose from pixel-fd"):
        measure(images, images, ["fid"])
    with pytest.raises(af.UserError, match="agreement needs labels"):
        measure(images, images, ["agreement"])
    with pytest.raises(af.UserError, match="at least 10 sample images, got 3"):
        measure(images, ImageSet(images.pixels[:3]), ["pixel-fd"])


def test_pixel_fd_is_for_small_images() -> None:
    large = af.ImageSet(torch.zeros(20, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(af.UserError, match=r"small images.*--metrics pr,agreement"):
        af.measure(large, large, ["pixel-fd"])
    assert set(af.measure(large, large, ["pr"])) == {"precision", "recall"}
