"""Decoding long clips part by part, without seams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK, OVERLAP = 32, 8
"""Latent frames that are decoded at once, and how many of them a part shares with the part before it."""


def decode_in_chunks(
    decode: Callable[[Tensor], Tensor], latents: Tensor, chunk: int = CHUNK, overlap: int = OVERLAP
) -> Tensor:
    """Decodes latents (b, c, f, h, w) in overlapping parts and fades one part into the next.

    In the middle half of each overlap the earlier part gives way to the later one; what either computes near its own
    end, without its neighbours, is left out. A decoder that sees no further than a quarter of the overlap in either
    direction gives the same as at once. Decoders whose first latent frame is one frame (causal ones: 1 + (f − 1)·k
    frames of f latents) and those of f·k frames are told apart by decoding a single latent frame.

    Args:
        decode: latents of any length ↦ pixels (b, c, frames, h, w).
        latents: latents of the clip.
        chunk: latent frames of a part, the shared ones included.
        overlap: shared latent frames, at least 2 and below ``chunk``.
    """
    length = latents.shape[2]
    if length <= chunk:
        return decode(latents)
    if not 2 <= overlap < chunk:
        raise ValueError(f"parts of {chunk} latent frames share 2 up to {chunk - 1}, got {overlap}")
    first = decode(latents[:, :, :chunk])
    alone = decode(latents[:, :, :1]).shape[2]
    rate = first.shape[2] // chunk if first.shape[2] == alone * chunk else (first.shape[2] - alone) // (chunk - 1)
    lead = alone - rate  # 0, or 1 − k of a causal decoder: frames that the first latent is short of
    total = length * rate + lead
    out = first.new_empty(*first.shape[:2], total, *first.shape[3:])
    out[:, :, : first.shape[2]] = first
    begin = chunk
    while begin < length:
        start, end = begin - overlap, min(begin - overlap + chunk, length)
        part = decode(latents[:, :, start:end])
        shared = overlap * rate + lead  # frames of the part that were there before
        ramp = _fade(overlap * rate).to(part)[-shared:].view(1, 1, -1, 1, 1)
        at = (begin * rate + lead) - shared
        out[:, :, at : at + shared] = torch.lerp(out[:, :, at : at + shared], part[:, :, :shared], ramp)
        out[:, :, at + shared : at + part.shape[2]] = part[:, :, shared:]
        begin = end
    return out


def _fade(frames: int) -> Tensor:
    """Weights of the later part over the shared frames: 0, then rising through the middle half, then 1."""
    return ((torch.arange(frames) + 0.5) / frames * 2 - 0.5).clamp(0, 1)
