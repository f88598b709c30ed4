"""The Triton kernel in Triton's interpreter, on the CPU: prints the largest error of each case. TRITON_INTERPRET=1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphaflow.tangents.triton_attention import kernel_tangent


def main() -> None:
    for d, tokens, dtype in [
        (64, 150, torch.float32),
        (72, 150, torch.float32),
        (16, 7, torch.float32),
        (8, 40, torch.float32),
        (128, 70, torch.float32),
        (72, 150, torch.float16),
    ]:
        generator = torch.Generator().manual_seed(d)
        # as a network has them: q, k, v and the heads beside each other in one tensor
        values, tangents = (torch.randn(2, tokens, 3, 2, d, generator=generator).to(dtype) for _ in range(2))
        q, k, v = values.permute(2, 0, 3, 1, 4).unbind(0)
        dq, dk, dv = tangents.permute(2, 0, 3, 1, 4).unbind(0)
        with sdpa_kernel(SDPBackend.MATH):
            out, wanted = torch.func.jvp(
                F.scaled_dot_product_attention,
                tuple(x.double() for x in (q, k, v)),
                tuple(x.double() for x in (dq, dk, dv)),
            )
        found = kernel_tangent(q, k, v, out.to(dtype), dq, dk, dv)
        strange = kernel_tangent(q, k.contiguous(), v, out.to(dtype), dq, dk, dv)  # strides that differ are made alike
        assert torch.equal(found, strange)
        print(d, tokens, str(dtype), float((found.double() - wanted).norm() / wanted.norm()))


main()
