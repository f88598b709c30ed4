"""Self-attention."""

from __future__ import annotations

from einops import rearrange
from torch import nn

from ..tangents import Value, attention, chunk, linear, linearly


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: biased query, key and value, no norms on them.

    Args:
        width: of a token.
        heads: must divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got width {width} and {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Value) -> Value:
        """(b, n, width) → (b, n, width)."""
        parts = chunk(linear(self.qkv, tokens), 3, dim=2)
        q, k, v = (linearly(lambda x: rearrange(x, "b n (h d) -> b h n d", h=self.heads), part) for part in parts)
        mixed = linearly(lambda x: rearrange(x, "b h n d -> b n (h d)"), attention(q, k, v))
        return linear(self.out, mixed)
