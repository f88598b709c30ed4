"""A few kills, damaged files and wrong command lines, always the same ones: benchmarks/torture.py has more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import alphaflow as af

TORTURE = Path(__file__).resolve().parent.parent / "benchmarks" / "torture.py"
PATH = str(Path(af.__file__).resolve().parent.parent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_nothing_ends_as_it_must_not() -> None:
    words = [sys.executable, str(TORTURE), "--counts", "3,25,25"]
    environment = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
