"""What a run says while it goes: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import printable
from ..files import parsed, replacing

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from ..types import Loss

Row = Mapping[str, float]


class MetricsLog:
    """metrics.jsonl, one JSON object a log step, and TensorBoard event files beside it.

    Args:
        file: metrics.jsonl.
        keep_until: rows of later steps, and a last row that was cut short, are removed: a resumed run repeats them.
    """

    def __init__(self, file: Path, keep_until: int) -> None:
        if file.exists():
            kept = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if _step(line) <= keep_until
            ]
            with replacing(file) as beside:
                beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = file, file.open("a", encoding="utf-8")
        self._folder, self._purge = file.parent, keep_until + 1
        self._events: SummaryWriter | None = None

    def write(self, row: Row) -> None:
        """Adds a row; ``row["step"]`` is its step."""
        if not self._path.exists():  # somebody removed it
            self._file.close()
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._board().add_scalar(name, value, int(row["step"]))

    def picture(self, pixels: Tensor, step: int) -> None:
        """Adds a grid of samples (n, c, h, w), 8-bit, to TensorBoard."""
        self._board().add_images("samples", pixels, step)

    def _board(self) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._folder), purge_step=self._purge if self._purge > 1 else None)
        return self._events

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _step(line: str) -> float:
    try:
        return float(parsed(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Meter:
    """Means over the steps since the last log row. The losses' parts are read from the device only then.

    Attributes:
        batch: samples in the last batch, all processes together.
    """

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._sums: dict[str, Tensor] = {}
        self._norm = self._waited = 0.0
        self._steps = self._samples = self.batch = 0

    def add(self, loss: Loss, norm: float, waited: float, samples: int) -> None:
        """Takes in a step.

        Args:
            loss: the step's.
            norm: of its gradient.
            waited: seconds that its batch was waited for.
            samples: in the batch, all processes together.
        """
        values = {"loss": loss.total.detach(), **{name: term.mean() for name, term in loss.terms.items()}}
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._norm, self._waited = self._norm + norm, self._waited + waited
        self._steps, self._samples, self.batch = self._steps + 1, self._samples + samples, samples

    def take(self) -> dict[str, float]:
        """The means, the rates, the share of time that data were waited for, and memory in GiB; starts over."""
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        now = time.perf_counter()
        passed = max(now - self._last, 1e-9)
        figures = {
            "grad_norm": self._norm / max(self._steps, 1),
            "steps_per_second": self._steps / passed,
            "samples_per_second": self._samples / passed,
            "data_wait": self._waited / passed,
            "memory_gib": _peak_memory() / 2**30,
            "seconds": now - self._start,
        }
        self._last, self._sums, self._norm, self._waited, self._steps, self._samples = now, {}, 0.0, 0.0, 0, 0
        return {**means, **figures}


def _peak_memory() -> int:
    """The most bytes that were in use: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
        """As the other one."""
        with suppress(Exception):
            self._inner.start(step, steps)

    def advance(self) -> None:
        """As the other one."""
        with suppress(Exception):
            self._inner.advance()

    def row(self, row: Row) -> None:
        """As the other one."""
        with suppress(Exception):
            self._inner.row(row)

    def say(self, message: str) -> None:
        """As the other one."""
        with suppress(Exception):
            self._inner.say(message)


class Lines(Display):
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


class Bar(Display):
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
    return Bar(Console()) if sys.stdout.isatty() else Lines()


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
