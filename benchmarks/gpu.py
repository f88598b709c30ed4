"""All benchmarks that want a GPU, one after another: the attention tangent, steps and sampling of B/2 and XL/2, clips.

    python benchmarks/gpu.py

bf16; a batch of 32 for B/2, whose yardsticks keep much more than ours, and 48 for XL/2 (--batch-b, --batch-xl), 256
tokens each. --compile compiles the networks, which takes minutes each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Runs each in a process of its own; goes on after one that fails, and says so at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-b", type=int, default=32)
    parser.add_argument("--batch-xl", type=int, default=48)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    half = ["--device", "cuda", "--precision", "bf16", *(["--compile"] if arguments.compile else [])]
    calls = [
        ["attention.py", "--device", "cuda"],
        ["step.py", *half, "--size", "B", "--batch", str(arguments.batch_b)],
        ["step.py", *half, "--size", "XL", "--batch", str(arguments.batch_xl), "--only-ours"],
        ["sample.py", *half, "--size", "B", "--batch", "256"],
        ["sample.py", *half, "--size", "XL", "--batch", "256"],
        ["video.py", *half, "--depth", "12", "--width", "768", "--rounds", "9"],
    ]
    failed = []
    for name, *options in calls:
        print(">", name, *options, flush=True)
        if subprocess.run([sys.executable, Path(__file__).parent / name, *options], check=False).returncode:
            failed.append(" ".join([name, *options]))
    sys.exit(f"failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
