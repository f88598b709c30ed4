"""A checkpoint of a published network: seconds for which training stands still, seconds until it is written, bytes.

    python benchmarks/checkpoint.py [--size B|L|XL]

The network, its average and Adam's two moments, fp32, patch 2 on (4, 32, 32) with 1000 classes. Needs memory for 36
bytes a parameter (XL: 24 GB), and disk for 16. Writes benchmarks/results/checkpoint.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

import alphaflow as af


def main() -> None:
    """Saves once, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["B", "L", "XL"], default="XL")
    size = parser.parse_args().size
    model = getattr(af.DiT, size)((4, 32, 32), patch=2, classes=1000)
    recipe = af.Recipe(model=model, objective=af.MeanFlow(), dataset=af.Digits(), steps=10, samplers=())
    with tempfile.TemporaryDirectory() as folder:
        trainer = af.Trainer(recipe, out=Path(folder) / "run")
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        trainer.engine.update(0, torch.ones(()))
        trainer.engine.optimizer.zero_grad()
        trainer.step = 1
        before = time.perf_counter()
        place = trainer._save()  # as training does: it goes on while the checkpoint is written
        still = time.perf_counter() - before
        trainer.wait()
        written = time.perf_counter() - before
        assert place is not None
        on_disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"DiT-{size}/2, {parameters:,} parameters: training stands still for {still:.2f} s, "
        f"written after {written:.1f} s, {on_disk / 1e9:.2f} GB on disk"
    )
    out = Path(__file__).parent / "results" / "checkpoint.json"
    found = json.loads(out.read_text()) if out.is_file() else {}
    found[size] = {"date": date.today().isoformat(), "still": still, "written": written, "bytes": on_disk}
    out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
