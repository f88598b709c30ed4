"""Samplers: from noise to samples in a stated number of network evaluations.

``sampler(model, noise, cond, generator) -> x``; ``sampler.nfe`` is what one sample costs. The model is called without
gradients; noise is not changed. Samples and times are kept in float32 at least, whatever the model's precision is:
steps of bfloat16 would add up to 24 % of a sample in 250 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from .describe import Compact
from .errors import is_whole
from .flow import interpolate, jump
from .guidance import CFG
from .network import Upcast
from .sources import SOURCES, Gaussian, Source, seen
from .times import check_grid, grid
from .types import Cond, Model, Sample, Time


class Sampler(Protocol):
    """Any ``sampler(model, noise, cond, generator) -> x`` that knows its number of function evaluations."""

    @property
    def nfe(self) -> int:
        """Network evaluations a sample costs."""
        ...

    def __call__(
        self, model: Model, noise: Sample, cond: Cond | None = None, generator: torch.Generator | None = None
    ) -> Sample:
        """Samples x (b, …) from a draw of the source (b, …), which is standard normal noise unless one says."""
        ...


@dataclass(frozen=True, repr=False)
class _Grid(Compact):
    steps: int | None = None
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.times is None:
            if self.steps is None or not is_whole(self.steps) or self.steps < 1:
                raise ValueError(f"{type(self).__name__} needs at least 1 step, a whole number, got {self.steps!r}")
            return
        check_grid(self.times)
        if self.steps not in (None, len(self.times) - 1):
            raise ValueError(f"{self.times} are {len(self.times) - 1} steps, not {self.steps}; give one of both")

    @property
    def grid(self) -> tuple[float, ...]:
        """1 = t_0 > … > t_N = 0."""
        if self.times is not None:
            return self.times
        assert self.steps is not None
        return grid(self.steps)


@dataclass(frozen=True, repr=False)
class ODE(_Grid):
    """Deterministic sampling along the trajectory, N steps on 1 = t_0 > … > t_N = 0.

    Args:
        steps: N, an even grid; or
        times: the grid itself, for example (1.0, 0.55, 0.0).
        solver: ``"jump"`` for networks that know mean velocities: z ← z − (t_i − t_{i+1})·u(z, t_{i+1}, t_i)
            (MeanFlow, arXiv 2505.13447, eq. 12). ``"euler"`` and ``"heun"`` for plain flow models, which know r = t
            only; Heun's second-order step costs two evaluations.
        cfg: guidance while sampling, for models trained with dropped labels; or None.
    """

    solver: Literal["jump", "euler", "heun"] = "jump"
    cfg: CFG | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in ("jump", "euler", "heun"):
            raise ValueError(f"solver is jump, euler or heun, got {self.solver!r}")

    def _evaluated(self) -> list[float]:
        """The times t at which the network is evaluated, in order."""
        pairs = zip(self.grid, self.grid[1:], strict=False)
        return [time for t, r in pairs for time in ((t, r) if self.solver == "heun" else (t,))]

    @property
    def nfe(self) -> int:
        """Network evaluations a sample costs, guidance included."""
        return sum(2 if self.cfg is not None and self.cfg.applies(t) else 1 for t in self._evaluated())

    @torch.no_grad()
    def __call__(
        self, model: Model, noise: Sample, cond: Cond | None = None, generator: torch.Generator | None = None
    ) -> Sample:
        """Samples x (b, …) from a draw of the source (b, …), `Gaussian` noise or another. Draws nothing itself."""
        cond = Cond() if cond is None else cond
        plain = Upcast(model)
        guided = plain if self.cfg is None else self.cfg.wrap(model)

        def u(z: Sample, r: float, t: float) -> Sample:
            call = guided if self.cfg is not None and self.cfg.applies(t) else plain
            return call(z, _fill(r, z), _fill(t, z), cond)

        z = noise.to(torch.promote_types(noise.dtype, torch.float32))
        for t, r in zip(self.grid, self.grid[1:], strict=False):
            step = _stepper(self.solver)
            z = step(u, z, t, r)
        return z


@dataclass(frozen=True, repr=False)
class Consistency(_Grid):
    """Consistency sampling (arXiv 2303.01469, algorithm 1): jump to the data, add fresh noise, repeat.

    x̂ = z − t_i·u(z, 0, t_i), then z = (1 − t_{i+1})·x̂ + t_{i+1}·ε.

    Args:
        steps: N, an even grid; or
        times: the grid itself, for example (1.0, 0.55, 0.0).
        source: what fresh noise is made into; None for the objective's, which a recipe puts here.
    """

    source: Source | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations a sample costs."""
        return len(self.grid) - 1

    def __call__(
        self, model: Model, noise: Sample, cond: Cond | None = None, generator: torch.Generator | None = None
    ) -> Sample:
        """Samples x (b, …) from a draw of the source (b, …); fresh noise comes from the generator."""
        kept = torch.promote_types(noise.dtype, torch.float32)

        def fresh(z: Sample) -> Sample:
            return torch.randn(z.shape, dtype=kept, device=z.device, generator=generator)

        return self.follow(model, noise, cond, fresh)

    @torch.no_grad()
    def follow(self, model: Model, noise: Sample, cond: Cond | None, fresh: Callable[[Sample], Sample]) -> Sample:
        """The same with fresh noise by a function of what it is like, which is called after each step but the last."""
        cond, source = Cond() if cond is None else cond, self.source or Gaussian()
        z = noise.to(torch.promote_types(noise.dtype, torch.float32))
        u, given = Upcast(model), seen(cond, source, model)
        for t, r in zip(self.grid, self.grid[1:], strict=False):
            now, zero = _fill(t, z), _fill(0.0, z)
            z = jump(z, u(z, zero, now, given), now, zero)
            if r > 0:
                z = interpolate(z, source(fresh(z), cond), _fill(r, z))
        return z


def _fill(t: float, like: Sample) -> Time:
    return torch.full((like.shape[0],), t, dtype=like.dtype, device=like.device)


_Velocity = Callable[[Sample, float, float], Sample]


def _jump_step(u: _Velocity, z: Sample, t: float, r: float) -> Sample:
    return z - (t - r) * u(z, r, t)


def _euler_step(u: _Velocity, z: Sample, t: float, r: float) -> Sample:
    return z - (t - r) * u(z, t, t)


def _heun_step(u: _Velocity, z: Sample, t: float, r: float) -> Sample:
    first = u(z, t, t)
    second = u(z - (t - r) * first, r, r)
    return z - (t - r) * (first + second) / 2


def _stepper(solver: str) -> Callable[[_Velocity, Sample, float, float], Sample]:
    return {"jump": _jump_step, "euler": _euler_step, "heun": _heun_step}[solver]


SAMPLERS = {"ODE": ODE, "Consistency": Consistency, "CFG": CFG, **SOURCES}
"""What run.json may name as one, or as a part of one."""
