"""Other projects' checkpoints as runs: against a forward pass written out from what was published, and bad files."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pickle
import struct
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import alphaflow as af
from alphaflow.models.noise_prediction import NoisePrediction
from alphaflow.runs import checkpoint as writing
from alphaflow.weights.layouts import LAYOUTS
from alphaflow.weights.weight_reading import read_state

WIDTH, DEPTH, HEADS, CHANNELS, PATCH, SIDE, CLASSES = 48, 2, 4, 3, 2, 8, 10
TIMES = {"meanflow": ("t_embedder", "r_embedder")}
TIMES["alphaflow"] = ("noise_labels_embedder", "noise_labels_next_embedder")
KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
State = dict[str, Tensor]
Here = Callable[..., Any]


def published(layout: str, channels: int = CHANNELS, rows: int = CLASSES + 1, seed: int = 0) -> State:
    """Random weights with the names and shapes that a project gives them, float64."""
    generator = torch.Generator().manual_seed(seed)
    found: State = {}

    def layer(name: str, *shape: int) -> None:
        scale = 1 / math.sqrt(math.prod(shape[1:]))
        found[f"{name}.weight"] = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        found[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=generator, dtype=torch.float64)

    layer("x_embedder.proj", WIDTH, channels, PATCH, PATCH)
    for name in TIMES.get(layout, ("t_embedder",)):
        layer(f"{name}.mlp.0", WIDTH, 256)
        layer(f"{name}.mlp.2", WIDTH, WIDTH)
    for i in range(DEPTH):
        for name, out, into in (
            ("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4), ("adaLN_modulation.1", 6, 1),
        ):  # fmt: skip
            layer(f"blocks.{i}.{name}", out * WIDTH, into * WIDTH)
    layer("final_layer.linear", PATCH * PATCH * channels * (2 if layout in ("dit", "sit") else 1), WIDTH)
    layer("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    for i in (0, 2, 4) if layout == "repa" else ():
        layer(f"projectors.0.{i}", 7, 7)
    found["y_embedder.embedding_table.weight"] = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    index, rates = torch.arange(SIDE // PATCH), 10_000 ** (-torch.arange(WIDTH // 4, dtype=torch.float64) / (WIDTH / 4))
    column, row = (place[:, None] * rates for place in (index.repeat(len(index)), index.repeat_interleave(len(index))))
    found["pos_embed"] = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], 1)[None].float()
    if layout != "alphaflow":
        return found
    mean, spread = torch.rand(2, 1, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)
    beside = {"autoencoder.decoder.weight": torch.zeros(3), "are_ldm_stats_inited": torch.tensor(True)}
    return {f"model.{n}": w for n, w in found.items()} | beside | {"autoencoder_mean": mean, "autoencoder_var": spread}


def single(weights: State) -> State:
    return {n: w if n.startswith("autoencoder_") or w.dtype == torch.bool else w.float() for n, w in weights.items()}


def forward(weights: State, z: Tensor, labels: Tensor, **times: Tensor) -> Tensor:
    """The published networks' forward pass, in float64; the first of their output's channels."""
    weights = {name.removeprefix("model."): weight.double() for name, weight in weights.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    x = F.conv2d(z, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=PATCH)
    x = x.flatten(2).mT + weights["pos_embed"]
    c = weights["y_embedder.embedding_table.weight"][torch.where(labels < 0, CLASSES, labels)]
    rates = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
    for name, time in times.items():
        angles = time[:, None] * rates
        c = c + linear(f"{name}.mlp.2", F.silu(linear(f"{name}.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    c, (b, n, _) = F.silu(c), x.shape
    for i in range(DEPTH):
        part = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, dim=1)
        qkv = linear(f"blocks.{i}.attn.qkv", normed(x, part[0], part[1]))
        q, k, v = qkv.reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = ((q @ k.mT) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        x = x + part[2][:, None] * linear(f"blocks.{i}.attn.proj", seen.transpose(1, 2).reshape(b, n, WIDTH))
        hidden = F.gelu(linear(f"blocks.{i}.mlp.fc1", normed(x, part[3], part[4])), approximate="tanh")
        x = x + part[5][:, None] * linear(f"blocks.{i}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    out, side = linear("final_layer.linear", normed(x, shift, scale)), math.isqrt(n)
    out = torch.einsum("nhwpqc->nchpwq", out.reshape(b, side, side, PATCH, PATCH, -1))
    return out.reshape(b, -1, side * PATCH, side * PATCH)[:, : z.shape[1]]


def time_of(tau: Tensor) -> Tensor:
    """The t of DDPM's steps: t/(1 − t) = √(1/ᾱ − 1)."""
    ratio = (1 / KEPT[tau] - 1).sqrt()
    return ratio / (1 + ratio)


