"""Writes the tables of docs/speed.md from benchmarks/results/*.json.

    python benchmarks/tables.py

Each stands between <!-- NAME --> and <!-- end -->. What was not measured is said so.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import RESULTS, spread

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
Found = dict[str, Any]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def origin(found: Found) -> str:
    """When, on what, and with which torch."""
    return f"\n\n{found['date']}, {found['hardware']}, PyTorch {found['versions']['torch'].partition('+')[0]}."


def steps(found: Found) -> str:
    """A row a phase, then one thing against another."""
    own = [row for row in found["rows"] if "unit" not in row]
    unit = own[0]["bytes"]
    mfu = any(row["mfu"] for row in own)
    rows = [
        [
            row["step"],
            spread(row["ratios"]),
            f"{row['fastest']:.2f}",
            f"{row['bytes'] / unit:.2f}",
            *([f"{row['mfu']:.0%}"] if row["mfu"] else [""] * mfu),
        ]
        for row in own
    ]
    pairs = [row for row in found["rows"] if "unit" in row]
    against = [[row["step"], row["unit"], spread(row["ratios"]), f"{row['fastest']:.2f}"] for row in pairs]
    text = markdown(["step", "÷ flow matching", "fastest ÷ its", "memory ÷ its", *(["MFU"] * mfu)], rows)
    if against:
        text += "\n\n" + markdown(["", "÷", "", "of the fastest"], against)
    unit_seconds = own[0]["seconds"]
    settings = found["settings"]
    name = (
        f"DiT-{settings['size']}/2"
        if settings["size"]
        else f"DiT of depth {settings['depth']}, width {settings['width']}"
    )
    text += (
        f"\n\n{name}, batch {settings['batch']}, {settings['precision']}; flow matching: {unit_seconds:.3g} s a step, "
    )
    return text + f"{unit / 2**20:,.0f} MiB beside weights and optimiser." + origin(found)


def tangents(found: Found) -> str:
    """A row a size."""
    floors = any(row["floor"] for row in found["rows"])
    rows = [
        [
            " × ".join(map(str, row["case"])), f"{row['error']:.0e}", spread(row["tangent"]), spread(row["ad"]),
            *([f"{row['floor']:.2f}"] if row["floor"] else [""] * floors),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    head = ["batch × heads × tokens × head size", "error", "tangent ÷ fused forward", "forward-mode AD ÷ both"]
    return markdown([*head, *(["÷ floor"] * floors)], rows) + origin(found)


def samples(found: Found) -> str:
    """A row a number of evaluations."""
    medians = {nfe: statistics.median(rate) for nfe, rate in found["rates"].items()}
    rows = [[nfe, f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"] for nfe, rate in medians.items()]
    settings = found["settings"]
    text = markdown(["NFE", "images/s"], rows)
    return text + f"\n\nDiT-{settings['size']}/2, batch {settings['batch']}, {settings['precision']}." + origin(found)


def clips(found: Found) -> str:
    """A row a number of tokens and a step."""
    rows = [
        [f"{row['tokens']:,}", row["step"], f"{1 / row['seconds']:.3g}", f"{row['ratio']:.2f}",
         f"{row['bytes'] / 2**20:,.0f}", f"{row['memory_ratio']:.2f}"]
        for row in found["rows"]
    ]  # fmt: skip
    head = ["tokens", "step", "steps/s", "time ÷ flow matching", "memory, MiB", "memory ÷ its"]
    settings = found["settings"]
    name = f"DiT of depth {settings['depth']}, width {settings['width']}, batch 1, {settings['precision']}."
    return markdown(head, rows) + "\n\n" + name + origin(found)


def loader(found: Found) -> str:
    """A row a reader."""
    return markdown(["reader", "samples/s"], [[name, f"{rate:,.0f}"] for name, rate in found["medians"].items()])


TABLES: dict[str, Callable[[Found], str]] = {
    "step": steps, "step-B": steps, "step-XL": steps, "attention": tangents, "attention-gpu": tangents,
    "sample": samples, "sample-B": samples, "sample-XL": samples, "loader": loader,
    "video": clips, "video-gpu": clips,
}  # fmt: skip


def main() -> None:
    """Rewrites the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        file = RESULTS / f"{name}.json"
        shown = table(json.loads(file.read_text())) if file.is_file() else "Not measured yet."
        text = re.sub(
            f"<!-- {name} -->.*?<!-- end -->",
            lambda _, n=name, s=shown: f"<!-- {n} -->\n{s}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
