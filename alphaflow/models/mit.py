"""Improved MeanFlow's transformer (MiT, arXiv 2512.02012): what a sample depends on stands among its tokens."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import UserError
from ..guidance_input import guidance_at
from ..network import Network
from ..tangents import Dual, Value, add, cat, linear, linearly, primal, scaled
from ..types import Cond, Direction, Sample, Time
from .blocks import MLP, Attention, Variant, normalised
from .dit_options import LARGEST
from .embeddings import PatchEmbedding, TimeEmbedding, line_rotations
from .patches import as_clips, patch_grid, patch_of

KINDS = {"classes": 8, "omega": 4, "t_min": 2, "t_max": 2, "jump": 4}
"""Tokens of each condition, in their order before the sample's own."""

PARTS = Variant(rms=True, swiglu=True, qk_norm=True, bias=False)


class MiT(Network):
    """A mean velocity u(z, t − r, y, ω) of images (c, h, w): the time itself is not an input, only a jump's length.

    Class, guidance scale ω and interval, and t − r are embedded and added to a few learned tokens each, which stand
    before the image's. Blocks are RMS norms, attention with norms and rotations (RoPE) of query and key, and SwiGLU,
    all without biases, each scaled by a vector that starts at zero; u = 0 at initialisation.

    Args:
        shape: shape of one sample, (c, h, w).
        patch: rows and columns of a patch.
        depth, width, heads: number of blocks, token width, attention heads.
        classes: number of classes; index ``classes`` is the learned 'no class'.
        u_blocks: number of last blocks that only u has; those before them are shared with v.
        velocity_head: blocks of v's own branch, which `ImprovedMeanFlow` trains; 0 for none.

    Raises:
        ValueError: the patch doesn't divide the shape, the heads don't divide the width evenly, or a number is no size.
    """

    offers_tangent = True
    takes_guidance = True
    conditions = ("labels", "guidance")

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        patch: int = 2,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        classes: int = 1000,
        u_blocks: int = 8,
        velocity_head: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "shape": tuple(shape), "patch": patch, "depth": depth, "width": width, "heads": heads, "classes": classes,
            "u_blocks": u_blocks, "velocity_head": velocity_head,
        }  # fmt: skip
        self.patch = patch_of(patch, len(shape))
        grid = patch_grid(shape, self.patch)
        if len(shape) != 3 or grid is None:
            raise ValueError(f"a MiT takes images (c, h, w) that its patch {patch} divides, got {tuple(shape)}")
        if min(depth, width, heads, classes) < 1 or width % heads or (width // heads) % 2:
            raise ValueError(
                f"a MiT has heads of an even width, got width {width}, {heads} heads, depth {depth}, {classes=}"
            )
        if not (0 <= u_blocks <= depth and 0 <= velocity_head <= LARGEST):
            raise ValueError(f"of {depth} blocks 0 to {depth} are u's own, got {u_blocks}, and v's {velocity_head}")
        self.shape, self.classes, self.grid, self.velocity_head = tuple(shape), classes, grid, velocity_head
        self.patches = PatchEmbedding(shape[0], self.patch, width)
        self.embed_class = nn.Embedding(classes + 1, width)
        self.embed = nn.ModuleDict({kind: TimeEmbedding(width) for kind in list(KINDS)[1:]})
        self.tokens = nn.ParameterDict({
            kind: nn.Parameter(torch.randn(count, width) * width**-0.5) for kind, count in KINDS.items()
        })  # fmt: skip
        self.turns: Tensor
        places = sum(KINDS.values()) + grid[1] * grid[2]
        self.register_buffer("turns", line_rotations(places, width // heads), persistent=False)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.final = _Final(width, self.patches.proj.in_features)
        self.velocity_blocks = nn.ModuleList(_Block(width, heads) for _ in range(velocity_head))
        self.velocity_final = _Final(width, self.patches.proj.in_features) if velocity_head else None

    @overload
    def forward(self, z: Sample, r: Time, t: Time, cond: Cond | None = None) -> Sample: ...

    @overload
    def forward(
        self, z: Sample, r: Time, t: Time, cond: Cond | None = None, *, velocity: bool = False, along: Direction
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
        along: Direction | None = None,
    ) -> Any:
        """The mean velocity u (b, c, h, w) of the jump t → r, whose length is all that counts of both times.

        With ``velocity`` (u, v); with ``along`` u's derivative, too (`Network`).

        Raises:
            UserError: samples of another shape, or there is no velocity head.
        """
        if velocity and self.velocity_final is None:
            raise UserError("this MiT has no velocity head: make it with velocity_head=8")
        if tuple(z.shape[1:]) != self.shape:
            raise UserError(f"this MiT takes samples of shape {self.shape}, got {tuple(z.shape[1:])}")
        cond = Cond() if cond is None else cond
        if along is None:
            return self._run(z, t, r, cond, velocity)[0]
        return self._run(Dual(z, along.z), Dual(t, along.t), Dual(r, along.r), cond, velocity)

    def _run(self, z: Value, t: Value, r: Value, cond: Cond, velocity: bool) -> tuple[Any, Tensor | None]:
        tokens = shared = self._sequence(z, t, r, cond)
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, self.turns)
            if number < len(self.blocks) - self.config["u_blocks"]:
                shared = tokens
        u = linearly(self._unpatch, self.final(tokens))
        value, tangent = u if isinstance(u, Dual) else (u, None)
        if not velocity:
            return value, tangent
        assert self.velocity_final is not None
        branch = primal(shared)
        for block in self.velocity_blocks:
            branch = block(branch, self.turns)
        return (value, self._unpatch(self.velocity_final(branch))), tangent

    def _sequence(self, z: Value, t: Value, r: Value, cond: Cond) -> Any:
        """All tokens (b, n, width): those of the conditions, then the image's."""
        now, end = primal(t), primal(r)
        omega, t_min, t_max = guidance_at(cond, end, now)
        embedded: dict[str, Any] = {
            "classes": self.embed_class(cond.class_index(self.config["classes"], now.shape[0], now.device)),
            "omega": self.embed["omega"](1 - 1 / omega),
            "t_min": self.embed["t_min"](t_min),
            "t_max": self.embed["t_max"](t_max),
            "jump": self.embed["jump"](add(t, linearly(torch.neg, r))),
        }

        def spread(kind: str) -> Any:
            each = linearly(lambda x: x[:, None].expand(-1, KINDS[kind], -1), embedded[kind])
            return add(each, self.tokens[kind])

        return cat([*map(spread, KINDS), self.patches(linearly(as_clips, z))], dim=1)

    def __repr__(self) -> str:
        return f"MiT({', '.join(f'{name}={value!r}' for name, value in self.config.items())})"

    def _unpatch(self, tokens: Tensor) -> Tensor:
        """All tokens' patches (b, n, c·p·p) → the image's (b, c, h, w)."""
        (_, p, q), (_, h, w) = self.patch, self.grid
        image = tokens[:, -h * w :]
        return rearrange(image, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=p, q=q)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(PARTS.norm(width) for _ in range(2))
        self.attention = Attention(width, heads, PARTS)
        self.mlp = MLP(width, 4 * width, PARTS)
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, tokens: Value, turns: Tensor) -> Value:
        attended: Value = self.attention(normalised(self.norms[0], tokens), turns)
        tokens = add(tokens, scaled(attended, self.scales[0]))
        transformed: Value = self.mlp(normalised(self.norms[1], tokens))
        return add(tokens, scaled(transformed, self.scales[1]))


class _Final(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.norm = PARTS.norm(width)
        self.out = nn.Linear(width, patch)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Value) -> Value:
        return linear(self.out, normalised(self.norm, tokens))
