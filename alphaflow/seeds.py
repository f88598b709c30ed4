"""Seeds made from seeds: of a process, of a part of an epoch, of a batch of samples."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch (on the CPU), NumPy and Python follow a seed; then they are as they were."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
