"""The plain diffusion transformer (DiT, arXiv 2212.09748), with a second time: u(z, r, t, y)."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..types import Cond, Sample, Time
from .attention import Attention
from .embeddings import PatchEmbedding, TimeEmbedding, position_embedding


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """tokens·(1 + scale) + shift, for tokens (b, n, d) and shift, scale (b, d)."""
    return torch.addcmul(shift[:, None], tokens, 1 + scale[:, None])


class MLP(nn.Module):
    """Two linear layers around a tanh-GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, n, width) → (b, n, width)."""
        out: Tensor = self.out(F.gelu(self.hidden(tokens), approximate="tanh"))
        return out


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, c: Tensor) -> Tensor:
        """Tokens (b, n, width) and the activated condition c (b, width) → (b, n, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=1)
        attended = self.attention(modulate(self.norm(tokens), shift_a, scale_a))
        tokens = torch.addcmul(tokens, gate_a[:, None], attended)
        return torch.addcmul(tokens, gate_m[:, None], self.mlp(modulate(self.norm(tokens), shift_m, scale_m)))


class Final(nn.Module):
    """The last layer: modulated norm, then a linear map to patches."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch)

    def forward(self, tokens: Tensor, c: Tensor) -> Tensor:
        """Tokens (b, n, width) and the activated condition c (b, width) → patches (b, n, patch)."""
        shift, scale = self.modulation(c).chunk(2, dim=1)
        patches: Tensor = self.out(modulate(self.norm(tokens), shift, scale))
        return patches


class DiT(nn.Module):
    """A DiT over images (c, h, w) or videos (c, f, h, w) that predicts a mean velocity u(z, r, t, y).

    Patches, a fixed sine-cosine position embedding, adaLN-Zero blocks conditioned on the sum of the embeddings of t,
    r and the class, a zero-initialised last layer: u = 0 at initialisation. All tokens of a video attend to each other.

    Args:
        shape: of one sample, (c, h, w) or (c, f, h, w).
        patch: rows and columns of a patch, or (rows, columns), or (frames, rows, columns).
        depth, width, heads: number of blocks, token width (a multiple of 4), attention heads.
        classes: number of classes; None for an unconditional network. Index ``classes`` is the learned 'no class'.
        mlp_ratio: hidden width of the MLPs ÷ width.
        guidance: the scale ω and the interval of guidance are inputs, ``cond.guidance`` (b, 3); without one ω = 1
            (`GuidanceInputs`). ω is embedded as 1 − 1/ω.
        velocity_head: blocks of a second branch, beside the last ones, that predicts the instantaneous velocity for
            `ImprovedMeanFlow`; sampling doesn't run it. 0 for none.

    Attributes:
        recompute: keep only the blocks' inputs for the backward pass and compute the rest again: less memory.

    Raises:
        ValueError: the patch doesn't divide the shape, the heads don't divide the width, the width is no multiple of 4,
            or a number is below 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        patch: int | tuple[int, ...] = 2,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        classes: int | None = None,
        mlp_ratio: float = 4.0,
        guidance: bool = False,
        velocity_head: int = 0,
    ) -> None:
        super().__init__()
        self.recompute = False
        self.config: dict[str, Any] = {
            "shape": tuple(shape), "patch": patch, "depth": depth, "width": width,
            "heads": heads, "classes": classes, "mlp_ratio": mlp_ratio,
            "guidance": guidance, "velocity_head": velocity_head,
        }  # fmt: skip
        if len(shape) not in (3, 4):
            raise ValueError(f"a DiT's shape is (c, h, w) or (c, f, h, w), got {tuple(shape)}")
        if min(depth, width, heads, classes or 1, *shape) < 1:
            raise ValueError(f"depth, width, heads, classes and shape must be at least 1, got {self.config}")
        if width % 4:
            raise ValueError(f"the width must be a multiple of 4 for the position embedding, got {width}")
        if not 0 <= velocity_head <= depth:
            raise ValueError(f"the velocity head has 0 to {depth} (depth) blocks, got {velocity_head}")
        self.shape, self.classes = tuple(shape), classes
        self.takes_guidance, self.velocity_head = guidance, velocity_head
        channels, *size = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
        self.patch = _three(patch)
        if any(n % p for n, p in zip(size, self.patch, strict=True)):
            raise ValueError(f"the patch {patch} doesn't divide the sample's shape {tuple(shape)}")
        frames, rows, columns = (n // p for n, p in zip(size, self.patch, strict=True))
        self.grid = (frames, rows, columns)

        self.patches = PatchEmbedding(channels, self.patch, width)
        self.register_buffer("positions", position_embedding(self.grid, width), persistent=False)
        self.embed_t = TimeEmbedding(width)
        self.embed_r = TimeEmbedding(width)
        self.embed_class = None if classes is None else nn.Embedding(classes + 1, width)
        self.embed_guidance = nn.ModuleList(TimeEmbedding(width) for _ in range(3 if guidance else 0))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final = Final(width, self.patches.proj.in_features)
        self.velocity_blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(velocity_head))
        self.velocity_final = Final(width, self.patches.proj.in_features) if velocity_head else None
        self._initialise()

    @overload
    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: Literal[False] = False
    ) -> Sample: ...

    @overload
    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: Literal[True]
    ) -> tuple[Sample, Sample]: ...

    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: bool = False
    ) -> Sample | tuple[Sample, Sample]:
        """The mean velocity u (b, …) of the jump t → r from z (b, …); r, t (b,).

        Args:
            z: samples at time t.
            r: times that the jump ends at.
            t: times of z.
            cond: ``labels`` (b,) if any, ``guidance`` (b, 3) if any.
            velocity: also run the velocity head, and return (u, v).
        """
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"this DiT takes samples of shape {self.shape}, got {tuple(z.shape[1:])}")
        cond = Cond() if cond is None else cond
        tokens = self.patches(z if z.ndim == 5 else z.unsqueeze(2)) + self.positions.to(z.dtype)
        c = F.silu(self._embed(r, t, cond))
        fork = len(self.blocks) - self.velocity_head
        for block in self.blocks[:fork]:
            tokens = self._through(block, tokens, c)
        shared = tokens
        for block in self.blocks[fork:]:
            tokens = self._through(block, tokens, c)
        u = self._unpatch(self.final(tokens, c)).view_as(z)
        if not velocity:
            return u
        assert self.velocity_final is not None, "this DiT has no velocity head"
        for block in self.velocity_blocks:
            shared = self._through(block, shared, c)
        return u, self._unpatch(self.velocity_final(shared, c)).view_as(z)

    def _through(self, block: nn.Module, tokens: Tensor, c: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, tokens, c, use_reentrant=False)
        else:
            out = block(tokens, c)
        return out

    def _embed(self, r: Time, t: Time, cond: Cond) -> Tensor:
        """The condition of every block (b, width): times, class, guidance."""
        c: Tensor = self.embed_t(t) + self.embed_r(r)
        if self.embed_class is not None and self.classes is not None:
            c = c + self.embed_class(cond.class_index(self.classes, t.shape[0], t.device))
        if self.takes_guidance:
            omega, t_min, t_max = cond.guidance_at(r, t).unbind(1)
            for embed, value in zip(self.embed_guidance, (1 - 1 / omega, t_min, t_max), strict=True):
                c = c + embed(value)
        return c

    def _unpatch(self, patches: Tensor) -> Tensor:
        """(b, tokens, c·pf·ph·pw) → (b, c, f, h, w)."""
        (pf, ph, pw), (f, h, w) = self.patch, self.grid
        pattern = "b (f h w) (c pf ph pw) -> b c (f pf) (h ph) (w pw)"
        return rearrange(patches, pattern, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)

    def _initialise(self) -> None:
        """Xavier-uniform linears, N(0, 0.02²) embeddings, zero for every modulation and for the last layer."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedding in self.modules():
            if isinstance(embedding, TimeEmbedding):
                nn.init.normal_(embedding.hidden.weight, std=0.02)
                nn.init.normal_(embedding.out.weight, std=0.02)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=0.02)
        modulations = [module.modulation for module in self.modules() if isinstance(module, Block | Final)]
        for linear in [*modulations, *(module.out for module in self.modules() if isinstance(module, Final))]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def __repr__(self) -> str:
        shape, *rest = self.config.items()
        given = [f"{name}={value}" for name, value in rest if value or name not in ("guidance", "velocity_head")]
        return f"DiT({shape[1]}, {', '.join(given)})"

    @classmethod
    def S(cls, shape: tuple[int, ...], **options: Any) -> DiT:
        """DiT-S: depth 12, width 384, 6 heads. Options: ``patch``, ``classes``, ``mlp_ratio``."""
        return cls(shape, depth=12, width=384, heads=6, **options)

    @classmethod
    def B(cls, shape: tuple[int, ...], **options: Any) -> DiT:
        """DiT-B: depth 12, width 768, 12 heads; 131M parameters at patch 2 on (4, 32, 32) with 1000 classes."""
        return cls(shape, depth=12, width=768, heads=12, **options)

    @classmethod
    def L(cls, shape: tuple[int, ...], **options: Any) -> DiT:
        """DiT-L: depth 24, width 1024, 16 heads; 459M parameters at patch 2 on (4, 32, 32) with 1000 classes."""
        return cls(shape, depth=24, width=1024, heads=16, **options)

    @classmethod
    def XL(cls, shape: tuple[int, ...], **options: Any) -> DiT:
        """DiT-XL: depth 28, width 1152, 16 heads; 676M parameters at patch 2 on (4, 32, 32) with 1000 classes."""
        return cls(shape, depth=28, width=1152, heads=16, **options)


def _three(patch: int | tuple[int, ...]) -> tuple[int, int, int]:
    if isinstance(patch, int):
        return 1, patch, patch
    if len(patch) not in (2, 3):
        raise ValueError(f"a patch is n, (rows, columns) or (frames, rows, columns), got {patch}")
    pf, ph, pw = patch if len(patch) == 3 else (1, *patch)
    return pf, ph, pw
