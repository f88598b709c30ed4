"""The guided velocity ṽ that a draw is trained towards, with no evaluation more than it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow import expand_like
from ..guidance import TrainedGuidance
from ..parallel.shared import may_be_split
from ..types import Cond, Model, PerSample, Sample, Time


@dataclass(frozen=True)
class GuidedVelocity:
    """A batch's guided velocity, as far as it is known before the network's prediction.

    Attributes:
        v: ṽ (b, …) without ``rest``, a constant to the optimiser.
        rest: what is still to be added, rest·u⁻(z_t, t, t, y), (b,); None if nothing is.
        own: u⁻(z_t, t, t, y) (b, …) where it was evaluated, 0 elsewhere; None if it was nowhere.
    """

    v: Sample
    rest: PerSample | None = None
    own: Sample | None = None


@torch.no_grad()
def guided_velocity(
    guidance: TrainedGuidance | None,
    model: Model,
    z: Sample,
    t: Time,
    cond: Cond,
    v: Sample,
    dropped: Tensor,
    *,
    few: int = 0,
    predicted: bool = False,
    wanted: bool = False,
) -> GuidedVelocity:
    """ṽ in place of v. The network runs only where its output counts, in one batch.

    Args:
        guidance: how it is mixed; None for ṽ = v.
        model: u⁻(z, r, t, cond).
        z: (b, …) at time t.
        t: (b,).
        cond: the condition after `TrainedGuidance.drop`.
        v: the conditional velocity ε − x (b, …).
        dropped: the mask (b,) that ``drop`` gave.
        few: how many samples, the first ones, are few-step; the others have r = t.
        predicted: the prediction will give u⁻(z_t, t, t, y) of those with r = t: it is left for ``rest``.
        wanted: that of the few-step ones is wanted in any case, as ``own``.
    """
    mix = None if guidance is None else guidance.mix(cond, t, dropped)
    if mix is None and not wanted:
        return GuidedVelocity(v)
    first = torch.arange(len(t), device=t.device) < few
    counts = torch.zeros_like(first) if mix is None else mix.own != 0
    later = counts & ~first & predicted
    own_for = (counts & ~later) | (first & wanted)
    asked = [(own_for, cond if guidance is None else guidance.instant(cond, t))]
    if guidance is not None and mix is not None:
        asked.append((mix.free != 0, guidance.unconditional(cond)))
    own, *free = _instantaneous(model, z, t, asked)
    if mix is None:
        return GuidedVelocity(v, None, own)
    now = expand_like(torch.where(later, 0, mix.own), v)
    mixed = expand_like(mix.data, v) * v + now * own + expand_like(mix.free, v) * free[0]
    rest = torch.where(later, mix.own, 0) if predicted else None
    return GuidedVelocity(mixed, rest, own)


def _instantaneous(model: Model, z: Sample, t: Time, asked: list[tuple[Tensor, Cond]]) -> list[Sample]:
    """u(z, t, t) of the samples that each mask (b,) picks, under its condition, as one batch; 0 for others."""
    picked = [mask.nonzero().squeeze(1) for mask, _ in asked]
    found = [torch.zeros_like(z) for _ in asked]
    if may_be_split() and not any(len(index) for index in picked):
        picked[0] = torch.zeros(1, dtype=torch.long, device=z.device)
    rows = torch.cat(picked)
    if len(rows):
        conds = Cond.cat([cond[index] for index, (_, cond) in zip(picked, asked, strict=True)])
        u = model(z[rows], t[rows], t[rows], conds)
        for whole, index, part in zip(found, picked, torch.split(u, [len(index) for index in picked]), strict=True):
            whole[index] = part.to(z.dtype)
    return found
