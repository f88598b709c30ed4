"""Sources, what stands at t = 1 in place of plain noise; and couplings, which of it goes with which sample.

z_t = (1 − t)·x + t·x₁ and v = x₁ − x hold for any x₁. A source makes x₁ from noise and from what a sample is
conditioned on; it is also where sampling starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .describe import Compact
from .errors import UserError, is_number
from .network import known
from .types import Cond, Model, Sample


class Source(ABC):
    """A map from standard normal noise to x₁: ``source(noise, cond) -> x1``, tensors (b, …) of one shape.

    All its randomness is the noise that it is given, so that sampling draws it again from a seed.

    Attributes:
        conditions: the conditions that it reads. A network that says which ones it takes (`Network.conditions`), and
            doesn't name them, isn't given them.
    """

    conditions: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, noise: Sample, cond: Cond, /) -> Sample:
        """x₁ (b, …) of noise (b, …)."""

    @staticmethod
    def of(given: Source | Callable[[Sample, Cond], Sample]) -> Source:
        """Any ``function(noise, cond) -> x1`` as a source: one that reads no condition which the network doesn't take.

        Raises:
            UserError: it can't be called.
        """
        if isinstance(given, Source):
            return given
        if isinstance(given, type) or not callable(given):
            raise UserError(f"a source is af.Gaussian(), af.FromCondition(…) or a function of (noise, cond): {given!r}")
        return _Function(given)


@dataclass(frozen=True, repr=False)
class Gaussian(Compact, Source):
    """x₁ = ε: the noise itself, as in flow matching from noise to data."""

    def __call__(self, noise: Sample, cond: Cond, /) -> Sample:
        """The noise."""
        return noise


@dataclass(frozen=True, repr=False)
class FromCondition(Compact, Source):
    """x₁ = y + σ·ε, where y is a condition of the sample's shape: restoration, bridges; with σ = 0 stored pairs.

    Where one input has several answers, σ > 0 is what tells them apart: from y alone one trajectory leads. A network
    that is told y as a condition learns x given y. One that isn't learns what x₁ alone tells of x: fresh noise
    (`Consistency`) then no longer goes with a sample, and steps along the trajectory are right (`ODE`).

    Args:
        name: the condition's name.
        noise: σ.
    """

    name: str = "image"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.noise) or self.noise < 0:
            raise ValueError(f"the noise of a source is a finite number of at least 0, got {self.noise!r}")

    @property
    def conditions(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one."""
        return (self.name,)

    def __call__(self, noise: Sample, cond: Cond, /) -> Sample:
        """Y + σ·ε.

        Raises:
            UserError: there is no such condition, or it is of another shape than the samples.
        """
        start = cond.tensors.get(self.name)
        if start is None:
            raise UserError(f"the source starts from the condition {self.name!r}, which is missing; there is {cond!r}")
        if start.shape != noise.shape:
            raise UserError(
                f"the source starts from {self.name!r}, which must have the samples' shape {tuple(noise.shape)}, "
                f"got {tuple(start.shape)}"
            )
        start = start.to(noise.dtype)
        return start + self.noise * noise if self.noise else start


@dataclass(frozen=True)
class _Function(Source):
    function: Callable[[Sample, Cond], Sample]

    def __call__(self, noise: Sample, cond: Cond, /) -> Sample:
        start = self.function(noise, cond)
        if start.shape != noise.shape:
            raise UserError(f"the source must give the samples' shape {tuple(noise.shape)}, got {tuple(start.shape)}")
        return start.to(noise.dtype)

    def __repr__(self) -> str:
        return repr(self.function)


class Coupling(ABC):
    """Which x₁ of a batch goes with which sample: ``coupling(x, x1) -> indices`` (b,); x₁[indices] goes with x."""

    @abstractmethod
    def __call__(self, x: Sample, x1: Sample, /) -> Tensor:
        """A permutation (b,)."""


@dataclass(frozen=True, repr=False)
class OptimalTransport(Compact, Coupling):
    """x₁ permuted within the batch to the least total squared distance (minibatch OT: arXiv 2302.00482, 2304.14772).

    The Hungarian algorithm, in float64 on the CPU: exact for the batch, O(b³). Labels stay with their samples. Parts of
    a batch (other processes', accumulated ones) are coupled by themselves.
    """

    @torch.no_grad()
    def __call__(self, x: Sample, x1: Sample, /) -> Tensor:
        """Indices (b,) of the x₁ that goes with each sample."""
        from scipy.optimize import linear_sum_assignment

        a, b = (part.detach().flatten(1).double() for part in (x, x1))
        cost = -(a @ b.mT)  # the norms are the same whatever the order
        if not bool(cost.isfinite().all()):  # a bad batch, of which training's guard knows what to do
            return torch.arange(len(x), device=x.device)
        return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(x.device)


def check_coupled(source: Source, coupling: Coupling | None) -> None:
    """Raises a ValueError unless they go together: what starts from its condition can't be handed to another sample."""
    if coupling is not None and not isinstance(coupling, Coupling):
        raise ValueError(f"coupling is af.OptimalTransport(), an af.Coupling, or None, got {coupling!r}")
    if coupling is not None and source.conditions:
        raise ValueError(f"{source!r} starts each sample from its own condition: leave coupling={coupling!r} out")


def seen(cond: Cond, source: Source, model: Model) -> Cond:
    """What the network is given of a condition: not what only the source reads (`Source.conditions`)."""
    takes = known(model).conditions
    hidden = [name for name in source.conditions if takes is not None and name not in takes and name in cond.tensors]
    for name in hidden:
        cond = cond.without(name)
    return cond


SOURCES = {"Gaussian": Gaussian, "FromCondition": FromCondition}
"""What run.json may name as one."""
