"""Digits by sentences: how often one gets the digit that was asked for, of sentences that training saw and others.

    python benchmarks/captioned.py [--seeds 0,1,2] [--jobs 2] [--runs FOLDER] [--picture docs/captioned-digits.png]

Trains recipes/captioned_digits.py by the command line, one thread a run, and makes about 1,000 digits of each kind of
sentence. A digit counts if most of its neighbours among the real ones are what was asked for (`label_agreement`).
Writes benchmarks/results/captioned.json. Runs that are finished in --runs already are not trained again.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from alphaflow.recipes.captioned_digits import sentences
from digits import alphaflow
from measure import write
from rich.console import Console
from rich.table import Table
from torch import Tensor
from upscale import spread

import alphaflow as af

NFES, EACH = (1, 2, 4), 1000
KINDS = {
    "sentences of training": [pair for i, pair in enumerate(sentences()) if i % 7 != 4],
    "sentences never seen": [pair for i, pair in enumerate(sentences()) if i % 7 == 4],
}


def made(place: Path, texts: list[str], nfe: int, seed: int) -> Tensor:
    """A digit (1, 8, 8) for each sentence."""
    tokens, mask = af.ByteText(length=24).encode(texts)
    return af.Run(place).sample(cond=af.Cond(tokens=tokens, mask=mask), nfe=nfe, seed=seed, dtype=torch.float32)


def of_seed(seed: int, runs: Path) -> list[dict[str, Any]]:
    """A row a kind of sentence and number of evaluations."""
    torch.set_num_threads(1)
    place = runs / str(seed)
    alphaflow("train", "captioned-digits", "--seed", seed, "--out", place, "--resume")
    real = af.Digits().all()
    assert real.cond.labels is not None
    found = []
    for kind, pairs in KINDS.items():
        texts = [text for text, _ in pairs] * (EACH // len(pairs))
        labels = torch.tensor([digit for _, digit in pairs] * (EACH // len(pairs)))
        for nfe in NFES:
            x = made(place, texts, nfe, seed).clamp(-1, 1).flatten(1)
            agreement = af.metrics.label_agreement(real.x.flatten(1), real.cond.labels, x, labels)
            found.append({"kind": kind, "nfe": nfe, "seed": seed, "samples": len(x), "agreement": agreement})
    print(place, flush=True)
    return found


def draw(place: Path, file: Path) -> None:
    """Eight digits for each of the sentences that were never seen, at one evaluation."""
    from matplotlib.figure import Figure

    texts = [text for text, _ in KINDS["sentences never seen"]]
    x = made(place, [text for text in texts for _ in range(8)], 1, 0).clamp(-1, 1).view(len(texts), 8, 8, 8)
    figure = Figure(figsize=(7, 0.55 * len(texts)))
    figure.subplots_adjust(left=0.32, right=1, bottom=0, top=1, hspace=0.12)
    for axis, text, row in zip(figure.subplots(len(texts)), texts, x, strict=True):
        strip = torch.cat([torch.nn.functional.pad(digit, (0, 1), value=1.0) for digit in row], 1)
        axis.imshow(strip[:, :-1], "gray", vmin=-1, vmax=1, aspect="auto")
        axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.savefig(file, dpi=100)


def main() -> None:
    """Trains and measures what isn't yet, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "captioned")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = [row for found in pool.map(lambda seed: of_seed(seed, arguments.runs), seeds) for row in found]
    table = Table("", "NFE", "the digit that was asked for, %")
    for kind in KINDS:
        for nfe in NFES:
            shares = [100 * row["agreement"] for row in rows if (row["kind"], row["nfe"]) == (kind, nfe)]
            table.add_row(kind, str(nfe), spread(shares))
    Console(width=100).print(table)
    write("captioned", torch.device("cpu"), rows=rows, unseen=[text for text, _ in KINDS["sentences never seen"]])
    if arguments.picture is not None:
        draw(arguments.runs / str(seeds[0]), arguments.picture)


if __name__ == "__main__":
    main()
