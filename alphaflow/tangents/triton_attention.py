"""The tangent of attention on a GPU, in one pass over the keys: no (tokens × tokens) matrix reaches memory.

For a block of queries the kernel goes over the keys with a running maximum m of S = q·kᵀ/√d, and sums with weights
e^{S − m}: ℓ = Σ e, ρ = Σ e∘dS, and A = Σ (e∘dS)·v + e·dv. Then dO = (A − ρ·O)/ℓ. Five matrix products, each operand
read once a block. A head size that is no power of two is split into two that are (72 = 64 + 16, half of it padding).
"""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..errors import said
from .chunked import chunked_tangent

LARGEST_HEAD = 256

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The types that the kernel is used for, and how far it may be from the chunked version. Matrix units have no fp32."""


@triton.jit  # type: ignore[untyped-decorator]
def _halves(base, rows, stride, tokens, d: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of a head: their first d1 elements, and the rest, zero beyond the last row and element."""
    first, rest = tl.arange(0, d1)[None, :], d1 + tl.arange(0, d2)[None, :]
    place, inside = base + rows[:, None] * stride, rows[:, None] < tokens
    return (
        tl.load(place + first, mask=inside & (first < d), other=0.0),
        tl.load(place + rest, mask=inside & (rest < d), other=0.0),
    )


