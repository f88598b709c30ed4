"""Every process gets the whole result of an evaluation, and what goes wrong in the first is raised in all."""

import json
import os
import sys
from pathlib import Path

import torch

import alphaflow as af
from alphaflow.parallel.world import leave

clips = torch.randint(256, (24, 1, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
still = clips[:, :, :1].expand_as(clips)
found = af.evaluate(
    af.InMemorySamples(clips // 2), af.InMemorySamples(clips), metrics=("motion",), batch_size=4, device="cpu"
)
values = {row.name: row.values for row in found.rows}
lines = [json.dumps([values, found.protocol["processes"], found.protocol["reference"]["count"]])]
try:
    af.evaluate(af.InMemorySamples(clips), af.InMemorySamples(still), metrics=("motion",), device="cpu")
except af.UserError as error:
    lines.append(str(error))
Path(f"{sys.argv[1]}-{os.environ['RANK']}").write_text("\n".join(lines), encoding="utf-8")
leave()
