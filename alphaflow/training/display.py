"""How a run is shown while it goes: a progress bar, or plain lines."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Literal, Self

from rich.console import Console

from ..errors import printable
from ..progress import Bar, Throttle, say
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
        self._due, self._steps = Throttle(seconds), 0

    def start(self, step: int, steps: int) -> None:
        """Remembers how many steps there are."""
        self._steps = steps

    def row(self, row: Row) -> None:
        """Prints the figures."""
        if self._due(row["step"] == self._steps):
            left = (self._steps - row["step"]) / row["steps_per_second"]
            self.say(f"step {row['step']:.0f}/{self._steps}  {figures(row)}  {clock(left)} left")

    def say(self, message: str) -> None:
        """Prints a line."""
        say(message)


class BarDisplay(Display):
    """A rich progress bar with steps and time left; below it a log step's figures."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(console)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, step: int, steps: int) -> None:
        """Starts the bar, or sets it back."""
        self._bar.show("[bold]training", step, steps, "")

    def advance(self) -> None:
        """Moves the bar on."""
        self._bar.advance(self._bar.task_ids[-1])

    def row(self, row: Row) -> None:
        """Shows the figures below the bar."""
        self._bar.below = figures(row)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(printable(message), highlight=False, soft_wrap=True, markup=False)


def default_display() -> Display:
    """A bar on a terminal, and in a notebook that has ipywidgets; plain lines elsewhere."""
    if Console().is_jupyter:
        return PlainDisplay() if find_spec("ipywidgets") is None else BarDisplay(Console())
    return BarDisplay(Console()) if sys.stdout.isatty() else PlainDisplay()


def chosen_display(given: Display | Literal["auto"] | None) -> Display:
    """A Trainer's display, whose failures don't matter: the one that was given, the default one, or none."""
    shown = default_display() if given == "auto" else given
    return Display() if shown is None else Unfailing(shown)


def figures(row: Row) -> str:
    """The key figures of a log step, in one line."""
    shown = {
        "samples_per_second": "{:.0f} samples/s", "loss": "loss {:.4f}", "mse": "mse {:.4f}", "alpha": "α {:.3f}",
        "fm_share": "fm {:.2f}", "lr": "lr {:.1e}", "grad_norm": "|g| {:.2f}", "data_wait": "data {:.0%}",
        "memory_gib": "{:.1f} GiB", "mfu": "MFU {:.0%}",
    }  # fmt: skip
    parts = [text.format(row[name]) for name, text in shown.items() if name in row]
    return "  ".join([f"{row['steps_per_second']:.1f} steps/s", *parts])


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, and hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
