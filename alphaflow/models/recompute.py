"""Activation checkpointing of a block, with or without tangents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..tangents import Dual, Value


def recomputed(block: nn.Module, tokens: Value, c: Value, *rest: Any) -> Value:
    """``block(tokens, c, *rest)``, of which only the inputs are kept: the backward pass computes the values again.

    Tangents are computed once: they have no part in the backward pass.
    """
    if isinstance(tokens, Tensor) or torch.compiler.is_compiling():  # a compiler drops what the backward pass needs not
        out: Value = checkpoint(block, tokens, c, *rest, use_reentrant=False)
        return out
    given, tangents = [tokens.tangent, c.tangent], []  # emptied: the backward pass's closure shall hold none

    def values(tokens_value: Tensor, c_value: Tensor) -> Tensor:
        if not given:  # the backward pass
            again: Tensor = block(tokens_value, c_value, *rest)
            return again
        found: Dual = block(Dual(tokens_value, given[0]), Dual(c_value, given[1]), *rest)
        given.clear()
        tangents.append(found.tangent)
        return found.value

    value: Tensor = checkpoint(values, tokens.value, c.value, use_reentrant=False)
    return Dual(value, tangents.pop())
