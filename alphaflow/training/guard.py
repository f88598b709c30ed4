"""Bad batches: finding them before they are learned from, and saying what was wrong."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from ..describe import Compact
from ..errors import UserError
from ..files import parsed
from ..objectives.objective import Objective
from ..parallel.pieces import finite
from .sanity import not_finite

if TYPE_CHECKING:
    from ..types import Batch, Loss
    from .engine import Engine


@dataclass(frozen=True, kw_only=True, repr=False)
class BatchGuard(Compact):
    """When a batch is skipped, when training goes back, and when it stops.

    A batch is bad if its loss or its gradient is not finite, or if its squared error is a spike: over ``factor`` times
    the median of the last good batches, and over ``spike`` by the robust z-score of its logarithm,
    0.6745·(log e − median) ÷ MAD. It is skipped, weights and averages stay, and it is written to incidents.jsonl.
    After ``patience`` bad ones in a row training goes back to its last checkpoint, with another order of the data and
    other noise, and stops when it would go back more than ``rollbacks`` times.

    Args:
        spike: the z-score; None to look at finiteness only.
        factor: times the median.
        window: how many good batches are remembered; nothing is a spike before so many are.
        patience: bad batches in a row.
        rollbacks: at most.
    """

    spike: float | None = 10.0
    factor: float = 10.0
    window: int = 100
    patience: int = 3
    rollbacks: int = 2

    def __post_init__(self) -> None:
        if min(self.window, self.patience) < 1 or self.rollbacks < 0:
            raise UserError(f"a guard needs window >= 1, patience >= 1, rollbacks >= 0, got {self}")

    def judge(self, loss: float, error: float, norm: float, before: Iterable[float]) -> str:
        """What is wrong with a batch, empty if nothing.

        Args:
            loss: its loss.
            error: its squared error, which no weighting has levelled.
            norm: the norm of its gradient.
            before: the squared errors of the last good batches.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        known = [math.log(value) for value in before]
        if self.spike is None or len(known) < self.window or not error > 0:
            return ""
        middle = median(known)
        above = math.log(error) - middle
        deviation = max(median(abs(value - middle) for value in known), 1e-6)
        score = 0.6745 * above / deviation
        if above > math.log(self.factor) and score > self.spike:
            return f"the squared error {error:.4g} is {math.exp(above):.0f} times its median (robust z {score:.0f})"
        return ""


class GuardMemory:
    """A guard's memory: the errors of good batches, the bad ones in a row, how often training went back.

    Args:
        guard: the rules.
    """

    def __init__(self, guard: BatchGuard) -> None:
        self.guard = guard
        self.good: deque[float] = deque(maxlen=guard.window)
        self.bad = 0
        self.rollbacks = 0

    def judge(self, loss: float, error: float, norm: float) -> str:
        """What is wrong with a batch, empty if nothing; remembers it."""
        reason = self.guard.judge(loss, error, norm, self.good)
        if reason:
            self.bad += 1
        else:
            self.bad = 0
            if error > 0 and math.isfinite(error):
                self.good.append(error)
        return reason

    @property
    def exhausted(self) -> bool:
        """Whether as many batches in a row were bad as are borne."""
        return self.bad >= self.guard.patience

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"good": list(self.good), "bad": self.bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers what was saved."""
        self.good = deque(map(float, state["good"]), maxlen=self.guard.window)
        self.bad = int(state["bad"])


@dataclass(frozen=True)
class Incident:
    """A line of incidents.jsonl.

    Attributes:
        step: the optimiser step.
        kind: ``skipped`` or ``rollback``.
        reason: what was wrong.
        parameter: the first whose gradient is not finite, if any.
        r, t, alpha: of the sample with the largest loss, as far as they are known.
        of_data: whether the batch itself was wrong, not what was made of it.
    """

    step: int
    kind: str
    reason: str
    parameter: str | None = None
    r: float | None = None
    t: float | None = None
    alpha: float | None = None
    of_data: bool = False

    @property
    def advice(self) -> str:
        """What can be done about many of these."""
        return "mend the data" if self.of_data else "train with a lower learning rate, or with clip"

    def __str__(self) -> str:
        where = f", first in the gradient of {self.parameter}" if self.parameter else ""
        known = [f"{name} = {value:.4g}" for name, value in (("r", self.r), ("t", self.t), ("α", self.alpha))
                 if value is not None]  # fmt: skip
        worst = f"; the worst sample has {', '.join(known)}" if known else ""
        return f"{self.reason} at step {self.step}{where}{worst}"

    def append_to(self, file: Path) -> None:
        """Adds the line."""
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(self), ensure_ascii=False) + "\n")


def squared_error(loss: Loss) -> torch.Tensor:
    """The batch's squared error at any α, before any weighting levels it; the loss itself where no term says.

    (The plain error would leap where a curriculum's small α ends in 0, by 1/α².)
    """
    found = loss.terms.get("residual", loss.terms.get("mse", loss.per_sample))
    return found.detach().mean()


def rollbacks_in(file: Path, step: int | None = None) -> int:
    """How often incidents.jsonl says that training went back, to any step or to this one."""
    if not file.is_file():
        return 0
    count = 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = parsed(line)
        except ValueError:  # cut short by a full disk
            continue
        if isinstance(found, dict) and found.get("kind") == "rollback":
            count += step in (None, found.get("step"))
    return count


def examine(engine: Engine, batch: Batch, step: int, randomness: torch.Tensor, reason: str) -> Incident:
    """Works a bad batch through once more, with the same random numbers, to say what was wrong with it.

    Args:
        engine: with the batch's gradient still in the parameters.
        batch: as the dataset gave it.
        step: the optimiser step.
        randomness: the generator's state before the batch.
        reason: what the guard said.
    """
    data = not_finite(batch)
    (wrong,) = engine.world.mean([float(bool(data))])
    if wrong:
        reason = f"{reason}, since {data or 'the data of another process are not finite'}"
    of_data = wrong > 0
    named = engine.named_parameters()
    broken = next((n for n, p in named if p.grad is not None and not finite(p.grad)), None)
    objective = engine.recipe.objective
    if not isinstance(objective, Objective) or engine.world.size > 1 or engine.setup.accumulate > 1:
        return Incident(step, "skipped", reason, broken, of_data=of_data)
    generator = torch.Generator(engine.device)
    generator.set_state(randomness)
    drawn = batch.drawn(generator)
    again = torch.Generator(engine.device)
    again.set_state(generator.get_state())
    with torch.no_grad():
        losses = objective(engine.model, drawn.x, drawn.cond, step, generator, ema=engine.ema.model).per_sample
        times = objective.draw(engine.model, drawn.x, drawn.cond, step, again)
    worst = int(torch.nan_to_num(losses, nan=math.inf, posinf=math.inf).argmax())
    alpha = objective.scalars(step).get("alpha")
    return Incident(step, "skipped", reason, broken, float(times.r[worst]), float(times.t[worst]), alpha, of_data)
