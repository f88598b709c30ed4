"""The plain diffusion transformer (DiT, arXiv 2212.09748), with a second time: u(z, r, t, y)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, overload

import torch
from einops import rearrange
from torch import Tensor, nn

from ..tangents import Dual, Value, add, chunk, gated, gelu, layer_norm, linear, linearly, modulate, primal, silu
from ..types import Cond, Sample, Time
from .attention import Attention
from .embeddings import PatchEmbedding, TimeEmbedding, position_embedding
from .recompute import recomputed


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
    """Attention and MLP, each modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Value, c: Value) -> Value:
        """Tokens (b, n, width) and the activated condition c (b, width) → (b, n, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = chunk(linear(self.modulation, c), 6, dim=1)
        attended: Value = self.attention(modulate(layer_norm(self.norm, tokens), shift_a, scale_a))
        tokens = gated(tokens, gate_a, attended)
        transformed: Value = self.mlp(modulate(layer_norm(self.norm, tokens), shift_m, scale_m))
        return gated(tokens, gate_m, transformed)


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
        offers_tangent: it does (`TangentModel`).
        recompute: keep only the blocks' inputs for the backward pass and compute the rest again: less memory.

    Raises:
        ValueError: the patch doesn't divide the shape, the heads don't divide the width, the width is no multiple of 4,
            or a number is below 1.
    """

    offers_tangent: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass with a ``forward`` of its own offers no tangent unless it says so."""
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__ and "offers_tangent" not in cls.__dict__:
            cls.offers_tangent = False

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
        self.positions: Tensor
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
    def forward(self, z: Sample, r: Time, t: Time, cond: Cond | None = None) -> Sample: ...

    @overload
    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: bool = False, along: Sample
    ) -> tuple[Any, Sample]: ...

    @overload
    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: Literal[True], along: None = None
    ) -> tuple[Sample, Sample]: ...

    def forward(
        self,
        z: Sample,
        r: Time,
        t: Time,
        cond: Cond | None = None,
        *,
        velocity: bool = False,
        along: Sample | None = None,
    ) -> Any:
        """The mean velocity u (b, …) of the jump t → r from z (b, …); r, t (b,).

        Args:
            z: samples at time t.
            r: times that the jump ends at.
            t: times of z.
            cond: ``labels`` (b,) if any, ``guidance`` (b, 3) if any.
            velocity: also run the velocity head, and return (u, v) in place of u.
            along: dz/dt of the first n samples (n, …): also return du/dt of these, (n, …), without a graph
                (`TangentModel`).
        """
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"this DiT takes samples of shape {self.shape}, got {tuple(z.shape[1:])}")
        cond = Cond() if cond is None else cond
        if along is None:
            return self._run(z, t, r, cond, velocity)[0]
        return self._run(Dual(z, along), Dual(t, torch.ones_like(t[: len(along)])), r, cond, velocity)

    def _run(self, z: Value, t: Value, r: Time, cond: Cond, velocity: bool) -> tuple[Any, Tensor | None]:
        """The output, u or (u, v), and the tangent of u where there is one."""
        tokens = add(self.patches(linearly(self._as_video, z)), self.positions.to(primal(z).dtype))
        c = silu(self._embed(r, t, cond))
        fork = len(self.blocks) - self.velocity_head
        for block in self.blocks[:fork]:
            tokens = self._through(block, tokens, c)
        shared = tokens
        for block in self.blocks[fork:]:
            tokens = self._through(block, tokens, c)
        u = linearly(self._unpatch, self.final(tokens, c))
        value, tangent = u if isinstance(u, Dual) else (u, None)
        if not velocity:
            return value, tangent
        assert self.velocity_final is not None, "this DiT has no velocity head"
        branch, condition = primal(shared), primal(c)
        for block in self.velocity_blocks:
            branch = self._through(block, branch, condition)
        return (value, self._unpatch(self.velocity_final(branch, condition))), tangent

    def _through(self, block: nn.Module, tokens: Value, c: Value) -> Value:
        if self.recompute and torch.is_grad_enabled():
            return recomputed(block, tokens, c)
        out: Value = block(tokens, c)
        return out

    def _embed(self, r: Time, t: Value, cond: Cond) -> Value:
        """The condition of every block (b, width): times, class, guidance."""
        c: Value = add(self.embed_t(t), self.embed_r(r))
        if self.embed_class is not None and self.classes is not None:
            c = add(c, self.embed_class(cond.class_index(self.classes, r.shape[0], r.device)))
        if self.takes_guidance:
            omega, t_min, t_max = cond.guidance_at(r, primal(t)).unbind(1)
            for embed, value in zip(self.embed_guidance, (1 - 1 / omega, t_min, t_max), strict=True):
                c = add(c, embed(value))
        return c

    def _as_video(self, z: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, 1, h, w)."""
        return z if z.ndim == 5 else z.unsqueeze(2)

    def _unpatch(self, patches: Tensor) -> Tensor:
        """(b, tokens, c·pf·ph·pw) → (b, …) of the samples' shape."""
        (pf, ph, pw), (f, h, w) = self.patch, self.grid
        pattern = "b (f h w) (c pf ph pw) -> b c (f pf) (h ph) (w pw)"
        whole = rearrange(patches, pattern, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)
        return whole.reshape(-1, *self.shape)

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
        for layer in [*modulations, *(module.out for module in self.modules() if isinstance(module, Final))]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

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
