"""The straight path between data and noise, in one orientation: t = 0 is data, t = 1 is noise."""

from __future__ import annotations

from torch import Tensor

from .types import PerSample, Sample, Time


def expand_like(t: PerSample, like: Tensor) -> Tensor:
    """Views (b,) as (b, 1, …, 1), so that it broadcasts over ``like`` (b, …)."""
    return t.view(-1, *(1,) * (like.ndim - 1))


def interpolate(x: Sample, noise: Sample, t: Time) -> Sample:
    """z_t = (1 − t)·x + t·ε."""
    t = expand_like(t, x)
    return (1 - t) * x + t * noise


def velocity(x: Sample, noise: Sample) -> Sample:
    """The conditional velocity v = dz_t/dt = ε − x."""
    return noise - x


def jump(z: Sample, u: Sample, t: Time, r: Time) -> Sample:
    """z_r = z_t − (t − r)·u: moves z from time t to time r along the mean velocity u."""
    return z - expand_like(t - r, z) * u


def mean_square(a: Sample) -> PerSample:
    """The mean over a sample's elements of a²: (b, …) → (b,)."""
    return a.square().flatten(1).mean(1)
