"""How long one sample takes, network and decoder: as it is, in half precision, compiled, and as exported programs.

    python benchmarks/latency.py [--size B] [--rounds 7]
    python benchmarks/latency.py --device cuda --size XL

Batches of 1, one network evaluation: a DiT over latents 4×32×32 with random weights, which cost what trained ones do,
and a decoder of Stable Diffusion's shape (diffusers' AutoencoderKL, random weights, too) to 256×256 pixels. On a CPU
one pinned thread, process time; interleaved, medians. The decoder's time is what a whole sample takes more than its
latent. Writes benchmarks/results/latency.json (latency-SIZE.json on a GPU).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import onnxruntime
import torch
from measure import interleaved, pin, spread, write
from rich.console import Console
from rich.table import Table

import alphaflow as af
from alphaflow.weights.standalone import Standalone, export_program

DECODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 256,
}


def made(size: str, place: Path, device: str) -> Path:
    """A run that nobody trained, and its autoencoder."""
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**DECODER).save_pretrained(place / "vae")
    latents = af.Arrays(x=torch.randn(2, 4, 32, 32), labels=torch.arange(2))
    model = getattr(af.DiT, size)((4, 32, 32), patch=2, classes=1000)
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    recipe = af.Recipe(
        model=model,
        objective=af.MeanFlow(),
        dataset=latents,
        steps=1,
        samplers=(af.ODE(1),),
        autoencoder=af.DiffusersVAE(str(place / "vae")),
    )
    af.Trainer(recipe, out=place / "run", display=None, device=device).save()
    return place / "run"


def calls(run: Path, place: Path, device: str) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed, by way and by whether it is decoded."""
    found: dict[str, dict[str, Callable[[], object]]] = {}

    def keep(way: str, part: str, call: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> None:
        def work() -> None:
            with torch.inference_mode():
                call(*inputs)

        work()  # what compiles does so now
        found.setdefault(way, {})[part] = work

    ways = {"as it is": torch.float32, "bfloat16": torch.bfloat16}
    for way, dtype in ways.items():
        opened = af.Run(run, device=device, dtype=dtype)
        for part, decode in (("latent", False), ("sample", True)):
            module = Standalone(opened, 1, decode=decode).eval()
            keep(way, part, module, module.example(1))
            if dtype == torch.float32:
                keep("compiled", part, torch.compile(module), module.example(1))
    opened = af.Run(run, device=device)
    for part, decode in (("latent", False), ("sample", True)):
        file, _ = export_program(opened, place / f"{part}.pt2", decode=decode)
        inputs = Standalone(opened, 1).example(1)
        keep("torch.export", part, torch.export.load(file).module(), inputs)
        file, _ = export_program(opened, place / f"{part}.onnx", decode=decode)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        kind = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        session = onnxruntime.InferenceSession(str(file), options, providers=[kind])
        feeds = {name: x.cpu().numpy() for name, x in zip(("noise", "labels"), inputs, strict=True)}
        keep("ONNX", part, lambda s=session, f=feeds: s.run(None, f), ())
    return found


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["S", "B", "L", "XL"], default="B")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    pin(device)
    with tempfile.TemporaryDirectory() as folder:
        run = made(given.size, Path(folder), given.device)
        works = calls(run, Path(folder), given.device)
        flat = {f"{way}, {part}": work for way, parts in works.items() for part, work in parts.items()}
        found = interleaved(flat, device, given.rounds)
    table = Table("", "network", "decoder", "sample", title=f"DiT-{given.size}/2 at 1 NFE, batch 1, milliseconds")
    times = {name: [1000 * second for second in seconds] for name, seconds in found.items()}
    for way in works:
        latent, sample = times[f"{way}, latent"], times[f"{way}, sample"]
        rest = f"{statistics.median(sample) - statistics.median(latent):.0f}"
        table.add_row(way, *(f"{statistics.median(each):.0f}" for each in (latent,)), rest, spread(sample))
    Console(width=100).print(table)
    name = f"latency-{given.size}" if device.type == "cuda" else "latency"
    write(name, device, settings=vars(given), milliseconds=times)


if __name__ == "__main__":
    main()
