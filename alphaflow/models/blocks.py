"""The layers of a DiT between its embeddings and its patches, each with its tangent."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from ..tangents import (
    Value,
    add,
    attention,
    chunk,
    cross_attention,
    gated,
    gelu,
    layer_norm,
    linear,
    linearly,
    modulate,
    primal,
)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: biased query, key and value, no norms on them.

    Args:
        width: width of a token.
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


@dataclass(frozen=True)
class Context:
    """What tokens are told by cross-attention: other tokens (b, n, width), and which there are, (b, n)."""

    tokens: Tensor
    mask: Tensor


class CrossAttention(nn.Module):
    """Multi-head attention from a sample's tokens to a context's, which don't change along the path.

    Args:
        width: width of a token, of both.
        heads: must divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Value, context: Context) -> Value:
        """(b, tokens, width) → (b, tokens, width)."""

        def split(x: Tensor) -> Tensor:
            return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

        k, v = map(split, self.key_value(context.tokens).chunk(2, dim=2))
        mixed = cross_attention(linearly(split, linear(self.query, tokens)), k, v, context.mask)
        return linear(self.out, linearly(lambda x: rearrange(x, "b h n d -> b n (h d)"), mixed))


class MLP(nn.Module):
    """Two linear layers around a tanh-GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, tokens: Value) -> Value:
        """(b, n, width) → (b, n, width)."""
        return linear(self.out, gelu(linear(self.hidden, tokens)))


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the condition (adaLN-Zero).

    Args:
        width: width of a token.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP ÷ width.
        factorised: attention within each frame, then across frames at each place, with modulation and gate of its own,
            instead of over all tokens (ViViT's model 3, arXiv 2103.15691; TimeSformer, arXiv 2102.05095). At
            initialisation the second does nothing, and on an image it is left out.
        crossed: cross-attention to a context between attention and MLP; at initialisation it does nothing.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, factorised: bool = False, crossed: bool = False
    ) -> None:
        super().__init__()
        self.factorised = factorised
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width)
        if factorised:
            self.time_attention = Attention(width, heads)
            self.time_modulation = nn.Linear(width, 3 * width)
        self.cross_attention = CrossAttention(width, heads) if crossed else None

    def forward(self, tokens: Value, c: Value, frames: int = 1, context: Context | None = None) -> Value:
        """Tokens of so many frames (b, n, width) and the activated condition c (b, width) → (b, n, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = chunk(linear(self.modulation, c), 6, dim=1)
        still = modulate(layer_norm(self.norm, tokens), shift_a, scale_a)
        attended = _apart(self.attention, still, FRAMES, frames) if self.factorised else self.attention(still)
        tokens = gated(tokens, gate_a, attended)
        if self.factorised and frames > 1:
            shift_t, scale_t, gate_t = chunk(linear(self.time_modulation, c), 3, dim=1)
            moving = modulate(layer_norm(self.norm, tokens), shift_t, scale_t)
            tokens = gated(tokens, gate_t, _apart(self.time_attention, moving, PLACES, frames))
        if self.cross_attention is not None and context is not None:
            tokens = add(tokens, self.cross_attention(layer_norm(self.norm, tokens), context))
        transformed: Value = self.mlp(modulate(layer_norm(self.norm, tokens), shift_m, scale_m))
        return gated(tokens, gate_m, transformed)

    @property
    def starting_at_zero(self) -> list[nn.Linear]:
        """The layers without which the block changes nothing."""
        crossed = [] if self.cross_attention is None else [self.cross_attention.out]
        return [self.modulation, *([self.time_modulation] if self.factorised else []), *crossed]


FRAMES, PLACES = "(b f) n d", "(b n) f d"
"""What `_apart` keeps apart, as einops writes it."""


def _apart(attention: nn.Module, tokens: Value, what: str, frames: int) -> Value:
    """Attention among the tokens (b, frames · n, width) of each frame, or of each place."""
    sizes = {"f": frames, "n": primal(tokens).shape[1] // frames}
    grouped = linearly(lambda x: rearrange(x, f"b (f n) d -> {what}", **sizes), tokens)
    attended: Value = attention(grouped)
    return linearly(lambda x: rearrange(x, f"{what} -> b (f n) d", **sizes), attended)


class Final(nn.Module):
    """The last layer: modulated norm, then a linear map to patches."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch)

    def forward(self, tokens: Value, c: Value) -> Value:
        """Tokens (b, n, width) and the activated condition c (b, width) → patches (b, n, patch)."""
        shift, scale = chunk(linear(self.modulation, c), 2, dim=1)
        return linear(self.out, modulate(layer_norm(self.norm, tokens), shift, scale))
