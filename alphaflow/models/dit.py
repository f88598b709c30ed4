"""The plain diffusion transformer (DiT, arXiv 2212.09748), with the length of a jump beside its time: u(z, r, t, y)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, overload

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import UserError
from ..flow import expand_like
from ..guidance_input import guidance_at
from ..network import Network
from ..tangents import Dual, Value, add, linearly, primal, silu
from ..types import Cond, Direction, Sample, Time
from .blocks import Block, Context, Final, Variant
from .conditions import TokenEmbedding, VectorEmbedding, image_of
from .dit_options import check_options, conditions_of
from .embeddings import Grid, PatchEmbedding, TimeEmbedding, position_embedding, rotations
from .inflation import IMAGE, INPUT, inflated, without_jump
from .patches import as_clips, patch_grid, patch_of
from .recompute import recomputed


class DiT(Network):
    """A DiT over images (c, h, w), videos (c, f, h, w) or sequences (c, length): a mean velocity u(z, r, t, y).

    Patches, a fixed sine-cosine position embedding, adaLN-Zero blocks conditioned on the sum of the embeddings of t, of
    t − r and of the class, a zero-initialised last layer: u = 0 at initialisation. All tokens of a video attend to each
    other. The second time is the length of the jump, t − r, as in the networks of MeanFlow (arXiv 2505.13447) and of
    α-Flow (arXiv 2510.20771).
    Samples of other lengths and sizes than ``shape`` are taken too, with interpolated positions
    (`position_embedding`); a network of videos whose patches are of one frame takes images (c, h, w) as single frames.
    A sequence is a video of single places.

    Conditions (`Cond` has their shapes): a class and a vector are added to the embeddings of the times; each block
    attends to tokens, which costs less than taking them in among the sample's own, and leaves these their fused
    kernels; an image is cut into patches, whose embeddings are added to the sample's, which is concatenating both
    before the patches are embedded. What is absent counts as dropped.

    Args:
        shape: shape of one sample, (c, h, w), (c, f, h, w) or (c, length).
        patch: rows and columns of a patch, or (rows, columns), or, of videos, (frames, rows, columns); of sequences
            their length.
        depth, width, heads: number of blocks, token width (a multiple of 4), attention heads.
        classes: number of classes; None for an unconditional network. Index ``classes`` is the learned 'no class'.
        mlp_ratio: hidden width of the MLPs ÷ width.
        vector: size of ``cond.vector``; None for a network that takes none. Likewise the next three:
        tokens: width of ``cond.tokens`` that are features.
        vocabulary: number of different ``cond.tokens`` that are indices.
        image: channels of ``cond.image``.
        guidance: the scale ω and the interval of guidance are inputs, ``cond.guidance`` (b, 3); without one ω = 1
            (`GuidanceInputs`). ω is embedded as 1 − 1/ω. ``"scaled"``: and u is multiplied by ω (`TerminalVelocity`).
        late: only the last blocks, so many, and the last layer see t − r; the others see a jump of length 0, as where
            r = t (decoupled MeanFlow, arXiv 2510.24474): they do at r < t what a flow model's do. None for all blocks.
        velocity_head: blocks of a second branch, beside the last ones, that predicts the instantaneous velocity for
            `ImprovedMeanFlow`; sampling doesn't run it. 0 for none.
        factorised: of videos: each block attends within frames, then across them at each place (`Block`), in place of
            all tokens at once.
        rms_norm, swiglu, qk_norm: other parts of blocks than DiT's own (`Variant`).
        rope: queries and keys are rotated by their places, too (`rotations`).

    Attributes:
        offers_tangent: it does (`Network`).
        recompute: keep only the blocks' inputs for the backward pass and compute the rest again: less memory.

    Raises:
        ValueError: the patch doesn't divide the shape, the heads don't divide the width, the width is not a multiple of
            4, a number is below 1, or what is for videos is given for images.
    """

    offers_tangent = True
    static_graph: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass with a ``forward`` of its own offers no tangent unless it says so, and may use any weights."""
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:
            for name in ("offers_tangent", "static_graph"):
                setattr(cls, name, cls.__dict__.get(name, False))

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        patch: int | tuple[int, ...] = 2,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        classes: int | None = None,
        vector: int | None = None,
        tokens: int | None = None,
        vocabulary: int | None = None,
        image: int | None = None,
        mlp_ratio: float = 4.0,
        guidance: bool | Literal["scaled"] = False,
        late: int | None = None,
        velocity_head: int = 0,
        factorised: bool = False,
        rms_norm: bool = False,
        swiglu: bool = False,
        qk_norm: bool = False,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = False
        self.config: dict[str, Any] = {
            "shape": tuple(shape), "patch": patch, "depth": depth, "width": width,
            "heads": heads, "classes": classes, "vector": vector, "tokens": tokens, "vocabulary": vocabulary,
            "image": image, "mlp_ratio": mlp_ratio,
            "guidance": guidance, "late": late, "velocity_head": velocity_head, "factorised": factorised,
            "rms_norm": rms_norm, "swiglu": swiglu, "qk_norm": qk_norm, "rope": rope,
        }  # fmt: skip
        check_options(**self.config)
        self.shape, self.classes = tuple(shape), classes
        self.takes_guidance, self.velocity_head = bool(guidance), velocity_head
        self.late = depth if late is None else late
        crossed = tokens is not None or vocabulary is not None
        self.conditions = conditions_of(**self.config)
        self.patch = patch_of(patch, len(shape))
        grid = patch_grid(shape, self.patch)
        if grid is None:
            raise ValueError(f"the patch {patch} doesn't divide the sample's shape {tuple(shape)}")
        self.grid = grid
        self._make_embeddings()
        self._make_blocks(crossed)
        self._initialise()

    def _make_embeddings(self) -> None:
        channels, width, heads, classes, vector, image, rope = (
            self.config[name] for name in ("shape", "width", "heads", "classes", "vector", "image", "rope")
        )
        tokens, vocabulary = self.config["tokens"], self.config["vocabulary"]
        self.patches = PatchEmbedding(channels[0], self.patch, width)
        self.image_patches = None if image is None else PatchEmbedding(image, self.patch, width, bias=False)
        self.positions: Tensor
        self.register_buffer("positions", position_embedding(self.grid, width), persistent=False)
        self.turns: Tensor | None
        self.register_buffer("turns", rotations(self.grid, width // heads) if rope else None, persistent=False)
        self.embed_t = TimeEmbedding(width)
        self.embed_jump = TimeEmbedding(width)
        self.embed_class = None if classes is None else nn.Embedding(classes + 1, width)
        self.embed_vector = None if vector is None else VectorEmbedding(vector, width)
        self.embed_tokens = None if tokens is None and vocabulary is None else TokenEmbedding(width, tokens, vocabulary)
        self.embed_guidance = nn.ModuleList(TimeEmbedding(width) for _ in range(3 if self.takes_guidance else 0))

    def _make_blocks(self, crossed: bool) -> None:
        width, heads, ratio, factorised = (self.config[k] for k in ("width", "heads", "mlp_ratio", "factorised"))
        variant = Variant(*(self.config[name] for name in ("rms_norm", "swiglu", "qk_norm")))

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, heads, ratio, factorised, crossed, variant) for _ in range(count))

        self.blocks = blocks(self.config["depth"])
        self.final = Final(width, self.patches.proj.in_features, variant)
        self.velocity_blocks = blocks(self.velocity_head)
        self.velocity_final = Final(width, self.patches.proj.in_features, variant) if self.velocity_head else None

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
        """The mean velocity u (b, …) of the jump t → r from z (b, …); r, t (b,).

        Args:
            z: samples at time t.
            r: times that the jump ends at.
            t: times of z.
            cond: the conditions that it takes, or some of them.
            velocity: also run the velocity head, and return (u, v) in place of u.
            along: a direction (dz, dr, dt) of the first n samples: also return u's derivative in it, (n, …), without
                a graph (`Network`).

        Raises:
            ValueError: a condition that this network doesn't take, or of another shape, or samples that its patches
                don't divide. (Labels are passed over by a network without classes.)
        """
        cond = Cond() if cond is None else cond
        takes: tuple[str, ...] = self.conditions or ()
        strange = [name for name in sorted(cond.tensors) if name not in ("labels", *takes)]
        if strange:
            listed = " and ".join(takes) or "no condition"
            raise UserError(f"this DiT takes {listed}, not {strange[0]!r}")
        if along is None:
            return self._run(z, t, r, cond, velocity)[0]
        return self._run(Dual(z, along.z), Dual(t, along.t), Dual(r, along.r), cond, velocity)

    def _run(self, z: Value, t: Value, r: Value, cond: Cond, velocity: bool) -> tuple[Any, Tensor | None]:
        """The output, u or (u, v), and the tangent of u where there is one."""
        grid, like = self._grid_of(primal(z)), primal(z)
        tokens = add(self.patches(linearly(as_clips, z)), self._positions_of(grid).to(like.dtype))
        if self.image_patches is not None and (image := image_of(cond, self.config["image"], like)) is not None:
            tokens = add(tokens, self.image_patches(as_clips(image)))
        context = None if self.embed_tokens is None else self.embed_tokens(cond, like)
        c = silu(self._embed(r, t, cond))
        early, fork = len(self.blocks) - self.late, len(self.blocks) - self.velocity_head
        timed = silu(self._embed(r, t, cond, jump=False)) if early else c
        shared = tokens
        for number, block in enumerate(self.blocks):
            tokens = self._through(block, tokens, timed if number < early else c, grid, context)
            if number < fork:
                shared = tokens
        u = linearly(lambda patches: self._unpatch(patches, grid).view(-1, *like.shape[1:]), self.final(tokens, c))
        if self.config["guidance"] == "scaled":
            omega = expand_like(guidance_at(cond, primal(r), primal(t))[0], like)
            u = linearly(lambda x: x * omega[: x.shape[0]], u)
        value, tangent = u if isinstance(u, Dual) else (u, None)
        if not velocity:
            return value, tangent
        assert self.velocity_final is not None, "this DiT has no velocity head"
        branch, condition = primal(shared), primal(c)
        for block in self.velocity_blocks:
            branch = self._through(block, branch, condition, grid, context)
        v = self._unpatch(self.velocity_final(branch, condition), grid)
        return (value, v.view_as(like)), tangent

    def _through(self, block: nn.Module, tokens: Value, c: Value, grid: Grid, context: Context | None) -> Value:
        turns = self._turns_of(grid)
        if self.recompute and torch.is_grad_enabled():
            return recomputed(block, tokens, c, grid[0], context, turns)
        out: Value = block(tokens, c, grid[0], context, turns)
        return out

    def _grid_of(self, z: Tensor) -> Grid:
        """Frames, rows and columns of the samples' patches."""
        dims = (len(self.shape) + 1, 4) if len(self.shape) == 4 else (len(self.shape) + 1,)
        fits = z.ndim in dims and z.shape[1] == self.shape[0]
        grid = patch_grid(z.shape[1:], self.patch) if fits else None
        if grid is not None and grid[0] > 1 == self.grid[0]:
            raise ValueError(f"this DiT knows one patch in time only, of {self.patch[0]} frames, got {z.shape[2]}")
        if grid is None:
            raise ValueError(
                f"this DiT takes samples of shape {self.shape}, or of other lengths and sizes that its patch "
                f"{self.patch} divides, got {tuple(z.shape[1:])}"
            )
        return grid

    def _positions_of(self, grid: Grid) -> Tensor:
        """The places' embedding: the one that is kept, or its first frames; of another grid, interpolated."""
        if grid[1:] == self.grid[1:] and grid[0] <= self.grid[0]:
            return self.positions[: grid[0] * grid[1] * grid[2]]
        return position_embedding(grid, self.positions.shape[1], self.grid).to(self.positions.device)

    def _turns_of(self, grid: Grid) -> Tensor | None:
        """The places' rotations, as `_positions_of`; None where there are none."""
        if self.turns is None or (grid[1:] == self.grid[1:] and grid[0] <= self.grid[0]):
            return None if self.turns is None else self.turns[:, : grid[0] * grid[1] * grid[2]]
        return rotations(grid, self.turns.shape[2], self.grid).to(self.turns.device)

    def adapt(
        self, weights: Mapping[str, Tensor], *, of_images: bool = False, of_flow: bool = False
    ) -> dict[str, Tensor]:
        """Another DiT's weights as this one can start from them: of images, of other classes (`inflated`), of a flow.

        A flow model never saw r < t: with ``of_flow`` every jump starts as one of length 0, u(z, r, t) = u(z, t, t).
        """
        channels = {INPUT: self.shape[0], IMAGE: self.config["image"] or 0}
        found = inflated(weights, self.state_dict(), channels, self.patch[0], of_images and self.grid[0] > 1)
        return {**found, **without_jump(found)} if of_flow else found

    def _embed(self, r: Value, t: Value, cond: Cond, jump: bool = True) -> Value:
        """What conditions a block (b, width): t and the length of the jump, or 0 in its place, class, guidance."""
        length = add(t, linearly(torch.neg, r)) if jump else torch.zeros_like(primal(t))
        c: Value = add(self.embed_t(t), self.embed_jump(length))
        if self.embed_class is not None and self.classes is not None:
            c = add(c, self.embed_class(cond.class_index(self.classes, primal(r).shape[0], primal(r).device)))
        if self.embed_vector is not None:
            c = add(c, self.embed_vector(cond, primal(r)))
        if self.takes_guidance:
            omega, t_min, t_max = guidance_at(cond, primal(r), primal(t))
            for embed, value in zip(self.embed_guidance, (1 - 1 / omega, t_min, t_max), strict=True):
                c = add(c, embed(value))
        return c

    def _unpatch(self, patches: Tensor, grid: Grid) -> Tensor:
        """(b, tokens, c·pf·ph·pw) → (b, c, f, h, w)."""
        (pf, ph, pw), (f, h, w) = self.patch, grid
        pattern = "b (f h w) (c pf ph pw) -> b c (f pf) (h ph) (w pw)"
        return rearrange(patches, pattern, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)

    def _initialise(self) -> None:
        """Xavier-uniform linears, N(0, 0.02²) embeddings, zero for every modulation and for the last layer."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in self.modules():
            if isinstance(embedding, TimeEmbedding):
                nn.init.normal_(embedding.hidden.weight, std=0.02)
                nn.init.normal_(embedding.out.weight, std=0.02)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=0.02)
        blocks = [layer for m in self.modules() if isinstance(m, Block) for layer in m.starting_at_zero]
        finals = [layer for m in self.modules() if isinstance(m, Final) for layer in (m.modulation, m.out)]
        for layer in blocks + finals:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def __repr__(self) -> str:
        shape, *rest = self.config.items()
        loud = ("patch", "depth", "width", "heads", "classes", "mlp_ratio")
        given = [f"{name}={value!r}" for name, value in rest if value or name in loud]
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
