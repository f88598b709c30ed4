"""Guidance as an input of the network, ``cond.guidance`` (b, 3): the one place that knows what stands where in it.

Each sample has a scale ω and an interval of times, t_min ≤ t ≤ t_max, both ends inside, that the scale is for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import UserError, is_number
from .types import Cond, PerSample, Time

Interval = tuple[float, float]
WHOLE: Interval = (0.0, 1.0)
"""The interval of all times."""


def check_interval(interval: Interval) -> None:
    """Raises UserError, a ValueError, unless 0 ≤ t_min < t_max ≤ 1."""
    low, high = interval
    if not (is_number(low) and is_number(high) and 0 <= low < high <= 1):
        raise UserError(f"a guidance interval needs 0 <= t_min < t_max <= 1, got {low},{high}")


def inside(t: Any, interval: tuple[Any, Any]) -> Any:
    """Where t lies in an interval, of numbers or tensors (b,): every interval in the library has both its ends."""
    low, high = interval
    return (low <= t) & (t <= high)


def packed(omega: Tensor, t_min: Tensor | float = 0.0, t_max: Tensor | float = 1.0) -> Tensor:
    """``cond.guidance`` (b, 3) of scales (b,) in their intervals, whose ends are numbers or (b,)."""
    ends = (end if isinstance(end, Tensor) else torch.full_like(omega, end) for end in (t_min, t_max))
    return torch.stack([omega, *ends], dim=1)


def guidance_setting(b: int, scale: float, interval: Interval = WHOLE) -> Tensor:
    """``cond.guidance`` (b, 3) to sample b samples with, for networks that were trained with `GuidanceInputs`."""
    check_interval(interval)
    return packed(torch.full((b,), scale, dtype=torch.float32), *interval)


def scale_at(cond: Cond, t: Time) -> PerSample:
    """The scale that counts at time t: ω inside its interval, in whose precision times are compared, else 1; (b,)."""
    omega, t_min, t_max = cond.guidance.unbind(1)
    return torch.where(inside(t.to(t_min.dtype), (t_min, t_max)), omega, 1)


def guidance_at(cond: Cond, r: Time, t: Time) -> tuple[PerSample, PerSample, PerSample]:
    """ω, t_min and t_max as a network takes them in, each (b,) in t's precision.

    Without ``cond.guidance`` ω = 1 in the interval [0, 1]. Where r = t only the scale at that instant counts, in the
    interval [0, 1], as networks are trained (`GuidanceInputs`).
    """
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if "guidance" not in cond.tensors:
        return one, zero, one
    omega, t_min, t_max = cond.guidance.to(t.dtype).unbind(1)
    instant = r == t
    omega = torch.where(instant, scale_at(cond, t).to(t.dtype), omega)
    return omega, torch.where(instant, zero, t_min), torch.where(instant, one, t_max)
