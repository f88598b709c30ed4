"""How far two velocities point apart."""

from __future__ import annotations

from ..types import PerSample, Sample

SHORT = 0.1
"""Shorter vectors count as this long in the cosine: it has no finite gradient at u = 0, where new networks begin."""


def dissimilarity(u: Sample, v: Sample) -> PerSample:
    """1 − cosine similarity over channels (dimension 1), the mean over places: (b,).

    Over a single channel it says no more than a sign.
    """
    lengths = u.norm(dim=1).clamp(min=SHORT) * v.norm(dim=1).clamp(min=SHORT)
    cosine = (u * v).sum(dim=1) / lengths
    similarity: PerSample = cosine.reshape(len(u), -1).mean(1)
    return 1 - similarity
