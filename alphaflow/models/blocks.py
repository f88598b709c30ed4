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
    product,
    rms_norm,
    silu,
)
from .embeddings import rotated


@dataclass(frozen=True)
class Variant:
    """What a block may be made of in place of DiT's own parts; LightningDiT (arXiv 2501.01423) has them.

    Attributes:
        rms: norms by the root mean square, with weights, in place of layer norms without.
        swiglu: SwiGLU MLPs (arXiv 2002.05202), of two thirds the hidden width.
        qk_norm: norms of queries and keys.
        bias: linear layers have one.
    """

    rms: bool = False
    swiglu: bool = False
    qk_norm: bool = False
    bias: bool = True

    def norm(self, width: int, weighted: bool = False) -> nn.LayerNorm | nn.RMSNorm:
        """A norm of tokens; ``weighted``: of queries and keys, with weights in any case."""
        if self.rms:
            return nn.RMSNorm(width, eps=1e-6)
        return nn.LayerNorm(width) if weighted else nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def normalised(layer: nn.Module, x: Value) -> Value:
    """A norm of `Variant`'s, with its tangent."""
    if isinstance(layer, nn.RMSNorm):
        return rms_norm(layer, x)
    assert isinstance(layer, nn.LayerNorm)
    return layer_norm(layer, x)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens.

    Args:
        width: width of a token.
        heads: must divide the width.
        variant: whether there are norms on query and key, and biases.
    """

    def __init__(self, width: int, heads: int, variant: Variant) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got width {width} and {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, variant.bias)
        self.out = nn.Linear(width, width, variant.bias)
        self.norms = nn.ModuleList(variant.norm(width // heads, weighted=True) for _ in range(2 * variant.qk_norm))

    def forward(self, tokens: Value, turns: Tensor | None = None) -> Value:
        """(b, n, width) → (b, n, width); ``turns``: `rotations` of query and key by their places."""
        parts = chunk(linear(self.qkv, tokens), 3, dim=2)
        q, k, v = (linearly(lambda x: rearrange(x, "b n (h d) -> b h n d", h=self.heads), part) for part in parts)
        if self.norms:
            q, k = (normalised(norm, x) for norm, x in zip(self.norms, (q, k), strict=True))
        if turns is not None:
            q, k = (linearly(lambda x: rotated(x, turns), x) for x in (q, k))
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
    """Two linear layers around a tanh-GELU, or around a SiLU that gates."""

    def __init__(self, width: int, hidden: int, variant: Variant) -> None:
        super().__init__()
        self.swiglu = variant.swiglu
        inner = int(2 / 3 * hidden) if self.swiglu else hidden
        self.hidden = nn.Linear(width, 2 * inner if self.swiglu else inner, variant.bias)
        self.out = nn.Linear(inner, width, variant.bias)

    def forward(self, tokens: Value) -> Value:
        """(b, n, width) → (b, n, width)."""
        x: Value = linear(self.hidden, tokens)
        if not self.swiglu:
            return linear(self.out, gelu(x))
        gate, value = chunk(x, 2, dim=2)
        return linear(self.out, product(silu(gate), value))


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
        variant: other parts than DiT's own.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        factorised: bool = False,
        crossed: bool = False,
        variant: Variant | None = None,
    ) -> None:
        super().__init__()
        variant = variant or Variant()
        self.factorised = factorised
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norms = nn.ModuleList(variant.norm(width) for _ in range(2 * variant.rms))
        self.attention = Attention(width, heads, variant)
        self.mlp = MLP(width, int(width * mlp_ratio), variant)
        self.modulation = nn.Linear(width, 6 * width)
        if factorised:
            self.time_attention = Attention(width, heads, variant)
            self.time_modulation = nn.Linear(width, 3 * width)
        self.cross_attention = CrossAttention(width, heads) if crossed else None

    def forward(
        self,
        tokens: Value,
        c: Value,
        frames: int = 1,
        context: Context | None = None,
        turns: Tensor | None = None,
    ) -> Value:
        """Tokens of so many frames (b, n, width) and the activated condition c (b, width) → (b, n, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = chunk(linear(self.modulation, c), 6, dim=1)
        before_a, before_m = self.norms or (self.norm, self.norm)
        still = modulate(normalised(before_a, tokens), shift_a, scale_a)
        attended = (
            _apart(self.attention, still, FRAMES, frames, turns) if self.factorised else self.attention(still, turns)
        )
        tokens = gated(tokens, gate_a, attended)
        if self.factorised and frames > 1:
            shift_t, scale_t, gate_t = chunk(linear(self.time_modulation, c), 3, dim=1)
            moving = modulate(layer_norm(self.norm, tokens), shift_t, scale_t)
            tokens = gated(tokens, gate_t, _apart(self.time_attention, moving, PLACES, frames))
        if self.cross_attention is not None and context is not None:
            tokens = add(tokens, self.cross_attention(layer_norm(self.norm, tokens), context))
        transformed: Value = self.mlp(modulate(normalised(before_m, tokens), shift_m, scale_m))
        return gated(tokens, gate_m, transformed)

    @property
    def starting_at_zero(self) -> list[nn.Linear]:
        """The layers without which the block changes nothing."""
        crossed = [] if self.cross_attention is None else [self.cross_attention.out]
        return [self.modulation, *([self.time_modulation] if self.factorised else []), *crossed]


FRAMES, PLACES = "(b f) n d", "(b n) f d"
"""What `_apart` keeps apart, as einops writes it."""


def _apart(attention: nn.Module, tokens: Value, what: str, frames: int, turns: Tensor | None = None) -> Value:
    """Attention among the tokens (b, frames · n, width) of each frame, or of each place."""
    sizes = {"f": frames, "n": primal(tokens).shape[1] // frames}
    grouped = linearly(lambda x: rearrange(x, f"b (f n) d -> {what}", **sizes), tokens)
    attended: Value = attention(grouped, None if turns is None else turns[:, : sizes["n"]])
    return linearly(lambda x: rearrange(x, f"{what} -> b (f n) d", **sizes), attended)


class Final(nn.Module):
    """The last layer: modulated norm, then a linear map to patches."""

    def __init__(self, width: int, patch: int, variant: Variant) -> None:
        super().__init__()
        self.norm = variant.norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch)

    def forward(self, tokens: Value, c: Value) -> Value:
        """Tokens (b, n, width) and the activated condition c (b, width) → patches (b, n, patch)."""
        shift, scale = chunk(linear(self.modulation, c), 2, dim=1)
        return linear(self.out, modulate(normalised(self.norm, tokens), shift, scale))
