"""Forward-mode derivatives of the layers a transformer is made of, taken from the values that training computes anyway.

Each function here takes plain tensors and returns what its layer does; or it takes `Dual`s, values with a tangent, and
returns a `Dual`. A network that is written with them gives its output with gradient for a whole batch, and the
derivative for the first samples of it, in one pass: the tangents need no second forward pass, and keep no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_aten = torch.ops.aten


class Dual(NamedTuple):
    """A value, and how the first samples of it change along the path.

    Attributes:
        value: (b, …), with its graph if gradients are on.
        tangent: its derivative for the first n ≤ b samples, (n, …), without a graph.
    """

    value: Tensor
    tangent: Tensor

    @property
    def first(self) -> Tensor:
        """The values that the tangent belongs to, (n, …), as constants."""
        return self.value[: self.tangent.shape[0]].detach()


Value = TypeVar("Value", Tensor, Dual)
"""A tensor (b, …), or one with a tangent."""


def primal(x: Tensor | Dual) -> Tensor:
    """The value, without a tangent."""
    return x if isinstance(x, Tensor) else x.value


def linear(layer: nn.Linear, x: Value) -> Value:
    """W·x + b; its tangent W·dx."""
    if isinstance(x, Tensor):
        out: Tensor = layer(x)
        return out
    if not _plain(layer, nn.Linear):
        return through(layer, x)
    return Dual(layer(x.value), _mapped(x.tangent, layer.weight))


def layer_norm(layer: nn.LayerNorm, x: Value) -> Value:
    """LayerNorm x̂ = (x − µ)·ρ, ρ = 1/σ, over the last dimension; its tangent ρ·(dx − mean(dx) − x̂·mean(x̂·dx)).

    That is what LayerNorm's backward pass computes. A weight and a bias of the layer are applied after it.
    """
    if isinstance(x, Tensor):
        out: Tensor = layer(x)
        return out
    if not _plain(layer, nn.LayerNorm):
        return through(layer, x)
    value, mean, rstd = torch.native_layer_norm(x.value, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return Dual(value, _normalised(layer, x, mean, rstd))


def rms_norm(layer: nn.RMSNorm, x: Value) -> Value:
    """RMSNorm x̂ = x·ρ, ρ = 1/√(mean(x²) + ε), over the last dimension; its tangent ρ·(dx − x̂·mean(x̂·dx)).

    A weight of the layer is applied after it.
    """
    if isinstance(x, Tensor):
        out: Tensor = layer(x)
        return out
    if not _plain(layer, nn.RMSNorm) or layer.eps is None or len(layer.normalized_shape) != 1:
        return through(layer, x)
    with torch.no_grad():
        rho = torch.rsqrt(x.first.square().mean(-1, keepdim=True) + layer.eps)
        unit = x.first * rho
        tangent = rho * x.tangent - unit * (rho * (unit * x.tangent).mean(-1, keepdim=True))
        tangent = tangent if layer.weight is None else tangent * layer.weight
    return Dual(layer(x.value), tangent.to(x.value.dtype))


def product(x: Value, y: Value) -> Value:
    """x·y; its tangent y·dx + x·dy."""
    if isinstance(x, Tensor):
        return x * y
    with torch.no_grad():
        tangent = torch.addcmul(y.first * x.tangent, x.first, y.tangent)
    return Dual(x.value * y.value, tangent)


def gelu(x: Value) -> Value:
    """GELU in its tanh form; its tangent gelu′(x)·dx."""
    if isinstance(x, Tensor):
        return F.gelu(x, approximate="tanh")
    with torch.no_grad():
        tangent = _aten.gelu_backward(x.tangent.to(x.value.dtype), x.first, approximate="tanh")
    return Dual(F.gelu(x.value, approximate="tanh"), tangent)


def silu(x: Value) -> Value:
    """SiLU, x·sigmoid(x); its tangent silu′(x)·dx."""
    if isinstance(x, Tensor):
        return F.silu(x)
    with torch.no_grad():
        tangent = _aten.silu_backward(x.tangent.to(x.value.dtype), x.first)
    return Dual(F.silu(x.value), tangent)


def modulate(x: Value, shift: Value, scale: Value) -> Value:
    """AdaLN's x·(1 + scale) + shift for tokens (b, n, d) and shift, scale (b, d).

    Its tangent is dx·(1 + scale) + x·dscale + dshift.
    """
    if isinstance(x, Tensor):
        return torch.addcmul(shift[:, None], x, 1 + scale[:, None])
    value = modulate(x.value, shift.value, scale.value)
    with torch.no_grad():
        tangent = torch.addcmul(shift.tangent[:, None], x.tangent, 1 + scale.first[:, None])
        tangent = torch.addcmul(tangent, x.first, scale.tangent[:, None])
    return Dual(value, tangent)


def gated(x: Value, gate: Value, update: Value) -> Value:
    """AdaLN-Zero's x + gate·update for tokens (b, n, d) and a gate (b, d); dx + gate·dupdate + dgate·update."""
    if isinstance(x, Tensor):
        return torch.addcmul(x, gate[:, None], update)
    value = gated(x.value, gate.value, update.value)
    with torch.no_grad():
        tangent = torch.addcmul(x.tangent, gate.first[:, None], update.tangent)
        tangent = torch.addcmul(tangent, gate.tangent[:, None], update.first)
    return Dual(value, tangent)


