"""How far long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .errors import printable

ProgressCallback = Callable[[str, int, int], None]
"""Told what is looked at, how many are done, and of how many."""


class Tell(Protocol):
    """Shows how far it is."""

    def __call__(self, name: str, done: int, total: int, figures: str = "", line: str = "") -> None:
        """What is done and how much; figures beside the bar, and the line where there is none, if not the usual one."""


class Throttle:
    """Whether enough time has passed since the last time.

    Args:
        seconds: how much is enough.
        last: when that was, by the monotonic clock, before the first call.
    """

    def __init__(self, seconds: float, last: float = float("-inf")) -> None:
        self._seconds, self._last = seconds, last

    def __call__(self, always: bool = False) -> bool:
        """Whether it has, or it is so always; the time begins anew then."""
        now = time.monotonic()
        if not always and now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Bar(Progress):
    """A bar of the work under way: its name, how much is done, figures beside it, time left; and a text below it."""

    below = ""

    def __init__(self, console: Console, transient: bool = False) -> None:
        figures = TextColumn("{task.fields[figures]}")
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), figures, TimeRemainingColumn()
        super().__init__(*columns, console=console, transient=transient)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the text, wrapped where it is too long for the terminal."""
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(self.below)

    def show(self, name: str, done: int, total: int, figures: str | None = None) -> None:
        """Moves the bar; begins it anew for other work or where it is set back. Beside it figures, else the rate."""
        if not self.tasks or self.tasks[-1].description != name or done < self.tasks[-1].completed:
            for task in self.task_ids:
                self.remove_task(task)
            self.add_task(name, total=total, completed=done, figures="")
        speed = self.tasks[-1].speed
        rate = "" if speed is None else f"{speed:,.1f}/s"
        self.update(self.task_ids[-1], completed=done, figures=rate if figures is None else figures)


def say(message: str, stream: TextIO | None = None) -> None:
    """Prints a line, at once; on standard output if nothing else is given."""
    print(printable(message), file=stream, flush=True)


@contextmanager
def shown(stream: TextIO, seconds: float = 30.0, main: bool = True) -> Iterator[Tell]:
    """Gives what is told of progress, and shows it: on a terminal by a bar, elsewhere by lines.

    Args:
        stream: where it is shown; nothing stays of a bar on standard error.
        seconds: between lines.
        main: whether this process shows anything.
    """
    if not main:
        yield lambda name, done, total, figures="", line="": None
        return
    if not stream.isatty():
        due = Throttle(seconds, time.monotonic())

        def write(name: str, done: int, total: int, figures: str = "", line: str = "") -> None:
            if due():
                say(line or f"{name}: {done:,} of {total:,}", stream)

        yield write
        return
    aside = stream is sys.stderr
    with Bar(Console(stderr=aside), transient=aside) as bar:
        yield lambda name, done, total, figures="", line="": bar.show(name, done, total, figures or None)
