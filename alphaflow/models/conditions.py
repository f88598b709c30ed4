"""What a DiT makes of its conditions beside classes: vectors, tokens, and images of the sample's size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..types import Cond, Sample
from .blocks import Context
from .embeddings import sincos


class VectorEmbedding(nn.Module):
    """Embeds numbers that belong to the whole sample by a two-layer SiLU MLP; zeros stand for none.

    Args:
        size: how many.
        width: width of the embedding.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, width)
        self.out = nn.Linear(width, width)

    def forward(self, cond: Cond, like: Tensor) -> Tensor:
        """``cond.vector`` (b, size) → (b, width); of ``like`` (b, …), which has as many samples and a precision."""
        size = self.hidden.in_features
        vector = cond.tensors.get("vector")
        if vector is None:
            vector = like.new_zeros(like.shape[0], size)
        if vector.shape != (like.shape[0], size):
            raise UserError(f"this DiT takes cond.vector (b, {size}), got {tuple(vector.shape)}")
        embedded: Tensor = self.out(F.silu(self.hidden(vector.to(self.hidden.weight.dtype))))
        return embedded


class TokenEmbedding(nn.Module):
    """Embeds tokens, for cross-attention: features through a norm and a linear map, indices by a table.

    Sines and cosines of their places are added. Before the tokens stands a learned one, which is always there: all that
    is left of a sample whose tokens were dropped.

    Args:
        width: width of the embedding.
        features: width of the tokens, where they are features; None for indices.
        vocabulary: number of indices; None for features.
    """

    def __init__(self, width: int, features: int | None, vocabulary: int | None) -> None:
        super().__init__()
        self.features, self.vocabulary = features, vocabulary
        self.embed: nn.Module
        if features is not None:
            self.embed = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width))
        else:
            assert vocabulary is not None
            self.embed = nn.Embedding(vocabulary, width)  # N(0, 1): as large as the places' sines and cosines
        self.none = nn.Parameter(torch.zeros(width))

    def forward(self, cond: Cond, like: Tensor) -> Context:
        """``cond.tokens`` (b, n, features) or (b, n), of which ``cond.mask`` (b, n) says which are there."""
        tokens, mask = cond.tensors.get("tokens"), cond.tensors.get("mask")
        none = self.none.expand(like.shape[0], 1, -1)
        there = torch.ones(like.shape[0], 1, dtype=torch.bool, device=like.device)
        if tokens is None or mask is None:
            return Context(none, there)
        self._check(tokens, mask)
        whole = mask if tokens.ndim == 2 else mask[:, :, None]
        tokens = tokens.masked_fill(~whole, 0)  # whatever stands in what isn't there, NaN too
        embedded = self.embed(tokens.long() if self.features is None else tokens.to(self.none.dtype))
        places = sincos(torch.arange(tokens.shape[1]), self.none.shape[0]).to(embedded)
        return Context(torch.cat([none.to(embedded.dtype), embedded + places], dim=1), torch.cat([there, mask], dim=1))

    def _check(self, tokens: Tensor, mask: Tensor) -> None:
        if self.features is not None and (tokens.ndim != 3 or tokens.shape[2] != self.features):
            raise UserError(f"this DiT takes cond.tokens (b, n, {self.features}), got {tuple(tokens.shape)}")
        if self.vocabulary is None:
            return
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise UserError(
                f"this DiT takes cond.tokens (b, n), indices below {self.vocabulary}, got {tokens.dtype} "
                f"{tuple(tokens.shape)}"
            )
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere asking would cost a wait
            wrong = ((tokens < 0) | (tokens >= self.vocabulary)) & mask
            if bool(wrong.any()):
                sample, place = wrong.nonzero()[0].tolist()
                raise UserError(
                    f"token {int(tokens[sample, place])} of sample {sample}, at place {place}, is out of range: this "
                    f"DiT's vocabulary is 0 to {self.vocabulary - 1}"
                )


def image_of(cond: Cond, channels: int, z: Sample) -> Tensor | None:
    """``cond.image`` (b, channels, …) of the samples' size, in z's precision; None where there is none.

    Raises:
        ValueError: it is of another size.
    """
    image = cond.tensors.get("image")
    if image is not None and image.shape != (z.shape[0], channels, *z.shape[2:]):
        raise UserError(
            f"this DiT takes cond.image (b, {channels}, …) of its samples' size {tuple(z.shape[2:])}, "
            f"got {tuple(image.shape)}"
        )
    return None if image is None else image.to(z.dtype)
