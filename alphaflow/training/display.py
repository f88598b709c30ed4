"""How a run is shown while it goes: a progress bar, or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import printable
from .metrics_log import Row


class Display:
    """Shows a run's progress, as a context manager around it. This one shows nothing: the base of those that do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, step: int, steps: int) -> None:
        """Training starts at a step, of so many."""

    def advance(self) -> None:
        """One more step is done."""

    def row(self, row: Row) -> None:
        """Shows a log step's figures."""

    def say(self, message: str) -> None:
        """Shows a line."""


class Unfailing(Display):
    """Another display, whose failures don't matter: a closed terminal or a full disk is no reason to stop training."""

    def __init__(self, inner: Display) -> None:
        self._inner = inner

    def __enter__(self) -> Self:
        with suppress(Exception):
            self._inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            self._inner.__exit__(*error)

    def start(self, step: int, steps: int) -> None:
        """Calls the other display."""
        with suppress(Exception):
            self._inner.start(step, steps)

    def advance(self) -> None:
        """Calls the other display."""
        with suppress(Exception):
            self._inner.advance()

    def row(self, row: Row) -> None:
        """Calls the other display."""
        with suppress(Exception):
            self._inner.row(row)

    def say(self, message: str) -> None:
        """Calls the other display."""
        with suppress(Exception):
            self._inner.say(message)


class PlainDisplay(Display):
    """Plain lines, for logs: one every ``seconds`` at most."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._last = float("-inf")
        self._steps = 0

    def start(self, step: int, steps: int) -> None:
        """Remembers how many steps there are."""
        self._steps = steps

    def row(self, row: Row) -> None:
        """Prints the figures."""
        now = time.monotonic()  # a row's own seconds begin anew where training goes back
        if now - self._last >= self._seconds or row["step"] == self._steps:
            self._last = now
            left = (self._steps - row["step"]) / row["steps_per_second"]
            self.say(f"step {row['step']:.0f}/{self._steps}  {figures(row)}  {_clock(left)} left")

    def say(self, message: str) -> None:
        """Prints a line."""
        print(printable(message), flush=True)


class _BarAndFigures(Progress):
    """A progress bar with a text below it."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the text, wrapped where it is too long for the terminal."""
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Text(self.figures)


class BarDisplay(Display):
    """A rich progress bar with steps and time left; below it a log step's figures."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("[bold]training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = _BarAndFigures(*columns, console=console)
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, step: int, steps: int) -> None:
        """Starts the bar, or sets it back."""
        if self._progress.tasks:
            self._progress.update(self._task, completed=step)
        else:
            self._task = self._progress.add_task("training", total=steps, completed=step)

    def advance(self) -> None:
        """Moves the bar on."""
        self._progress.advance(self._task)

    def row(self, row: Row) -> None:
        """Shows the figures below the bar."""
        self._progress.figures = figures(row)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(printable(message), highlight=False, soft_wrap=True, markup=False)


def progress() -> Display:
    """A bar on a terminal, plain lines elsewhere."""
    return BarDisplay(Console()) if sys.stdout.isatty() else PlainDisplay()


def figures(row: Row) -> str:
    """The key figures of a log step, in one line."""
    shown = {
        "samples_per_second": "{:.0f} samples/s", "loss": "loss {:.4f}", "mse": "mse {:.4f}", "alpha": "α {:.3f}",
        "fm_share": "fm {:.2f}", "lr": "lr {:.1e}", "grad_norm": "|g| {:.2f}", "data_wait": "data {:.0%}",
        "memory_gib": "{:.1f} GiB", "mfu": "MFU {:.0%}",
    }  # fmt: skip
    parts = [text.format(row[name]) for name, text in shown.items() if name in row]
    return "  ".join([f"{row['steps_per_second']:.1f} steps/s", *parts])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
