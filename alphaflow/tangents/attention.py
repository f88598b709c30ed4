"""The tangent of attention: fused kernels for the values, and no (tokens × tokens) matrix of all heads for the tangent.

With S = q·kᵀ/√d, P = softmax(S) and O = P·v: dS = (dq·kᵀ + q·dkᵀ)/√d and
dO = (P∘dS)·v + P·dv − rowsum(P∘dS)·O.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from .rules import Dual, Value

CHUNK_BYTES = {"cpu": 4 << 20, "other": 256 << 20}
"""How much of one (tokens × tokens) matrix is held at once: on a CPU what stays in its cache."""


_HAS_TRITON = importlib.util.find_spec("triton") is not None


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


def chunked_tangent(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, chunk_bytes: int | None = None
) -> Tensor:
    """The tangent dO, for some heads and queries after others, in PyTorch's own operations.

    q, k, v, O, and the tangents of the first three are (b, heads, tokens, d). ``chunk_bytes`` is how much of P is held
    at once, at least a query's row; None takes `CHUNK_BYTES`. Scores and sums are taken in fp32 or finer.
    """
    b, heads, tokens, d = q.shape
    scale, dtype, precise = d**-0.5, q.dtype, torch.promote_types(q.dtype, torch.float32)
    limit = chunk_bytes or CHUNK_BYTES["cpu" if q.device.type == "cpu" else "other"]
    row = tokens * precise.itemsize
    rows = min(tokens, max(1, limit // row))
    some = max(1, limit // (rows * row))
    v, out, dv = (x.to(dtype).reshape(b * heads, tokens, d) for x in (v, out, dv))
    q, k, dq, dk = (x.to(precise).reshape(b * heads, tokens, d) for x in (q, k, dq, dk))
    found = torch.empty_like(v)
    with torch.autocast(q.device.type, enabled=False):
        for i in range(0, b * heads, some):
            at = slice(i, i + some)
            for j in range(0, tokens, rows):
                own = at, slice(j, j + rows)
                p = torch.bmm(q[own] * scale, k[at].mT).softmax(-1)
                w = torch.bmm(dq[own], k[at].mT)
                w = torch.baddbmm(w, q[own], dk[at].mT, out=w).mul_(p)  # P∘dS·√d
                moved = torch.bmm(w.to(dtype), v[at]).to(precise)
                moved = moved.addcmul_(out[own].to(precise), w.sum(-1, keepdim=True), value=-1).mul_(scale)
                found[own] = moved.add_(torch.bmm(p.to(dtype), dv[at])).to(dtype)
    return found.view(b, heads, tokens, d)