def expected(layout: str, weights: State, z: Tensor, r: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """u(z, r, t) as what the project publishes has it; of noise predictors at t of the schedule's steps."""
    if layout == "dit":
        tau = (time_of(torch.arange(1000))[None] - t[:, None]).abs().argmin(1)
        rest = (1 - t)[:, None, None, None]
        noise = forward(weights, z * KEPT[tau].sqrt()[:, None, None, None] / rest, labels, t_embedder=tau.double())
        return (noise - z) / rest
    if layout == "sit":  # from noise at 0 to data at 1
        return -forward(weights, z, labels, t_embedder=1 - t)
    return forward(weights, z, labels, **dict(zip(TIMES.get(layout, ("t_embedder",)), (t, t - r), strict=False)))


def inputs(layout: str = "sit") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples, times r ≤ t with both ends and r = t, labels with and without 'no class'."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(6, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
    r, t = torch.rand(2, 6, generator=generator, dtype=torch.float64).sort(dim=0).values
    t[0], r[1], r[2] = 1, 0, t[2]
    if layout == "dit":
        t = time_of(torch.tensor([0, 1, 7, 500, 998, 999]))
    return z, r, t, torch.tensor([-1, 0, 9, -1, 4, 4])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach()).norm() / b.detach().norm())


