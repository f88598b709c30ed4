"""A recipe whose second process kills itself at a step, once: for tests of torchrun."""

import os
import signal
from pathlib import Path

import torch

import alphaflow as af


class Falling(af.Digits):
    """Digits; the reader of rank 1 dies at its 13th batch if the file isn't there yet."""

    def __init__(self, mark: Path) -> None:
        super().__init__(batch_size=32, seed=0)
        self.mark, self.count = mark, 0

    def fetch(self, indices: object, generator: object = None) -> af.Batch:
        self.count += 1
        if self.count == 13 and os.environ.get("RANK") == "1" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fetch(indices, generator)  # type: ignore[arg-type]


def recipe(*, mark: Path = Path("mark"), steps: int = 24) -> af.Recipe:
    """A tiny network."""
    torch.manual_seed(0)
    return af.Recipe(
        model=af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10),
        objective=af.MeanFlow(guidance=af.Guidance(kappa=0.3, label_drop=0.2)),
        dataset=Falling(mark), samplers=(af.ODE(1),), steps=steps, lr=1e-2, clip=1.0,
    )  # fmt: skip
