"""How far long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def shown(main: bool = True) -> Iterator[Callable[[str, int, int], None] | None]:
    """Gives what is told ``(name, done, total)``; None in processes but the first.

    Args:
        main: whether this process shows anything.
    """
    if not main:
        yield None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: list[TaskID] = []

        def tell(name: str, done: int, total: int) -> None:
            if not tasks or bar.tasks[-1].description != name or done < bar.tasks[-1].completed:
                for task in tasks:
                    bar.remove_task(task)
                tasks[:] = [bar.add_task(name, total=total, rate="")]
            speed = bar.tasks[-1].speed
            bar.update(tasks[-1], completed=done, rate="" if speed is None else f"{speed:,.1f}/s")

        yield tell


def _lines() -> Callable[[str, int, int], None]:
    last = [time.monotonic()]

    def tell(name: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > EVERY:
            last[0] = time.monotonic()
            print(f"{name}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return tell
