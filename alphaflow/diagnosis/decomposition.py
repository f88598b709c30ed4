"""MeanFlow's loss in its parts, and the loss by time (r, t)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..derivatives import with_derivative
from ..errors import UserError
from ..flow import expand_like, mean_square
from ..network import Upcast
from ..objectives.objective import Objective
from ..types import Batch, Model, PerSample, Time


@dataclass(frozen=True)
class LossTerms:
    """MeanFlow's loss on one batch, each part (b,), with gradient.

    ‖u − (ṽ − (t − r)·du⁻/dt)‖² has the gradient of ``tfm`` + ``tc`` (α-Flow, arXiv 2510.20771):

    Attributes:
        tfm: trajectory flow matching, ‖u(z_t, r, t) − ṽ‖².
        tc: trajectory consistency, 2(t − r)·uᵀ·du⁻/dt.
        fm: flow matching at r = t (FM′), ‖u(z_t, t, t) − ṽ‖², on a draw of its own, as training has it.
        meanflow: ‖u − target‖² itself, detached.
        r, t: the times of ``tfm``, ``tc`` and ``meanflow``.
    """

    tfm: PerSample
    tc: PerSample
    fm: PerSample
    meanflow: PerSample
    r: Time
    t: Time


def decompose(
    model: Model, objective: Objective, batch: Batch, step: int = 0, generator: torch.Generator | None = None
) -> LossTerms:
    """MeanFlow's loss in its parts, with the objective's own times, guidance and teacher.

    Every norm is a mean over elements, and nothing is weighted. u⁻ is the network itself, with ``ema_target`` too. Any
    network can be measured so, whatever it was trained for, with du/dt taken as the objective says.

    Args:
        model: u(z, r, t, cond).
        objective: what it is trained for.
        batch: samples, on the model's device.
        step: the training step, for schedules.
        generator: generator for times, noise, and dropped labels.

    Raises:
        UserError: the objective is no `Objective`.
    """
    if not isinstance(objective, Objective):
        raise UserError(f"only an af.Objective can be taken apart, not {type(objective).__name__}")
    b, model = len(batch.x), Upcast(model)
    few = objective.draw(model, batch.x, batch.cond, step, generator, few=b)
    u, dudt = with_derivative(model, few.z, few.r, few.t, few.cond, few.v, derivative=objective.derivative)
    change = expand_like(few.t - few.r, u) * dudt
    flow = objective.draw(model, batch.x, batch.cond, step, generator, few=0)
    return LossTerms(
        tfm=mean_square(u - few.v),
        tc=2 * (u * change).flatten(1).mean(1),
        fm=mean_square(model(flow.z, flow.t, flow.t, flow.cond) - flow.v),
        meanflow=mean_square(u.detach() - (few.v - change)),
        r=few.r,
        t=few.t,
    )


class TimeBins:
    """Means of per-sample values over an even grid of (r, t) bins.

    Args:
        count: bins along each axis.
    """

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.samples = torch.zeros(count, count, dtype=torch.float64)
        self._sums: dict[str, Tensor] = {}

    def add(self, r: Time, t: Time, **values: PerSample) -> None:
        """Takes in samples: times (b,) and values (b,)."""
        rows, columns = ((time.detach().cpu().double() * self.count).long().clamp(0, self.count - 1) for time in (r, t))
        index = rows * self.count + columns

        def binned(weights: Tensor | None = None) -> Tensor:
            return torch.bincount(index, weights, self.count**2).double().view(self.count, self.count)

        self.samples += binned()
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(self.samples)) + binned(
                value.detach().cpu().double()
            )

    def means(self) -> dict[str, list[list[float | None]]]:
        """Each value's mean by bin, row = r and column = t; None where there was no sample."""

        def rows(sums: Tensor) -> list[list[float | None]]:
            mean = sums / self.samples.clamp(min=1)
            pairs = zip(mean.tolist(), self.samples.tolist(), strict=True)
            return [[m if n else None for m, n in zip(*row, strict=True)] for row in pairs]

        return {name: rows(sums) for name, sums in self._sums.items()}
