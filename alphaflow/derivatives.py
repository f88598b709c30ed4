"""The total derivative of a network along its trajectory. The one place that knows how it is taken."""

from __future__ import annotations

import functools
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .types import Cond, Model, Sample, Time


def total_derivative(model: Model, z: Sample, r: Time, t: Time, cond: Cond, v: Sample) -> tuple[Sample, Sample]:
    """The network's output and its derivative along the path, by forward-mode AD in one pass.

    du/dt = v·∂_z u + ∂_t u: the Jacobian-vector product of u at (z_t, r, t) along (v, 0, 1)
    (MeanFlow, arXiv 2505.13447, eq. 8). No graph is kept: both results are constants to the optimiser.

    Fused attention has no forward AD in PyTorch, so attention runs on its plain kernel here.

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

    def u(z: Sample, t: Time) -> Sample:
        return model(z, r, t, cond)

    _load_rules()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        value, derivative, *_ = torch.func.jvp(u, (z, t), (v, torch.ones_like(t)))
    return value.detach(), derivative.detach()


@functools.cache
def _load_rules() -> None:
    """Loads PyTorch's forward-mode rules once, without the deprecation warning that its own loading raises."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning), torch.autograd.forward_ad.dual_level():
        torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]
