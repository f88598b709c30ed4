"""The total derivative of a network along its trajectory. The one place that knows how it is taken.

A network that offers its own tangent (`Network.offers_tangent`) is asked for it; any other is differentiated by
``torch.func.jvp``. The result is the same, the price is not.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .network import Upcast, known
from .types import Cond, Model, Sample, Time


def derivative_of(model: Model) -> Literal["its own tangent", "torch.func.jvp"]:
    """How du/dt of a network is taken."""
    return "its own tangent" if known(model).offers_tangent else "torch.func.jvp"


def with_derivative(
    model: Model, z: Sample, r: Time, t: Time, cond: Cond, along: Sample, **options: Any
) -> tuple[Any, Sample]:
    """The network's output for a whole batch, with gradient, and du/dt of its first samples, without.

    Args:
        model: u(z, r, t, cond).
        z: (b, …) at time t.
        r: (b,).
        t: (b,).
        cond: what u is conditioned on.
        along: dz/dt of the first n samples, (n, …).
        **options: what else the network takes.

    Returns:
        What the network gives for these arguments, and du/dt (n, …).
    """
    network = Upcast(model)
    if derivative_of(model) == "its own tangent":
        out, dudt = network(z, r, t, cond, along=along.to(z.dtype), **options)
        return out, dudt.detach()
    n = len(along)
    _, dudt = _forward_ad(network, z[:n], r[:n], t[:n], cond[:n], along)
    return network(z, r, t, cond, **options), dudt


def total_derivative(model: Model, z: Sample, r: Time, t: Time, cond: Cond, v: Sample) -> tuple[Sample, Sample]:
    """The network's output and its derivative along the path.

    du/dt = v·∂_z u + ∂_t u: the Jacobian-vector product of u at (z_t, r, t) along (v, 0, 1)
    (MeanFlow, arXiv 2505.13447, eq. 8). No graph is kept: both results are constants to the optimiser.

    Args:
        model: u(z, r, t, cond), any callable.
        z: (b, …) at time t.
        r: (b,).
        t: (b,).
        cond: what u is conditioned on.
        v: dz/dt, (b, …).

    Returns:
        u⁻ and du⁻/dt, both (b, …).
    """
    if derivative_of(model) == "its own tangent":
        with torch.no_grad():
            return with_derivative(model, z, r, t, cond, v)
    return _forward_ad(Upcast(model), z, r, t, cond, v)


def _forward_ad(model: Model, z: Sample, r: Time, t: Time, cond: Cond, v: Sample) -> tuple[Sample, Sample]:
    """Output and derivative by forward-mode AD. Fused attention has none in PyTorch: it runs on its plain kernel.

    A compiled network runs here as it was written: the compiler can't see through ``torch.func.jvp``, and would leave
    the network alone ever after. What it predicts elsewhere is compiled.
    """

    def u(z: Sample, t: Time) -> Sample:
        out: Sample = model(z, r, t, cond)
        return out

    _load_rules()
    as_written = nullcontext() if torch.compiler.is_compiling() else torch.compiler.set_stance("force_eager")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), as_written:
        value, derivative, *_ = torch.func.jvp(u, (z, t), (v, torch.ones_like(t)))
    return value.detach(), derivative.detach()


@functools.cache
def _load_rules() -> None:
    """Loads PyTorch's forward-mode rules once, without the deprecation warning that its own loading raises."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning), torch.autograd.forward_ad.dual_level():
        torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]
