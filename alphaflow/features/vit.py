"""The vision transformer of DINOv2 (images) and VideoMAE-v2 (clips), under the names that their files use.

Pre-norm blocks, exact GELU, layer norms with ε = 1e-6. Sizes are read from the weights, so that any file of the family
loads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class DINOv2(nn.Module):
    """DINOv2's ViT (arXiv 2304.07193), patches of 14 pixels, heads of 64: images (b, 3, h, w) → (b, width).

    The feature is the class token after the last norm. Position embeddings are resized bicubically as the published
    code does: by the factor (patches + 0.1) ÷ 37, not to a size.

    Args:
        weights: a state dict of the published form, with an ordinary MLP (S, B, L).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        positions, width = weights["pos_embed"].shape[1:]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of training; the files hold it
        self.patch_embed = _Patches(nn.Conv2d(3, width, 14, stride=14))
        self.blocks = _blocks(weights, heads=width // 64)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.load_state_dict(dict(weights))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, 3, h, w), normalised, sides multiples of 14."""
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), 1, -1), tokens], dim=1)
        tokens = tokens + self._positions(x.shape[2] // 14, x.shape[3] // 14)
        out: Tensor = self.norm(self.blocks(tokens))[:, 0]
        return out

    def _positions(self, rows: int, columns: int) -> Tensor:
        own, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = round(grid.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return self.pos_embed
        picture = rearrange(grid, "1 (h w) d -> 1 d h w", h=side)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        resized = F.interpolate(picture, scale_factor=factors, mode="bicubic", antialias=False)
        assert resized.shape[2:] == (rows, columns)
        return torch.cat([own, resized.flatten(2).transpose(1, 2)], dim=1)


class VideoMAE(nn.Module):
    """VideoMAE-v2's ViT (arXiv 2303.16727), 16 heads, tubes of 2 frames: clips (b, 3, f, h, w) → (b, width).

    The feature is the norm of the tokens' mean, as content-debiased FVD takes it (arXiv 2404.12391).

    Args:
        weights: a state dict of the published fine-tuned form.
    """

    HEADS = 16

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, _, frames, rows, columns = weights["patch_embed.proj.weight"].shape
        size = (frames, rows, columns)
        self.patch_embed = _Patches(nn.Conv3d(3, width, size, stride=size))
        self.blocks = _blocks(weights, heads=self.HEADS)
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.load_state_dict({name: value for name, value in weights.items() if not name.startswith("head.")})

    def forward(self, x: Tensor) -> Tensor:
        """Clips (b, 3, f, h, w)."""
        tokens = self.patch_embed(x)
        tokens = tokens + _sinusoids(*tokens.shape[1:]).to(tokens)
        out: Tensor = self.fc_norm(self.blocks(tokens).mean(1))
        return out


class _Patches(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    """Self-attention; biases for q, k and v, or, where the file has them apart, for q and v."""

    def __init__(self, width: int, heads: int, apart: bool) -> None:
        super().__init__()
        self.heads, self.apart = heads, apart
        self.qkv = nn.Linear(width, 3 * width, bias=not apart)
        if apart:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor = self.qkv.bias
        if self.apart:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, scaled: bool, apart: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads, apart), _MLP(width, hidden)
        self.ls1, self.ls2 = (_Scale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


def _blocks(weights: Mapping[str, Tensor], heads: int) -> nn.Sequential:
    """As many blocks as the weights are for, of their sizes."""
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    scaled, apart = "blocks.0.ls1.gamma" in weights, "blocks.0.attn.q_bias" in weights
    return nn.Sequential(*(_Block(width, heads, hidden, scaled, apart) for _ in range(depth)))


def _sinusoids(tokens: int, width: int) -> Tensor:
    """Position embeddings (1, tokens, width): sin and cos in turn (arXiv 1706.03762, section 3.5)."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    angle = position / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[None]
