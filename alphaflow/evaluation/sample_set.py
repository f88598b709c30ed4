"""What images and clips are measured from: a set of samples, read in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Labels


@dataclass(frozen=True)
class SampleBatch:
    """Samples one after another.

    Attributes:
        start: the first one's index.
        pixels: 8-bit (b, c, h, w), or clips (b, c, f, h, w); floats (b, …) of samples that are no pictures.
        labels: (b,), or None.
        truth: what they should be, likewise; None where nobody knows, or it isn't wanted.
    """

    start: int
    pixels: Tensor
    labels: Labels | None = None
    truth: Tensor | None = None


class SampleSet(ABC):
    """Pictures, clips or other samples of one shape, of known number, in a fixed order.

    Attributes:
        name: where they come from.
        shape: shape of one sample, channels first.
        class_names: class names by label; empty where there are no classes.
        fps: frames a second of clips; None where nothing says.
        pictures: whether they are 8-bit pictures or clips; if not, they are floats of any shape.
        paired: whether each may be compared with the reference's sample of the same number, its truth.
        truths: whether the batches have the truths with them.
        ahead: whether the next ones are read in a thread of their own while some are worked on.
    """

    name: str
    shape: tuple[int, ...]
    class_names: Sequence[str] = ()
    fps: float | None = None
    pictures: bool = True
    paired: bool = True
    truths: bool = False
    ahead: bool = True

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def read(self, start: int, stop: int) -> SampleBatch:
        """Reads the samples ``start`` … ``stop`` − 1."""

    def batches(self, size: int, rank: int = 0, world: int = 1) -> Iterator[SampleBatch]:
        """All of them, or every world-th batch from the rank-th on; with ``ahead`` the next is read meanwhile."""
        spans = [(start, min(start + size, len(self))) for start in range(rank * size, len(self), world * size)]
        if not self.ahead:
            yield from (self.read(*span) for span in spans)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(self.read, *span) for span in spans[:1]]
            for following in [*spans[1:], None]:
                if not waiting:
                    return
                batch = waiting.pop().result()
                if following is not None:
                    waiting.append(pool.submit(self.read, *following))
                yield batch

    def labels_of(self, names: Sequence[str]) -> Tensor | None:
        """The labels here ↦ the labels of a set with these classes, (classes,): by name, or by number.

        None where that isn't possible for every class.
        """
        index = {name: i for i, name in enumerate(names)}
        if all(name in index for name in self.class_names):
            return torch.tensor([index[name] for name in self.class_names])
        if all(name.isdecimal() and int(name) < len(index) for name in self.class_names):
            return torch.tensor([int(name) for name in self.class_names])
        return None
