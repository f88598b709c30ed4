"""How samples of any kind are cut into patches: images, videos and sequences are all clips (b, c, f, h, w)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .embeddings import Grid


def as_clips(x: Tensor) -> Tensor:
    """Samples (b, c, f, h, w): images as clips of one frame, sequences as clips of one place."""
    return x if x.ndim == 5 else x.unsqueeze(2) if x.ndim == 4 else x[..., None, None]


def patch_grid(shape: Sequence[int], patch: Grid) -> Grid | None:
    """Patches along frames, rows and columns of a sample (`as_clips`); None where they don't fit."""
    size = {4: shape[1:], 3: (1, *shape[1:]), 2: (*shape[1:], 1, 1)}[len(shape)]
    if any(n % p or not n for n, p in zip(size, patch, strict=True)):
        return None
    frames, rows, columns = (n // p for n, p in zip(size, patch, strict=True))
    return frames, rows, columns


def patch_of(patch: int | tuple[int, ...], dims: int) -> Grid:
    """Frames, rows and columns of a patch of samples of so many dimensions."""
    if dims == 2:
        patch = (patch, 1, 1) if isinstance(patch, int) else (*patch, 1, 1)
    patch = (patch, patch) if isinstance(patch, int) else patch
    if len(patch) not in (2, 3):
        raise ValueError(
            f"a patch is n, (rows, columns) or (frames, rows, columns), of sequences their length, got {patch}"
        )
    pf, ph, pw = patch if len(patch) == 3 else (1, *patch)
    if min(pf, ph, pw) < 1:
        raise ValueError(f"a patch has at least 1 frame, row and column, got {patch}")
    return pf, ph, pw