@triton.jit  # type: ignore[untyped-decorator]
def _product(x1, x2, y1, y2, total, split: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum total + x·yᵀ; fp32 operands are not rounded."""
    total = tl.dot(x1, tl.trans(y1), total, input_precision="ieee")
    if split:
        total = tl.dot(x2, tl.trans(y2), total, input_precision="ieee")
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    q, k, v, dq, dk, dv, o, found, heads, tokens, scale,
    value_b, value_h, value_n, tangent_b, tangent_h, tangent_n, o_b, o_h, o_n, found_b, found_h, found_n,
    d: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    split: tl.constexpr = d1 < d
    blocks = tl.cdiv(tokens, rows)
    head = tl.program_id(0) // blocks  # one head's queries after another: its keys stay in the cache
    b, h = (head // heads).to(tl.int64), head % heads
    value, tangent = b * value_b + h * value_h, b * tangent_b + h * tangent_h
    i = tl.program_id(0) % blocks * rows + tl.arange(0, rows)
    q1, q2 = _halves(q + value, i, value_n, tokens, d, d1, d2)
    dq1, dq2 = _halves(dq + tangent, i, tangent_n, tokens, d, d1, d2)

    highest = tl.full([rows], float("-inf"), tl.float32)
    total, moved = tl.zeros([rows], tl.float32), tl.zeros([rows], tl.float32)
    a1, a2 = tl.zeros([rows, d1], tl.float32), tl.zeros([rows, d2], tl.float32)
    none = tl.zeros([rows, keys], tl.float32)
    for start in range(0, tokens, keys):
        j = start + tl.arange(0, keys)
        k1, k2 = _halves(k + value, j, value_n, tokens, d, d1, d2)
        dk1, dk2 = _halves(dk + tangent, j, tangent_n, tokens, d, d1, d2)
        v1, v2 = _halves(v + value, j, value_n, tokens, d, d1, d2)
        dv1, dv2 = _halves(dv + tangent, j, tangent_n, tokens, d, d1, d2)
        s = tl.where(j[None, :] < tokens, _product(q1, q2, k1, k2, none, split) * scale, float("-inf"))
        ds = _product(q1, q2, dk1, dk2, _product(dq1, dq2, k1, k2, none, split), split)
        higher = tl.maximum(highest, tl.max(s, 1))
        shrink, e = tl.exp(highest - higher), tl.exp(s - higher[:, None])
        w = e * ds * scale
        total, moved, highest = total * shrink + tl.sum(e, 1), moved * shrink + tl.sum(w, 1), higher
        w, e = w.to(v1.dtype), e.to(v1.dtype)
        a1 = tl.dot(w, v1, a1 * shrink[:, None], input_precision="ieee")
        a1 = tl.dot(e, dv1, a1, input_precision="ieee")
        if split:
            a2 = tl.dot(w, v2, a2 * shrink[:, None], input_precision="ieee")
            a2 = tl.dot(e, dv2, a2, input_precision="ieee")

    o1, o2 = _halves(o + b * o_b + h * o_h, i, o_n, tokens, d, d1, d2)
    place, own = found + b * found_b + h * found_h + i[:, None] * found_n, i[:, None] < tokens
    first, rest = tl.arange(0, d1)[None, :], d1 + tl.arange(0, d2)[None, :]
    tl.store(place + first, (a1 - moved[:, None] * o1) / total[:, None], mask=own & (first < d))
    if split:
        tl.store(place + rest, (a2 - moved[:, None] * o2) / total[:, None], mask=own & (rest < d))


def kernel_tangent(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
    """The tangent dO by the kernel; arguments as `chunked_tangent` takes them, head sizes up to 256."""
    b, heads, tokens, d = q.shape
    values, tangents = _alike([q, k, v], q.dtype), _alike([dq, dk, dv], q.dtype)
    (out,), found = _alike([out], q.dtype), _empty(q)
    strides = [stride for x in (values[0], tangents[0], out, found) for stride in x.stride()[:3]]
    sizes, options = sizes_of(d)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        _kernel[(triton.cdiv(tokens, sizes["rows"]) * b * heads,)](
            *values, *tangents, out, found, heads, tokens, d**-0.5, *strides, **sizes, **options
        )
    return found


def _alike(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The same tensors of one type and with the same strides, the last one 1: as they are, or copied."""
    strides = {x.stride() for x in tensors}
    if len(strides) == 1 and tensors[0].stride(-1) == 1 and all(x.dtype == dtype for x in tensors):
        return tensors
    return [x.to(dtype).contiguous() for x in tensors]


def _empty(q: Tensor) -> Tensor:
    """Room for (b, heads, tokens, d), laid out as the next layer wants it: all heads of a token together."""
    b, heads, tokens, d = q.shape
    return torch.empty(b, tokens, heads, d, dtype=q.dtype, device=q.device).transpose(1, 2)


def sizes_of(d: int) -> tuple[dict[str, int], dict[str, int]]:
    """The kernel's sizes for heads of d: its two parts, and queries and keys of a block; and how it is launched.

    For d = 64 the fastest of 36 on an H100 (bf16, 256 tokens); for others what spills few registers or none.
    """
    d1 = max(16, 1 << (d.bit_length() - 1))
    d2 = max(16, triton.next_power_of_2(d - d1)) if d1 < d else 16
    rows, keys, warps, stages = (128, 32 if d == d1 else 64, 8, 3 if d == d1 else 2) if d1 <= 64 else (64, 32, 4, 2)
    return {"d": d, "d1": d1, "d2": d2, "rows": rows, "keys": keys}, {"num_warps": warps, "num_stages": stages}


@torch.library.custom_op("alphaflow::attention_tangent", mutates_args=())
def _tangent(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
    """The kernel where it works, else the chunked version. One operation to ``torch.compile``."""
    if q.shape[-1] <= LARGEST_HEAD and kernel_works(q.device, q.dtype, q.shape[-1]):
        return kernel_tangent(q, k, v, out, dq, dk, dv)
    return _empty(q).copy_(chunked_tangent(q, k, v, out, dq, dk, dv))


@_tangent.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
    return _empty(q)


@register_flop_formula(torch.ops.alphaflow.attention_tangent)
def _flops(q_shape: tuple[int, ...], *rest: Any, **options: Any) -> int:
    b, heads, tokens, d = q_shape
    return 5 * 2 * b * heads * tokens**2 * d


def tangent_on_gpu(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
    """The tangent dO on a GPU; arguments as `chunked_tangent` takes them."""
    found: Tensor = _tangent(q, k, v, out, dq, dk, dv)
    return found


@functools.cache
def kernel_works(device: torch.device, dtype: torch.dtype, d: int) -> bool:
    """Whether the kernel compiles here and agrees with the chunked version, on a small example; tried once."""
    if dtype not in TOLERANCE:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k, v, dq, dk, dv = (torch.randn(6, 1, 2, 80, d, generator=generator).to(device, dtype)).unbind(0)
    with torch.autocast(device.type, enabled=False):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    try:
        found = kernel_tangent(q, k, v, out, dq, dk, dv).double()
    except torch.cuda.OutOfMemoryError:  # not the kernel's fault
        raise
    except Exception as error:  # a compiler that is missing, a GPU that is too small or too old
        return _refused(said(error))
    wanted: Any = chunked_tangent(q, k, v, out, dq, dk, dv).double()
    distance = float((found - wanted).norm() / wanted.norm())
    if not distance < TOLERANCE[dtype]:
        return _refused(f"it differs by {distance:.1e}")
    return True


def _refused(why: str) -> bool:
    warnings.warn(f"the attention tangent's GPU kernel is not used, a slower way is: {why}", stacklevel=2)
    return False
