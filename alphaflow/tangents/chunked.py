"""The tangent of attention in PyTorch's own operations, part by part."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 4 << 20, "other": 256 << 20}
"""How much of one (tokens × tokens) matrix is held at once: on a CPU what stays in its cache."""


def chunked_tangent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    dq: Tensor,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    chunk_bytes: int | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """The tangent dO, for some heads and queries after others, in PyTorch's own operations.

    q, O and dq are (b, heads, tokens, d); k, v and their tangents (b, heads, keys, d), without tangents where they are
    constants. ``mask`` (b, 1, keys) is True for keys that are there; None for all. ``chunk_bytes`` is how much of P is
    held at once, at least a query's row; None takes `CHUNK_BYTES`. Scores and sums are taken in fp32 or finer.
    """
    (b, heads, tokens, d), keys = q.shape, k.shape[2]
    scale, dtype, precise = d**-0.5, q.dtype, torch.promote_types(q.dtype, torch.float32)
    limit = chunk_bytes or CHUNK_BYTES["cpu" if q.device.type == "cpu" else "other"]
    row = keys * precise.itemsize
    rows = min(tokens, max(1, limit // row))
    some = max(1, limit // (rows * row))

    def flat(x: Tensor, kind: torch.dtype) -> Tensor:
        return x.to(kind).reshape(b * heads, -1, d)

    v, out, dv = flat(v, dtype), flat(out, dtype), None if dv is None else flat(dv, dtype)
    q, k, dq, dk = flat(q, precise), flat(k, precise), flat(dq, precise), None if dk is None else flat(dk, precise)
    absent = None if mask is None else ~mask.repeat_interleave(heads, 0)
    found = torch.empty_like(out)
    with torch.autocast(q.device.type, enabled=False):
        for i in range(0, b * heads, some):
            at = slice(i, i + some)
            for j in range(0, tokens, rows):
                own = at, slice(j, j + rows)
                scores = torch.bmm(q[own] * scale, k[at].mT)
                p = (scores if absent is None else scores.masked_fill_(absent[at], -torch.inf)).softmax(-1)
                w = torch.bmm(dq[own], k[at].mT)
                w = (w if dk is None else torch.baddbmm(w, q[own], dk[at].mT, out=w)).mul_(p)  # P∘dS·√d
                moved = torch.bmm(w.to(dtype), v[at]).to(precise)
                moved = moved.addcmul_(out[own].to(precise), w.sum(-1, keepdim=True), value=-1).mul_(scale)
                found[own] = (moved if dv is None else moved.add_(torch.bmm(p.to(dtype), dv[at]))).to(dtype)
    return found.view(b, heads, tokens, d)
