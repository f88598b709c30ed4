"""The tangent of attention: fused kernels for the values, and no (tokens × tokens) matrix of all heads for the tangent.

With S = q·kᵀ/√d, P = softmax(S) and O = P·v: dS = (dq·kᵀ + q·dkᵀ)/√d and
dO = (P∘dS)·v + P·dv − rowsum(P∘dS)·O.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunked import chunked_tangent
from .rules import Dual, Value

_HAS_TRITON = importlib.util.find_spec("triton") is not None


def cross_attention(q: Value, k: Tensor, v: Tensor, mask: Tensor) -> Value:
    """softmax(q·kᵀ/√d)·v over the keys that are there, which are constants along the path, and its tangent.

    Args:
        q: (b, heads, tokens, d).
        k: (b, heads, n, d).
        v: likewise.
        mask: (b, n), True for keys that are there; one at least of each sample.
    """
    there = mask[:, None, None]
    if isinstance(q, Tensor):
        return F.scaled_dot_product_attention(q, k, v, there)
    value, n = F.scaled_dot_product_attention(q.value, k, v, there), q.tangent.shape[0]
    keys, values = k[:n].detach(), v[:n].detach()
    with torch.no_grad():
        return Dual(value, chunked_tangent(q.first, keys, values, value[:n].detach(), q.tangent, mask=there[:n, 0]))


def attention(q: Value, k: Value, v: Value) -> Value:
    """softmax(q·kᵀ/√d)·v, and its tangent: q, k, v (b, heads, tokens, d) → the same shape."""
    if isinstance(q, Tensor):
        return F.scaled_dot_product_attention(q, k, v)
    value = F.scaled_dot_product_attention(q.value, k.value, v.value)
    n = q.tangent.shape[0]
    firsts = q.first, k.first, v.first, value[:n].detach()
    with torch.no_grad():
        if value.is_cuda and _HAS_TRITON:
            from .triton_attention import tangent_on_gpu

            return Dual(value, tangent_on_gpu(*firsts, q.tangent, k.tangent, v.tangent))
        return Dual(value, chunked_tangent(*firsts, q.tangent, k.tangent, v.tangent))