def add(x: Value, y: Tensor | Dual) -> Value:
    """The sum x + y; dx + dy, where a plain tensor y doesn't change along the path."""
    if isinstance(x, Tensor):
        assert isinstance(y, Tensor), "a tangent would be lost: give the Dual first"
        return x + y
    value = x.value + primal(y)
    tangent = x.tangent if isinstance(y, Tensor) else x.tangent + y.tangent
    return Dual(value, tangent.to(value.dtype))


def waves(t: Value, rates: Tensor) -> Value:
    """Cosines and sines of t·rates: t (b,) and rates (k,) → (b, 2k); rates·(−sin, cos)·dt."""
    if isinstance(t, Tensor):
        angles = t[:, None] * rates
        return torch.cat([angles.cos(), angles.sin()], dim=1)
    with torch.no_grad():
        angles = t.first[:, None] * rates
        tangent = torch.cat([-angles.sin(), angles.cos()], dim=1) * (t.tangent[:, None] * rates).repeat(1, 2)
    return Dual(waves(t.value, rates), tangent)


def linearly(function: Callable[[Tensor], Tensor], x: Value) -> Value:
    """A function that is linear and has no weights, such as a rearrangement: applied to value and tangent alike."""
    return function(x) if isinstance(x, Tensor) else Dual(function(x.value), function(x.tangent))


def cat(parts: Sequence[Tensor | Dual], dim: int) -> Any:
    """``torch.cat(parts, dim)``, dim ≥ 1; plain tensors among `Dual`s don't change along the path."""
    value = torch.cat([primal(part) for part in parts], dim)
    moving = next((part.tangent for part in parts if isinstance(part, Dual)), None)
    if moving is None:
        return value
    n = len(moving)
    tangents = [torch.zeros_like(part[:n]) if isinstance(part, Tensor) else part.tangent for part in parts]
    return Dual(value, torch.cat([tangent.to(value.dtype) for tangent in tangents], dim))


def scaled(x: Value, weight: Tensor) -> Value:
    """x·w with weights that broadcast over it, a parameter; dx·w."""
    return x * weight if isinstance(x, Tensor) else Dual(x.value * weight, x.tangent * weight.detach())


def chunk(x: Value, parts: int, dim: int) -> tuple[Value, ...]:
    """``x.chunk(parts, dim)``, dim ≥ 1."""
    if isinstance(x, Tensor):
        return x.chunk(parts, dim)
    return tuple(Dual(*pair) for pair in zip(x.value.chunk(parts, dim), x.tangent.chunk(parts, dim), strict=True))


def through(function: Callable[[Tensor], Tensor], x: Value) -> Value:
    """Any function of the samples, each on its own; its tangent by ``torch.func.jvp``, which computes values again.

    Both draw the same random numbers, if any.
    """
    if isinstance(x, Tensor):
        return function(x)
    with torch.no_grad(), _same_randomness(x.value):
        found: Any = torch.func.jvp(function, (x.first,), (x.tangent,))
    return Dual(function(x.value), found[1].detach())


def _plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does what its kind does and no more, as an adapter or one with hooks may."""
    return type(layer) is kind and not layer._forward_hooks and not layer._forward_pre_hooks


def _same_randomness(x: Tensor) -> Any:
    """A context after which the generators stand where they stood before."""
    if torch.compiler.is_compiling():
        return nullcontext()
    return torch.random.fork_rng([x.device] if x.is_cuda else [])


@torch.no_grad()
def _mapped(tangent: Tensor, weight: Tensor) -> Tensor:
    return F.linear(tangent, weight)


@torch.no_grad()
def _normalised(layer: nn.LayerNorm, x: Dual, mean: Tensor, rstd: Tensor) -> Tensor:
    n, shape = x.tangent.shape[0], list(layer.normalized_shape)
    backward = _aten.native_layer_norm_backward
    tangent: Tensor
    tangent, *_ = backward(
        x.tangent.to(x.value.dtype), x.first, shape, mean[:n], rstd[:n], None, None, [True, False, False]
    )
    return tangent if layer.weight is None else tangent * layer.weight
