"""Evaluating pictures against torch-fidelity's own command, whole processes, interleaved, on the same folders.

    python benchmarks/evaluate.py --images 200 --rounds 3
    python benchmarks/evaluate.py --images 2000 --device cuda --weights weights-inception-2015-12-05-6726825d.pth

Without --weights Inception's are random: the time is the same. FID alone, and FID, IS, precision and recall (from 1,000
images on also KID) at once.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import ratios, spread, write
from PIL import Image

from alphaflow.metrics.frechet import Moments, frechet_distance
from alphaflow.metrics.kid import kernel_distance


def pictures(folder: Path, count: int, seed: int) -> Path:
    """Random pictures of CIFAR-10's size: smooth ones, as PNG."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.png")
    return folder


def random_weights(file: Path) -> Path:
    """Inception with random weights, in a file of the published form."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    load, module.load_state_dict_from_url = module.load_state_dict_from_url, lambda *_, **__: {}
    kind = module.FeatureExtractorInceptionV3
    kind.load_state_dict = lambda *_: None
    network = kind("inception-v3-compat", ["2048"])
    del kind.load_state_dict
    module.load_state_dict_from_url = load
    torch.save(network.state_dict(), file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    count = arguments.images
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        a, b = (str(pictures(place / name, count, seed)) for seed, name in enumerate("ab"))
        weights = arguments.weights or random_weights(place / "inception.pth")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        all_of = "fid,is,pr,kid" if count >= 1000 else "fid,is,pr"
        ours = [sys.executable, "-m", "alphaflow", "evaluate", a, "--reference", b, "--device", arguments.device]
        ours += ["--weights", f"{weights}#{digest}", "--metrics"]
        theirs = [sys.executable, "-m", "torch_fidelity.fidelity", "--input1", a, "--input2", b, "--fid", "--no-cache"]
        theirs += ["--feature-extractor-weights-path", str(weights)]
        theirs += ["--gpu", "0"] if arguments.device == "cuda" else ["--cpu"]
        calls = {"torch-fidelity, FID": theirs, "ours, FID": [*ours, "fid"], f"ours, {all_of}": [*ours, all_of]}
        found: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(arguments.rounds):
            for name in list(calls) if number % 2 else list(calls)[::-1]:
                start = time.perf_counter()
                subprocess.run(calls[name], check=True, capture_output=True)
                found[name].append(time.perf_counter() - start)
    base = "ours, FID"
    for name, times in found.items():
        ratio = spread(ratios(found, name, base)) if arguments.rounds > 1 else f"{times[0] / found[base][0]:.2f}"
        print(f"{name:32} {statistics.median(times):8.1f} s   ÷ ours, FID: {ratio}")
    parts = metrics_alone()
    for name, taken in parts.items():
        print(f"{name:32} {taken:8.1f} s")
    print(f"written to {write('evaluate', torch.device(arguments.device), images=count, seconds=found, parts=parts)}")


def metrics_alone() -> dict[str, float]:
    """Seconds of what comes after the features, at 2,048 dimensions."""
    a, b = (torch.randn(2500, 2048, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    moments = Moments.of(a), Moments.of(b)
    found = {}
    for name, work in {
        "Fréchet distance": lambda: frechet_distance(*moments),
        "KID of 2,500 each": lambda: kernel_distance(a, b),
    }.items():
        start = time.perf_counter()
        work()
        found[name] = time.perf_counter() - start
    return found


if __name__ == "__main__":
    main()
