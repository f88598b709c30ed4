"""The tangent of attention in PyTorch's own operations, part by part."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 4 << 20, "other": 256 << 20}
"""How much of one (tokens × tokens) matrix is held at once: on a CPU what stays in its cache."""


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
