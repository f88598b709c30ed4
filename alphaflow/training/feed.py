"""Batches on their way to the device: read ahead in a thread, from page-locked memory, and still resumed exactly."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any

import torch

from ..data.dataset import Dataset
from ..errors import UserError, reason
from ..types import Batch, check_labels
from .sanity import check_mask


@dataclass(frozen=True)
class _Read:
    """A batch and where the stream stood after it; or what went wrong."""

    batch: Batch | None = None
    state: dict[str, Any] | None = None
    error: BaseException | None = None


class Feed:
    """A dataset's batches on the device.

    Where the stream stands is counted by the batches that were taken, not by those read ahead. Only a dataset that
    ``rewinds`` is read ahead.

    Args:
        dataset: dataset of the run.
        parts: this process's part of its batches (`Dataset.share`).
        device: where they go.
        ahead: how many batches are read ahead; 0 for none, and no thread; None for two where a GPU works meanwhile.
    """

    def __init__(
        self, dataset: Dataset, parts: Iterable[Batch], device: torch.device, ahead: int | None = None
    ) -> None:
        self.dataset = dataset
        self.parts = parts
        self.device = device
        if ahead is None:
            ahead = 2 if device.type == "cuda" else 0
        self.ahead = ahead if dataset.rewinds else 0
        self._batches: Iterator[Batch] | None = None
        self._queue: Queue[_Read] = Queue(max(self.ahead, 1))
        self._end: weakref.finalize[..., Feed] | None = None  # ends the thread, with this object or the process
        self._state: dict[str, Any] | None = None

    def __next__(self) -> Batch:
        """The next batch, on the device; what the dataset raises.

        Raises:
            RuntimeError: it wants to end the process, or ended.
        """
        try:
            return self._next()
        except (SystemExit, StopIteration) as error:
            kind = type(error).__name__
            raise RuntimeError(f"{self.dataset.kind_name} must go on without end, but raised {kind}") from error

    def _next(self) -> Batch:
        if self._batches is None:
            self._batches = iter(self.parts)
        if not self.ahead:
            return self._checked(next(self._batches)).to(self.device)
        if self._end is None:
            self._state, stop = self.dataset.state_dict(), threading.Event()
            work = (self.dataset, self._batches, self._queue, stop, self.device.type == "cuda")
            thread = threading.Thread(target=_read_ahead, args=work, name="alphaflow-feed", daemon=True)
            thread.start()
            self._end = weakref.finalize(self, _end, thread, stop)
        read = self._queue.get()
        if read.batch is None:
            self._join()
            assert read.error is not None
            raise read.error
        self._state = read.state
        return self._checked(read.batch).to(self.device)

    def _checked(self, batch: Batch) -> Batch:
        """Refuses labels that the dataset doesn't have, and masks that can't be, before a GPU would have to be asked.

        Raises:
            UserError: so it is.
        """
        labels, classes = batch.cond.labels, self.dataset.classes
        try:
            if labels is not None and classes and labels.device.type == "cpu":
                check_labels(labels, classes)
            check_mask(batch.cond)
        except ValueError as error:
            raise UserError(f"{self.dataset.kind_name}: {reason(error)}") from error
        return batch

    def __enter__(self) -> Feed:
        """Reads for the time of a ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Calls `rewind`."""
        self.rewind()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the batches that were taken."""
        return self.dataset.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the stream from there; raises what the dataset does."""
        self._join()
        self.dataset.load_state_dict(state)

    def reorder(self, seed: int) -> None:
        """Goes on from the same place in another order, if the dataset can."""
        self.rewind()
        self.dataset.reorder(seed)

    def rewind(self) -> None:
        """Ends reading ahead, until the next batch is asked for: the dataset stands where the last one taken ends."""
        if self._end is not None and self._state is not None:
            self.load_state_dict(self._state)

    def _join(self) -> None:
        """Ends the thread and forgets what it has read."""
        if self._end is not None:
            self._end()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._end = self._batches = self._state = None


def _end(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # collecting garbage
        thread.join()


def _read_ahead(
    dataset: Dataset, batches: Iterator[Batch], queue: Queue[_Read], stop: threading.Event, pin: bool
) -> None:
    """The thread's work. It doesn't hold the Feed, whose end is its own."""
    while not stop.is_set():
        try:
            batch = next(batches)
            read = _Read(batch.pinned() if pin else batch, dataset.state_dict())
        except BaseException as error:
            read = _Read(error=error)
        while not stop.is_set():
            try:
                queue.put(read, timeout=0.05)
                break
            except Full:
                continue
        if read.batch is None:
            return
