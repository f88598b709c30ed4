"""Embeddings of patches, positions and times."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from ..tangents import Value, linear, linearly, primal, silu, waves

Grid = tuple[int, int, int]
"""Frames, rows and columns; an image has one frame."""


def sincos(positions: Tensor, width: int) -> Tensor:
    """Fixed sine and cosine features of positions: (n,) → (n, width), half sines, half cosines (float64)."""
    frequencies = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def position_embedding(grid: Grid, width: int, trained: Grid | None = None) -> Tensor:
    """The fixed embedding of every patch's place: (frames · rows · columns, width), float32.

    2-D sines and cosines over columns and rows (DiT, arXiv 2212.09748), half the width each; for videos a 1-D embedding
    of the frame is added.

    Args:
        grid: frames, rows and columns of patches.
        width: width of a token.
        trained: the grid that a network knows, None for this one. Another one's places are interpolated on its scale:
            rows and columns see the same picture, patch by patch; more frames are squeezed into the time that was
            trained, fewer (an image is one) are its first.
    """
    frames, rows, columns = grid
    known = trained or grid
    across = sincos(_centres(columns, known[2]), width // 2).expand(rows, columns, -1)
    down = sincos(_centres(rows, known[1]), width // 2)[:, None].expand(rows, columns, -1)
    space = torch.cat([across, down], dim=-1).expand(frames, rows, columns, width)
    time = sincos(_moments(frames, known[0]), width)[:, None, None] if known[0] > 1 else 0
    return (space + time).reshape(-1, width).float()


def _centres(count: int, trained: int) -> Tensor:
    """Where the centres of ``count`` patches lie, as indices of the ``trained`` ones that cover the same length."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (trained / count) - 0.5


def _moments(frames: int, trained: int) -> Tensor:
    """Indices of the trained frames, fractional where there are more."""
    return torch.arange(frames, dtype=torch.float64) * min(1.0, (trained - 1) / max(frames - 1, 1))


def rotations(grid: Grid, size: int, trained: Grid | None = None) -> Tensor:
    """Cosines and sines that rotate a head's queries and keys by their places (RoPE, arXiv 2104.09864), in 2-D.

    The first half of a head turns with the row, the second with the column, pair by pair, by row/10000^(2i/(size/2));
    all frames alike (LightningDiT, arXiv 2501.01423).

    Args:
        grid: frames, rows and columns of patches.
        size: width of a head, a multiple of 4.
        trained: the grid that a network knows, as for `position_embedding`.

    Returns:
        (2, frames · rows · columns, size), float32.
    """
    (frames, rows, columns), known = grid, trained or grid
    rates = 10_000.0 ** -(torch.arange(0, size // 2, 2, dtype=torch.float64) / (size // 2))
    down = (_centres(rows, known[1])[:, None] * rates).repeat_interleave(2, dim=1)[:, None].expand(-1, columns, -1)
    across = (_centres(columns, known[2])[:, None] * rates).repeat_interleave(2, dim=1)[None].expand(rows, -1, -1)
    angles = torch.cat([down, across], dim=-1).reshape(rows * columns, size).repeat(frames, 1)
    turns: Tensor = torch.stack([angles.cos(), angles.sin()]).float()
    return turns


def line_rotations(length: int, size: int) -> Tensor:
    """The same of places on a line, as in language models: (2, length, size), float32."""
    rates = 10_000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = (torch.arange(length, dtype=torch.float64)[:, None] * rates).repeat_interleave(2, dim=1)
    turns: Tensor = torch.stack([angles.cos(), angles.sin()]).float()
    return turns


def rotated(x: Tensor, by: Tensor) -> Tensor:
    """Queries or keys (b, heads, n, size), turned by `rotations` (2, n, size)."""
    cos, sin = by.to(x.dtype)
    quarter = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    turned: Tensor = x * cos + quarter * sin
    return turned


class PatchEmbedding(nn.Module):
    """Cuts samples into patches and maps each to a token: a convolution whose stride is its kernel.

    Written as one matrix product, which is the same and faster on small images.

    Args:
        channels: number of channels of the sample.
        patch: frames, rows and columns of a patch.
        width: width of a token.
        bias: add one to each token; without, zeros give zeros.
    """

    def __init__(self, channels: int, patch: Grid, width: int, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * math.prod(patch), width, bias=bias)

    def forward(self, z: Value) -> Value:
        """(b, c, f, h, w) → (b, tokens, width)."""
        pf, ph, pw = self.patch
        pattern = "b c (f pf) (h ph) (w pw) -> b (f h w) (c pf ph pw)"
        return linear(self.proj, linearly(lambda x: rearrange(x, pattern, pf=pf, ph=ph, pw=pw), z))


class TimeEmbedding(nn.Module):
    """Embeds a time in [0, 1]: 256 sines and cosines, then a two-layer SiLU MLP (DiT, arXiv 2212.09748).

    Args:
        width: width of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(256, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Value) -> Value:
        """(b,) → (b, width)."""
        half, like = self.hidden.in_features // 2, primal(t)
        rates = torch.exp(torch.arange(half, device=like.device, dtype=like.dtype) * (-math.log(10_000.0) / half))
        features = linearly(lambda x: x.to(self.hidden.weight.dtype), waves(t, rates))
        return linear(self.out, silu(linear(self.hidden, features)))