@pytest.fixture(scope="module", params=["dit", "sit", "repa", "meanflow", "alphaflow"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class EasyDict(dict[str, Any]):
    """Stands for α-Flow's records, which are of a module that isn't there when they are read; and so does the next."""


class TensorGroup:
    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors


def checkpoint(layout: str, place: Path) -> Path:
    """Weights in the form in which a project saves them, each in another."""
    weights, other = single(published(layout)), single(published(layout, seed=1))
    file = place / f"{layout}.{'safetensors' if layout == 'meanflow' else 'pt'}"
    if layout == "meanflow":
        save_file(weights, file)
    elif layout == "repa":
        options = argparse.Namespace(lr=1e-4, where=Path("x"))
        torch.save({"model": other, "ema": {f"module.{n}": w for n, w in weights.items()}, "args": options}, file)
    elif layout == "alphaflow":
        sys.modules |= {"src": types.ModuleType("src"), "src.structs": types.ModuleType("src.structs")}
        for kind in (EasyDict, TensorGroup):
            kind.__module__ = "src.structs"
            setattr(sys.modules["src.structs"], kind.__name__, kind)
        shown = {"x": TensorGroup(label=torch.zeros(3)), "y": EasyDict(label=torch.zeros(3))}
        beside = {"cfg": {"a": [1]}, "stats": {"fid": np.float64(3)}, "vis": shown, "optimizer": {}}
        torch.save({"net": other, "ema": weights, **beside}, file)
        del sys.modules["src"], sys.modules["src.structs"]
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=layout == "dit")
    return file


@pytest.fixture(scope="module")
def converted(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a layout's checkpoint. Not to be changed."""
    place = tmp_path_factory.mktemp(layout)
    return af.convert(checkpoint(layout, place), place / "new" / "run", layout, heads=HEADS)


@pytest.fixture
def sit(tmp_path: Path) -> Path:
    """A checkpoint of SiT alone in a folder."""
    torch.save(single(published("sit")), tmp_path / "sit.pt")
    return tmp_path / "sit.pt"


def rebuilt(layout: str) -> Any:
    """The network of `published`'s weights, in float64."""
    meta, weights = LAYOUTS[layout].network(published(layout), heads=HEADS)
    model = af.DiT(**meta.config).double()
    model.load_state_dict(weights)
    return NoisePrediction(model) if layout == "dit" else model


def called(model: Any, z: Tensor, r: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """What a network of float32 gives."""
    with torch.no_grad():
        u: Tensor = model(z.float(), r.float(), t.float(), af.Cond(labels=labels))
    return u


def test_weights_compute_what_was_published(layout: str) -> None:
    z, r, t, labels = inputs(layout)
    u = rebuilt(layout)(z, r, t, af.Cond(labels=labels)).detach()
    assert distance(u, expected(layout, published(layout), z, r, t, labels)) < 1e-12


def test_a_converted_run_computes_it(layout: str, converted: Path) -> None:
    """In float32, with the averaged weights, which are the raw ones too; a flow model's doesn't see r, to the bit."""
    z, r, t, labels = inputs(layout)
    model, raw = (af.Run(converted, device="cpu", ema=ema).model for ema in (True, False))
    u = called(model, z, r, t, labels)
    near = 1e-3 if layout == "dit" else 1e-5  # float32 has few digits left of steps up to 999
    assert distance(u, expected(layout, single(published(layout)), z, r, t, labels)) < near
    assert torch.equal(u, called(raw, z, r, t, labels))
    for other in (t, r / 2, 0 * t):
        assert torch.equal(u, called(model, z, other, t, labels)) == (layout not in TIMES)
    record = json.loads((converted / "run.json").read_text())
    assert record["converted"]["project"] == LAYOUTS[layout].project
    assert [place.name for place in converted.parent.iterdir()] == ["run"]


def test_euler_steps_of_a_noise_predictor_are_ddim() -> None:
    weights, (model, passed) = published("dit"), (rebuilt("dit"), [])
    steps, labels = torch.arange(999, 36, -37), torch.tensor([-1, 0, 3])

    def watching(z: Tensor, *arguments: Any) -> Tensor:
        passed.append(z)
        u: Tensor = model(z, *arguments)
        return u

    noise = torch.randn(3, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    af.ODE(times=(1.0, *time_of(steps).tolist(), 0.0), solver="euler")(watching, noise, af.Cond(labels=labels))
    scales = KEPT[steps].sqrt() / (1 - time_of(steps))
    x = passed[1] * scales[0]
    for now, then in itertools.pairwise(steps):
        predicted = forward(weights, x, labels, t_embedder=now.double().expand(3))
        clean = (x - (1 - KEPT[now]).sqrt() * predicted) / KEPT[now].sqrt()
        x = KEPT[then].sqrt() * clean + (1 - KEPT[then]).sqrt() * predicted
    assert distance(passed[-1] * scales[-1], x) < 1e-10


@pytest.mark.parametrize("time", [1.0, 0.0, 0.4])
def test_a_noise_predictor_has_a_derivative(time: float) -> None:
    """And MeanFlow's loss a gradient; inside the schedule it is the central difference's."""
    model, z, cond = rebuilt("dit"), inputs()[0], af.Cond(labels=inputs()[3])
    always: Any = types.SimpleNamespace(sample=lambda b, *_: torch.full((b,), time))
    loss = af.MeanFlow(fm_share=0.0, times=always)(model, z, cond)
    gradients = torch.autograd.grad(loss.total, [model.inner.final.out.weight, model.inner.embed_t.hidden.weight])
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
    t = torch.full((6,), time, dtype=torch.float64)
    du = af.total_derivative(model, z, t, t, cond, torch.ones_like(z))[1]
    low, high = (model(z + h, t, t + h, cond) for h in (-1e-7, 1e-7))
    assert du.isfinite().all()
    assert time in (0, 1) or distance(du, (high - low) / 2e-7) < 1e-6


def recipe(model: Any, objective: af.Objective) -> af.Recipe:
    shape, classes = model.config["shape"], model.config["classes"]
    data = af.Arrays(torch.randn(32, *shape), labels=torch.arange(32) % classes, batch_size=16, seed=0)
    return af.Recipe(model=model, objective=objective, dataset=data, samplers=(af.ODE(1),), steps=4, lr=1e-3)


def tuned(run: Path, model: Any) -> af.Trainer:
    """Training of MeanFlow from a run, in a network like this one."""
    return af.Trainer(recipe(af.DiT(**model.config), af.MeanFlow()), start=run)


def learns_jumps(trainer: af.Trainer) -> bool:
    model: Any = trainer.model
    before = model.embed_jump.out.weight.detach().clone()
    trainer.train_step()
    return bool((model.embed_jump.out.weight != before).any())


def test_training_starts_from_it(layout: str, converted: Path) -> None:
    """At the same output, to the bit, and can learn. A noise predictor is no start for a network of velocities."""
    run = af.Run(converted, device="cpu").model
    if layout == "dit":
        with pytest.raises(af.UserError):
            tuned(converted, run.inner)
        return
    trainer = tuned(converted, run)
    z, r, t, labels = inputs()
    assert all(torch.equal(*(called(m, z, end, t, labels) for m in (trainer.model, run))) for end in (r, t, 0 * t))
    assert learns_jumps(trainer)


@pytest.mark.parametrize("late", [None, 1])
def test_jumps_start_as_the_flow_models_velocity(late: int | None, tmp_path: Path) -> None:
    """Of a run of ours, whose embedding of t − r never saw another length than zero."""
    flow: Any = af.DiT((1, 4, 4), patch=2, depth=2, width=16, heads=2, classes=3, late=late)
    for weight in flow.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    af.Trainer(recipe(flow, af.FlowMatching()), out=tmp_path / "flow").fit()
    flow = af.Run(tmp_path / "flow", device="cpu").model
    trainer = tuned(tmp_path / "flow", flow)
    z, labels, (r, t) = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, -1, 0]), torch.rand(2, 5).sort(dim=0).values
    start, same = (called(trainer.model, z, end, t, labels) for end in (r, t))
    assert torch.equal(start, same)
    assert distance(called(flow, z, t, t, labels), start) < 1e-6
    assert distance(called(flow, z, r, t, labels), start) > 1e-3
    assert learns_jumps(trainer)


def test_which_weights_a_checkpoint_has(tmp_path: Path) -> None:
    average, raw = ({"layer.weight": torch.full((2,), value)} for value in (1.0, 2.0))
    for number, (found, value, ema) in enumerate([
        ({"model": raw, "ema": average, "step": 3}, 1, True), ({"model": raw, "ema": average}, 2, False),
        ({"state_dict": raw}, 2, True), ({"ema": {"module._orig_mod.layer.weight": average["layer.weight"]}}, 1, True),
        ({"model": {"state_dict": raw, "step": 3}}, 2, True), (raw, 2, True),
    ]):  # fmt: skip
        torch.save(found, tmp_path / f"{number}.pt")
        read = read_state(tmp_path / f"{number}.pt", ema=ema)
        assert {name: weight.tolist() for name, weight in read.items()} == {"layer.weight": [value, value]}


def test_classes_by_the_rows_of_their_embedding(tmp_path: Path) -> None:
    """With a row for 'no class' and without; and the latents' moments that α-Flow keeps."""
    for rows, given, classes in ((11, None, 10), (10, None, 10), (10, 9, 9), (4, None, 3)):
        model, weights = LAYOUTS["sit"].network(published("sit", rows=rows), heads=HEADS, classes=given)
        assert (model.classes, len(weights["embed_class.weight"])) == (classes, classes + 1)
    kept = single(published("alphaflow", channels=4))
    torch.save(kept, tmp_path / "latents.pt")
    af.convert(tmp_path / "latents.pt", tmp_path / "run", "alphaflow", heads=HEADS)
    decoder: Any = af.Run(tmp_path / "run", device="cpu").autoencoder
    z = torch.randn(2, 4, SIDE, SIDE, dtype=torch.float64)
    raw = z * (kept["autoencoder_var"] + 1e-16).sqrt() + kept["autoencoder_mean"]
    assert torch.allclose(decoder.normalisation.inverse(z), raw, rtol=1e-12)


def contents(place: Path) -> dict[Path, bytes | None]:
    return {file: file.read_bytes() if file.is_file() else None for file in sorted(place.rglob("*"))}


def refused(here: Here, src: Path, out: Path, *more: Any, layout: str = "sit", says: str = "") -> None:
    """In one line with status 2, and everything in the checkpoint's folder is as it was."""
    before = contents(src.parent)
    with warnings.catch_warnings(record=True) as warned:  # they are further lines
        warnings.simplefilter("always")
        done = here("convert", src, out, "--from", layout, *(more or ("--heads", HEADS)))
    assert (done.status, len(done.err.strip().splitlines()), warned) == (2, 1, []), done.err
    assert says in done.err
    assert len(done.err) < 700
    assert before == contents(src.parent)


class Marks:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 2", "protocol 4"])
def test_code_in_a_file_is_not_run(form: str, tmp_path: Path, here: Here) -> None:
    file, mark = tmp_path / "evil.pt", tmp_path / "mark"
    found = {"ema": {"x": torch.zeros(2)}, "more": Marks(mark)}
    if form.startswith("protocol"):
        file.write_bytes(pickle.dumps(found, protocol=int(form[-1])))
    else:
        torch.save(found, file, _use_new_zipfile_serialization=form == "zip")
    refused(here, file, tmp_path / "run", says="mkdir" if form in ("zip", "legacy") else "")
    assert not mark.exists()


def test_broken_files(tmp_path: Path, here: Here) -> None:
    """Cut short anywhere, of other kinds, or with sizes that no file has."""
    weights, place = single(published("sit")), tmp_path / "files"
    place.mkdir()
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "x.safetensors")
    wholes = [tmp_path / name for name in ("zip.pt", "legacy.pt", "x.safetensors")]
    shape = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 16]}}).encode()
    files = [(".safetensors", struct.pack("<Q", len(shape)) + shape + bytes(16))]
    files += [(".safetensors", struct.pack("<Q", 2**62) + b"{}"), (".pt", wholes[2].read_bytes())]
    files += [(kind, b"hello\nworld") for kind in (".pt", ".safetensors")]
    files += [(".pt", b"\x89PNG\r\n\x1a\n" + bytes(99)), (".pt", b'{"a": 1}')]
    for whole in wholes:
        data = whole.read_bytes()
        files += [(whole.suffix, data[:end]) for end in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1)]
    for suffix, data in files:
        (place / f"x{suffix}").write_bytes(data)
        refused(here, place / f"x{suffix}", place / "run", says="damaged")


