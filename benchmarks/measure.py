"""What the benchmarks share: interleaved timing on one device, the memory of a step, results as JSON."""

from __future__ import annotations

import ctypes
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from alphaflow.version import versions

RESULTS = Path(__file__).parent / "results"


def pin(device: torch.device) -> None:
    """One thread; on a CPU also one core, the last of those that this process may use (compilers want them all)."""
    torch.set_num_threads(1)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def hardware(device: torch.device) -> str:
    """The name of what the benchmark ran on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return (
        f"{name[1] if name else 'CPU'}, {torch.get_num_threads()} thread(s), {torch.backends.cpu.get_cpu_capability()}"
    )


def seconds(work: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of some work: of this process's CPU time, or of the GPU from its beginning to its end."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / times


def interleaved(
    works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm: int = 1, times: int = 1
) -> dict[str, list[float]]:
    """Seconds of each, round by round; the order turns round by round, so that none always follows the same one."""
    for work in works.values():
        seconds(work, device, warm)
    found: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds):
        at = number * 5 % len(names)
        order = names[at:] + names[:at]
        for name in order if number % 2 else order[::-1]:
            found[name].append(seconds(works[name], device, times))
    return found


def ratios(found: Mapping[str, list[float]], name: str, unit: str) -> list[float]:
    """One's time ÷ another's, round by round, sorted."""
    return sorted(a / b for a, b in zip(found[name], found[unit], strict=True))


def spread(values: list[float]) -> str:
    """The median, and the middle half."""
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.2f} ({low:.2f} … {high:.2f})"


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """How much more memory the process (or the GPU) holds at most while it works than before. In a fresh process."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def write(name: str, device: torch.device, **found: Any) -> Path:
    """Writes benchmarks/results/NAME.json: what was found, when, and on what."""
    out = RESULTS / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    result = {"date": date.today().isoformat(), "hardware": hardware(device), "versions": versions(), **found}
    out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return out
