"""Batches on their way to the device: read ahead in a thread, from page-locked memory, and still resumed exactly."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

import torch

from ..data.base import Dataset, IndexedDataset
from ..types import Batch


@dataclass(frozen=True)
class _Read:
    """A batch and where the stream stood after it; or what went wrong."""

    batch: Batch | None = None
    state: dict[str, Any] | None = None
    error: BaseException | None = None


class Feed:
    """A dataset's batches on the device.

    Where the stream stands is counted by the batches that were taken, not by those read ahead. Only an
    `IndexedDataset` is read ahead: it can go back to a place exactly, and draws from a generator of its own.

    Args:
        dataset: of the run.
        parts: this process's part of its batches (`shared_out`).
        device: where they go.
        ahead: how many batches are read ahead; 0 for none, and no thread; None for two where a GPU works meanwhile.
    """

    def __init__(
        self, dataset: Dataset, parts: Iterable[Batch], device: torch.device, ahead: int | None = None
    ) -> None:
        self.dataset, self.parts, self.device = dataset, parts, device
        if ahead is None:
            ahead = 2 if device.type == "cuda" else 0
        self.ahead = ahead if isinstance(dataset, IndexedDataset) else 0
        self._batches: Iterator[Batch] | None = None
        self._queue: Queue[_Read] = Queue(max(self.ahead, 1))
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state: dict[str, Any] | None = None

    def __next__(self) -> Batch:
        """The next batch, on the device; what the dataset raises."""
        if self._batches is None:
            self._batches = iter(self.parts)
        if not self.ahead:
            return next(self._batches).to(self.device)
        if self._thread is None:
            self._state = self.dataset.state_dict()
            self._stop.clear()
            self._thread = threading.Thread(target=self._read_ahead, args=(self._batches,), daemon=True)
            self._thread.start()
        read = self._queue.get()
        if read.batch is None:
            self._join()
            assert read.error is not None
            raise read.error
        self._state = read.state
        return read.batch.to(self.device)

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
        reorder = getattr(self.dataset, "reorder", None)
        if reorder is not None:
            reorder(seed)

    def rewind(self) -> None:
        """Ends reading ahead, until the next batch is asked for: the dataset stands where the last one taken ends."""
        if self._thread is not None and self._state is not None:
            self.load_state_dict(self._state)

    def _join(self) -> None:
        """Ends the thread and forgets what it has read."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        self._thread = self._batches = self._state = None

    def _read_ahead(self, batches: Iterator[Batch]) -> None:
        pin = self.device.type == "cuda"
        while not self._stop.is_set():
            try:
                batch = next(batches)
                read = _Read(batch.pinned() if pin else batch, self.dataset.state_dict())
            except BaseException as error:
                read = _Read(error=error)
            while not self._stop.is_set():
                try:
                    self._queue.put(read, timeout=0.05)
                    break
                except Full:
                    continue
            if read.batch is None:
                return
