"""Reading latent shards: samples/s as moments and drawn, against a loop over .npy files and one over pickles.

    python benchmarks/loader.py [--samples 20000] [--seconds 3] [--rounds 5]

Writes moments 8×32×32, float16, once as shards, once as a .npy and once as a pickle a sample; then reads shuffled
batches of 256 as float32 with one thread, interleaved, warm page cache. Prints medians and the spread of rounds; writes
benchmarks/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alphaflow.data_tools.shard_writer import begin, finish, finished_shards, writing
from rich.console import Console
from rich.table import Table

import alphaflow as af

SHAPE = (8, 32, 32)
BATCH = 256


def write(place: Path, count: int) -> None:
    """The same random moments in three forms."""
    plan: dict[str, Any] = {"made by": "benchmarks/loader.py"}
    begin(place / "shards", plan)
    (place / "npy").mkdir()
    (place / "pickle").mkdir()
    noise = np.random.default_rng(0)
    for number in range(0, count, 1000):
        with writing(place / "shards", "train", number // 1000) as writer:
            for index in range(number, min(number + 1000, count)):
                array = noise.standard_normal(SHAPE, np.float32).astype(np.float16)
                array[4:] = np.abs(array[4:])
                writer.add(index, array, index % 10, {"source": str(index)})
                np.save(place / "npy" / f"{index}.npy", array)
                with (place / "pickle" / f"{index}.pkl").open("wb") as stream:
                    pickle.dump({"latent": array, "label": index % 10}, stream)
    about = {
        "autoencoder": None, "versions": {}, "shape": [4, 32, 32], "stored_shape": list(SHAPE), "posterior": True,
        "shift": [0.0] * 4, "scale": [0.18215] * 4, "measured": False, "classes": 10,
        "class_names": [str(i) for i in range(10)],
    }  # fmt: skip
    parts = list(finished_shards(place / "shards").values())
    finish(place / "shards", plan, about, parts, [])


def one_by_one(count: int, load: Callable[[int], np.ndarray[Any, Any]]) -> Iterator[int]:
    """Shuffled batches, a file a sample."""
    while True:
        order = np.random.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            batch = torch.from_numpy(np.stack([load(int(i)) for i in order[start : start + BATCH]])).float()
            yield len(batch)


def shards(place: Path, draw: bool) -> Iterator[int]:
    """Batches of LatentShards: how many samples each has."""
    for batch in af.LatentShards(place, batch_size=BATCH, seed=0, draw=draw):
        yield len(batch.x)


def rate(stream: Iterator[int], seconds: float) -> float:
    """Samples a second."""
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        seen += next(stream)
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place, count = Path(folder), arguments.samples
        write(place, count)

        def pickled(index: int) -> np.ndarray[Any, Any]:
            with (place / "pickle" / f"{index}.pkl").open("rb") as stream:
                found: np.ndarray[Any, Any] = pickle.load(stream)["latent"]
            return found

        streams = {
            "LatentShards, moments": shards(place / "shards", draw=False),
            "LatentShards, drawn": shards(place / "shards", draw=True),
            "a .npy a sample": one_by_one(count, lambda i: np.load(place / "npy" / f"{i}.npy")),
            "a pickle a sample": one_by_one(count, pickled),
        }
        for stream in streams.values():  # page cache and first batches
            rate(stream, 1.0)
        rounds = [
            {name: rate(stream, arguments.seconds) for name, stream in streams.items()} for _ in range(arguments.rounds)
        ]
    medians = {name: statistics.median(row[name] for row in rounds) for name in streams}
    ratios = {name: [row["LatentShards, moments"] / row[name] for row in rounds] for name in streams}
    table = Table(
        "reader", "samples/s", "rounds", "moments ÷ this", title="moments 8×32×32, batches of 256, one thread"
    )
    for name in streams:
        low, high = min(row[name] for row in rounds), max(row[name] for row in rounds)
        spread = f"{statistics.median(ratios[name]):.1f} ({min(ratios[name]):.1f} … {max(ratios[name]):.1f})"
        table.add_row(name, f"{medians[name]:,.0f}", f"{low:,.0f} … {high:,.0f}", spread)
    Console(width=100).print(table)
    out = Path(__file__).parent / "results" / "loader.json"
    record = {"date": date.today().isoformat(), "torch": torch.__version__, "device": "CPU, one thread"}
    out.write_text(json.dumps({**record, "samples": count, "medians": medians, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
