"""What a DiT may be made of: which sizes go together, and which conditions come of them."""

from __future__ import annotations

from typing import Any

from ..errors import is_whole

LARGEST = 65_536
"""Largest depth, width and number of heads; larger values are surely a mistake."""


def conditions_of(*, classes: int | None, guidance: Any, **sizes: Any) -> tuple[str, ...]:
    """The names of the conditions that a network of these options takes."""
    crossed = sizes["tokens"] is not None or sizes["vocabulary"] is not None
    takes = {"labels": classes, "vector": sizes["vector"], "tokens": crossed, "mask": crossed, "image": sizes["image"]}
    return tuple(name for name, size in {**takes, "guidance": guidance}.items() if size)


def check_options(
    *,
    shape: tuple[int, ...],
    patch: int | tuple[int, ...],
    depth: int,
    width: int,
    heads: int,
    classes: int | None,
    tokens: int | None,
    vocabulary: int | None,
    guidance: Any,
    late: int | None,
    velocity_head: int,
    factorised: bool,
    rope: bool,
    **sizes: Any,
) -> None:
    """Raises a ValueError where sizes are no sizes, or don't go together; arguments as `DiT` takes them."""
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"a DiT's shape is (c, h, w), (c, f, h, w) or (c, length), got {shape}")
    if tokens is not None and vocabulary is not None:
        raise ValueError("tokens are features or indices: give tokens= or vocabulary=, not both")
    conditions = {"vector": sizes["vector"], "tokens": tokens, "vocabulary": vocabulary, "image": sizes["image"]}
    for name, size in conditions.items():
        if size is not None and not 1 <= size <= LARGEST * 16:
            raise ValueError(f"{name} is a size of at least 1, or None for a network that takes none, got {size}")
    if min(depth, width, heads, classes or 1, *shape) < 1:
        raise ValueError(
            f"depth, width, heads, classes and shape must be at least 1, got {depth}, {width}, {heads}, {classes} "
            f"and {shape}"
        )
    if max(depth, width, heads) > LARGEST:
        raise ValueError(f"depth, width and heads must be at most {LARGEST:,}, got {depth}, {width} and {heads}")
    if width % 4:
        raise ValueError(f"the width must be a multiple of 4 for the position embedding, got {width}")
    if rope and (width // heads) % 4:
        raise ValueError(f"rotations by places need heads of a width that is a multiple of 4, got {width} ÷ {heads}")
    if not (isinstance(guidance, bool) or guidance == "scaled"):
        raise ValueError(
            f'guidance is an input (True), scales the output, too ("scaled"), or is neither, got {guidance!r}'
        )
    if late is not None and not (is_whole(late) and 1 <= late <= depth):
        raise ValueError(f"1 to {depth} (depth) blocks are late ones, which see the length of the jump, got {late}")
    if not 0 <= velocity_head <= depth:
        raise ValueError(f"the velocity head has 0 to {depth} (depth) blocks, got {velocity_head}")
    if len(shape) < 4 and (factorised or (isinstance(patch, tuple) and len(patch) == 3)):
        what = "factorised attention" if factorised else f"the patch {patch}"
        raise ValueError(f"{what} is for videos (c, f, h, w), but these samples are {shape}")
