"""Clips and images in one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch

from ..autoencoders.autoencoder import Autoencoder
from ..errors import UserError
from ..types import NO_CLASS, Batch
from .dataset import Dataset, IndexedDataset


class Mixture(Dataset):
    """Joint training on clips and images: every batch is of one kind, in an even order with an exact share of each.

    Images are single frames, batches (b, c, h, w) among clips' (b, c, f, h, w); a `DiT` of clips takes both. Kinds
    alternate by the number of the batch, so that several processes always work on the same one.

    Classes are those of the clips, followed by those of the images that aren't among them, by name. Where only one of
    the two has classes, the other's samples have none (`NO_CLASS`). Evaluation compares clips with clips, and samples
    are of the clips' classes unless one says (`sampled_classes`).

    Args:
        clips: dataset of clips of shape (c, f, h, w).
        images: dataset of images of shape (c, h, w), in the same latents, with its own batch size.
        image_share: share of batches that hold images: 0.2 is every fifth.

    Raises:
        UserError: the kinds are mixed up, the channels or the autoencoders differ, or the share is not inside (0, 1).
    """

    rewinds: ClassVar[bool] = True
    autoencoder: Autoencoder | None

    def __init__(self, clips: IndexedDataset, images: IndexedDataset, image_share: float = 0.2) -> None:
        if not 0 < image_share < 1:
            raise UserError(f"the share of batches of images lies between 0 and 1, got {image_share}")
        if len(clips.shape) != 4 or len(images.shape) != 3:
            raise UserError(f"a mixture is of clips and images, in this order; got {clips.shape} and {images.shape}")
        if clips.shape[0] != images.shape[0] or clips.encoding != images.encoding:
            raise UserError(
                f"clips {clips.shape} and images {images.shape} are latents of different autoencoders or scales; "
                "encode both with the same one"
            )
        self.clips = clips
        self.images = images
        self.image_share = image_share
        self.config = {"clips": clips, "images": images, "image_share": image_share}
        self.shape = clips.shape
        self.batch_size = clips.batch_size
        self.fps = clips.fps
        self.autoencoder = clips.autoencoder
        known = list(clips.class_names)
        self.class_names = [*known, *(name for name in images.class_names if name not in known)]
        index = {name: number for number, name in enumerate(self.class_names)}
        self._relabelled = torch.tensor([index[name] for name in images.class_names], dtype=torch.long)
        self._count = 0

    @property
    def sampled_classes(self) -> int | None:
        """The first so many classes are the clips'; None where clips have none."""
        return self.clips.classes

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of a clip, (c, f, h, w), and of an image, (c, h, w)."""
        return self.clips.shape, self.images.shape

    @property
    def indexed(self) -> IndexedDataset:
        """The clips."""
        return self.clips

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from where the stream stands."""
        clips, images = iter(self.clips), iter(self.images)
        while True:
            number, self._count = self._count, self._count + 1
            of_images = int((number + 1) * self.image_share) > int(number * self.image_share)
            yield self._labelled(next(images), self._relabelled) if of_images else self._labelled(next(clips), None)

    def share(self, rank: int, world: int) -> Iterable[Batch]:
        """Shares out both datasets, as `IndexedDataset.share` does."""
        self.clips.share(rank, world)
        self.images.share(rank, world)
        self.batch_size = self.clips.batch_size
        return self

    def reorder(self, seed: int) -> None:
        """Goes on from the same place in another order, in both."""
        self.clips.reorder(seed)
        self.images.reorder(seed)

    def state_dict(self) -> dict[str, Any]:
        """How many batches there were, and where both streams stand."""
        return {"batches": self._count, "clips": self.clips.state_dict(), "images": self.images.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state.

        Raises:
            ValueError: one of them has another length than it had.
        """
        self.clips.load_state_dict(state["clips"])
        self.images.load_state_dict(state["images"])
        self._count = state["batches"]

    def _labelled(self, batch: Batch, relabelled: torch.Tensor | None) -> Batch:
        """The batch with labels among all classes."""
        if not self.class_names:
            return batch
        labels = batch.cond.labels
        if labels is None:
            labels = torch.full((len(batch.x),), NO_CLASS)
        elif relabelled is not None:
            labels = torch.where(labels == NO_CLASS, NO_CLASS, relabelled[labels])
        return Batch(batch.x, batch.cond.replace(labels=labels), batch.std)

    def __repr__(self) -> str:
        return f"Mixture({self.clips!r}, {self.images!r}, image_share={self.image_share})"