def test_dictionaries_without_end(tmp_path: Path, here: Here) -> None:
    """One that holds itself, and a thousand in each other."""
    cyclic: dict[str, Any] = {}
    cyclic["model"] = cyclic
    torch.save(cyclic, tmp_path / "cyclic.pt")
    refused(here, tmp_path / "cyclic.pt", tmp_path / "run")
    torch.save({}, tmp_path / "flat.pt")
    with zipfile.ZipFile(tmp_path / "flat.pt") as flat, zipfile.ZipFile(tmp_path / "deep.pt", "w") as deep:
        for name in flat.namelist():
            nested = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 1000 + b"}" + b"s" * 1000 + b"."
            deep.writestr(name, nested if name.endswith("data.pkl") else flat.read(name))
    refused(here, tmp_path / "deep.pt", tmp_path / "run", says="no weights")


def test_other_networks(tmp_path: Path, here: Here) -> None:
    """Which weights are missing or left over, or don't fit; whatever their shapes and types."""
    good: dict[Any, Tensor] = {**single(published("sit"))}
    file = tmp_path / "x.pt"
    name, table = "t_embedder.mlp.2.weight", "y_embedder.embedding_table.weight"
    for layout, found, says in [
        ("meanflow", good, "lacks r_embedder.mlp.0.bias"),
        ("sit", single(published("meanflow")), "r_embedder.mlp.0.bias, r_embedder.mlp.0.weight, r_embedder.mlp.2.bias"),
        ("sit", single(published("repa")), "projectors.0.0.bias"), ("alphaflow", good, "no model.x_embedder"),
        ("repa", good, ""), ("sit", {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "no x_embedder.proj.weight"),
        ("sit", {1: torch.zeros(2), (2, 3): torch.zeros(2)}, "no x_embedder"), ("sit", {**good, 5: good[name]}, "5"),
        ("sit", {**good, "a\nb\x1b[31m": good[name]}, r"a\nb"), ("sit", {**good, "x" * 99_999: good[name]}, ""),
        ("sit", {}, "no weights"), ("sit", [good], "no weights"), ("sit", torch.zeros(2), "no weights"),
        ("sit", {**good, "pos_embed": torch.randn_like(good["pos_embed"])}, "positions"),
        ("sit", {n.replace("blocks.1", "blocks.5"): w for n, w in good.items()}, "lacks blocks.1."),
        ("sit", {**good, table: good[table][:0]}, ""), ("sit", {**good, "pos_embed": good["pos_embed"][:, :0]}, ""),
        ("sit", {**good, "x_embedder.proj.weight": torch.zeros(0, 3, 2, 2)}, ""),
        *(("sit", {**good, n: torch.zeros(shape)}, "") for n in good for shape in ((), (5,), (1,) * 7) if "1" not in n),
        *(("sit", {**good, name: good[name] * bad}, "") for bad in (math.nan, math.inf)),
        *(("sit", {**good, name: good[name].to(kind)}, "") for kind in (torch.long, torch.bool, torch.complex64)),
        ("sit", {**good, name: good[name].to_sparse()}, ""), ("sit", {**good, name: good[name].to("meta")}, ""),
    ]:  # fmt: skip
        torch.save(found, file)
        refused(here, file, tmp_path / "run", layout=layout, says=says)


def test_weights_of_other_kinds(tmp_path: Path) -> None:
    """Views of one tensor, one under two names, and half precision, which nothing is rounded to again."""
    half = {n: w if n == "pos_embed" else w.bfloat16() for n, w in published("sit").items()}
    parts = torch.cat([w.flatten() for w in half.values()]).bfloat16().split([w.numel() for w in half.values()])
    views = {name: part.view_as(w) for (name, w), part in zip(half.items(), parts, strict=True)}
    views["pos_embed"] = half["pos_embed"]
    half["blocks.1.attn.proj.weight"] = half["blocks.0.attn.proj.weight"]
    for found in (views, half):
        torch.save(found, tmp_path / "x.pt")
        out = af.convert(tmp_path / "x.pt", tmp_path / str(len(list(tmp_path.iterdir()))), "sit", heads=HEADS)
        u = called(af.Run(out, device="cpu").model, *inputs())
        assert distance(u, expected("sit", found, *inputs())) < 1e-5


def test_wrong_options_and_places(sit: Path, here: Here) -> None:
    place, heads = sit.parent, ("--heads", HEADS)
    (place / "full").mkdir()
    (place / "full" / "foreign").write_text("precious")
    for out, more, says in (
        ("run", ("--classes", 10), "--heads"), ("run", ("--heads", 5), "heads must divide"),
        ("run", (*heads, "--classes", 7), "--classes 7"), ("full", heads, "not empty"), ("sit.pt", heads, "no folder"),
        ("sit.pt/run", heads, "can't be written"), ("/proc/run", heads, "/proc/run"),
    ):  # fmt: skip
        refused(here, sit, place / out, *more, says=says)
    refused(here, sit, place / "run", layout="stable", says="dit, sit, repa")
    refused(here, place / "none.pt", place / "run", says="none.pt is missing")
    refused(here, place, place / "run", says="is a folder")


def test_the_folder_itself_stays(sit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to it is followed, not replaced; the one that one is in is refused, whatever its name."""
    inside, link = sit.parent / "inside", sit.parent / "link"
    inside.mkdir()
    link.symlink_to(inside)
    monkeypatch.chdir(inside)
    for name in (".", str(inside), link):
        with pytest.raises(af.UserError, match="the folder that you are in"):
            af.convert(sit, name, "sit", heads=HEADS)
        assert Path.cwd() == inside
    monkeypatch.chdir(sit.parent)
    af.convert(sit, link, "sit", heads=HEADS)
    assert link.is_symlink()
    assert (inside / "run.json").is_file()


@pytest.mark.parametrize("there", [True, False])
def test_what_came_meanwhile_stays(there: bool, sit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process puts into the folder, or in its place, while the weights are written."""
    out, write = sit.parent / "run", writing.write_weights
    if there:
        out.mkdir()

    def slowly(*given: Any) -> None:
        out.mkdir(exist_ok=True)
        (out / "foreign").write_text("precious")
        write(*given)

    monkeypatch.setattr(writing, "write_weights", slowly)
    with pytest.raises((af.UserError, OSError)):
        af.convert(sit, out, "sit", heads=HEADS)
    assert contents(sit.parent) == {sit: sit.read_bytes(), out: None, out / "foreign": b"precious"}


@pytest.mark.slow
def test_the_command_knows_every_layout() -> None:
    from alphaflow.cli.convert import From

    assert set(get_args(get_args(From)[0])) == set(LAYOUTS)


def test_the_command_line(sit: Path, cli: Here, here: Here) -> None:
    """The run is sampled; what can't be done with it is said in a line, and not that it was composed in Python."""
    out = sit.parent / "run"
    done = cli("convert", sit, out, "--from", "sit", "--heads", HEADS)
    assert (done.status, done.err, done.out.splitlines()[-1]) == (0, "", f"next: alphaflow sample {out} --nfe 50")
    assert here("sample", out, "--nfe", 2, "--count", 4).status == 0
    assert "--from" in here("convert", "--help").out
    small = ("--steps", 2, "--out", out, "--resume")
    for words in (("info", out), ("evaluate", out, "--nfe", 2), ("diagnose", out), ("train", "digits", *small)):
        done = here(*words)
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), done.err
        assert "composed in Python" not in done.err
