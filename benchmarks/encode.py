"""Encoding: its rate against the autoencoder alone and against decoding alone, and its memory against the data's size.

    python benchmarks/encode.py --images FOLDER|ZIP [--many ZIP] [--autoencoder-images 16] [--rounds 3]

- An AutoencoderKL of Stable Diffusion's size with random weights, 256²: images/s on ready tensors, and while encoding
  files. Needs diffusers.
- `Pixels` at 256²: images/s of decoding alone in as many worker processes, and while encoding.
- Peak memory of the main process for 200 images and for all of --many (Linux).

Interleaved rounds, medians and spread; writes benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from alphaflow.data_tools.decode import Decoder, ImageTransform
from alphaflow.data_tools.encode import encode, encode_pixels
from alphaflow.data_tools.plan import EncodeOptions
from rich.console import Console
from rich.table import Table

import alphaflow as af
from alphaflow.data.listing.listing import Listing, list_files

BATCH = 4


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first(source: Listing, count: int) -> Listing:
    return replace(source, entries=source.entries[:count])


def autoencoder(place: Path) -> af.DiffusersVAE:
    """Stable Diffusion's AutoencoderKL, 84M parameters, random."""
    import diffusers

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    vae.save_pretrained(place)
    return af.DiffusersVAE(str(place))


def against_the_autoencoder(source: Listing, count: int, place: Path) -> dict[str, float]:
    """Images/s of the autoencoder on ready tensors and while encoding."""
    vae, chosen, workers = autoencoder(place / "vae"), first(source, count), 1
    ready = torch.randint(256, (BATCH, 256, 256, 3), dtype=torch.uint8)
    encode_pixels(vae, ready)
    alone = seconds(lambda: [encode_pixels(vae, ready) for _ in range(count // BATCH)])
    options = EncodeOptions(batch_size=BATCH, workers=workers, samples_per_shard=count)
    progress = encode(chosen, place / "out", vae, ImageTransform(256), options)
    return {"alone": count / alone, "encoding": count / progress.seconds}


def against_decoding(source: Listing, place: Path) -> dict[str, float]:
    """Images/s of decoding in a worker process alone and while encoding pixels. Both start their worker."""
    transform = ImageTransform(256)

    def decode() -> None:
        with Decoder(transform, 1) as decoder:
            for _ in decoder((i, entry, 0) for i, entry in enumerate(source.entries)):
                pass

    alone = seconds(decode)
    options = EncodeOptions(workers=1, max_rejects=1.0)
    whole = seconds(lambda: encode(source, place / "out", af.Pixels(), transform, options))
    return {"alone": len(source.entries) / alone, "encoding": len(source.entries) / whole}


def memory(path: Path, count: int) -> dict[str, float]:
    """Peak memory in MiB of a process that encodes so many images of 32²."""
    call = [sys.executable, __file__, "--memory", json.dumps([str(path), count])]
    done = subprocess.run(call, env=os.environ, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak(path: str, count: int) -> None:
    source = first(list_files(Path(path), "images"), count)
    with tempfile.TemporaryDirectory() as folder:
        encode(source, Path(folder) / "out", af.Pixels(), ImageTransform(32), EncodeOptions(workers=1, batch_size=32))
    # getrusage's maximum is inherited from the parent on Linux; this one begins with the process
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(json.dumps({"images": len(source.entries), "MiB": round(int(line.split()[1]) / 1024, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--many", type=Path)
    parser.add_argument("--autoencoder-images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory is not None:
        peak(*json.loads(arguments.memory))
        return
    source = list_files(arguments.images, "images")
    rows: dict[str, list[dict[str, float]]] = {"autoencoder": [], "decoding": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rows["autoencoder"].append(against_the_autoencoder(source, arguments.autoencoder_images, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            rows["decoding"].append(against_decoding(source, Path(folder)))
    table = Table("bottleneck", "alone, images/s", "encoding, images/s", "encoding ÷ alone")
    for name, found in rows.items():
        ratios = [row["encoding"] / row["alone"] for row in found]
        medians = [f"{statistics.median(row[key] for row in found):.2f}" for key in ("alone", "encoding")]
        table.add_row(name, *medians, f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})")
    Console(width=100).print(table)
    record: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__, "rounds": rows}
    if arguments.many is not None:
        record["memory"] = [memory(arguments.many, 200), memory(arguments.many, 10**9)]
        print(", ".join(f"{row['images']:.0f} images: {row['MiB']} MiB" for row in record["memory"]))
    out = Path(__file__).parent / "results" / "encode.json"
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
