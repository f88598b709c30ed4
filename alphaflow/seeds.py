"""Seeds made from seeds: of a process, of a part of an epoch, of a batch of samples."""

from __future__ import annotations

import numpy as np
import torch


def derived(seed: int, *parts: int) -> int:
    """A seed of 63 bits from another one and what it is for: the same for the same numbers, unlike for all others."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1, np.uint64)[0] >> 1)


def stream(seed: int, *parts: int) -> np.random.Generator:
    """A generator of NumPy's, seeded likewise."""
    return np.random.default_rng((seed, *parts))


def global_seed() -> int:
    """The seed that ``torch.manual_seed`` set, or drew at the start, in 63 bits."""
    return torch.initial_seed() % 2**63
