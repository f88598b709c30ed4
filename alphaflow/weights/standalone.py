"""A run's whole generator as one program, for those who have no alphaflow: torch.export's, or ONNX."""

from __future__ import annotations

import importlib
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, said
from ..files import check_writable, remove
from ..guidance import CFG
from ..guidance_input import guidance_setting
from ..runs.conditioning import DTYPES
from ..runs.maker import as_seen
from ..runs.run import Run
from ..samplers import Consistency
from ..seeds import derived
from ..types import NO_CLASS, Cond
from ..version import __version__
from .exporting import check_finished

Format = Literal["torch-export", "onnx"]

ENDINGS: dict[str, Format] = {".pt2": "torch-export", ".onnx": "onnx"}
"""Formats by the ending of a file."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far a program's samples may be from the run's, ‖a − b‖/‖b‖, by the network's precision."""

DECODED = 63
"""Samples in a batch at most, where they are decoded: diffusers' upsampling treats more otherwise."""

LARGEST = 1_900_000_000
"""Bytes of weights that fit into one ONNX file."""

SIZES, EXAMPLES = (1, 2, 5), 3
"""Batch sizes that a program is checked with, and the one that it is made with."""


class Standalone(nn.Module):
    """A run's generator as a function of tensors: noise, and what its samples are conditioned on → samples.

    Args:
        run: the run, opened.
        nfe: network evaluations a sample.
        guidance: scale and interval, fixed in the program; None for none.
        decode: samples are decoded by the run's autoencoder.

    Attributes:
        inputs: the names of what it takes, in order.
        run: the run, without its autoencoder where samples aren't decoded.

    Raises:
        UserError: as `Pipeline.sampler`.
    """

    def __init__(self, run: Run, nfe: int, guidance: CFG | None = None, decode: bool = True) -> None:
        super().__init__()
        self.run = run = run if decode else run.undecoded()
        self.model, self.decoders = run.model, nn.ModuleList(run.autoencoder.networks())
        self._guidance = guidance
        self.sampler = run.sampler(nfe, guidance)
        self.draws = len(self.sampler.grid) - 2 if isinstance(self.sampler, Consistency) else 0
        forms = run.conditioning.forms or {}
        names = [name for name in (*run.conditioning.needed, "mask") if name in forms]
        self.inputs = ["noise", *(["labels"] if run.classes else []), *names, *(["fresh"] if self.draws else [])]

    def forward(self, noise: Tensor, *given: Tensor) -> Tensor:
        """Noise (b, …) and the rest of ``inputs``, each (b, …) → samples (b, …), floats; pixels lie about [-1, 1].

        ``fresh`` (b, k, …) is the noise that consistency sampling adds on its way.
        """
        tensors = dict(zip(self.inputs[1:], given, strict=True))
        fresh, run = tensors.pop("fresh", None), self.run
        cond = Cond(**tensors)
        if self._guidance is not None and run.takes_guidance:
            setting = guidance_setting(noise.shape[0], self._guidance.scale, self._guidance.interval)
            cond = cond.replace(guidance=setting.to(noise.device))
        model, z = as_seen(run.model, run.source), run.source(noise, cond)
        if fresh is None:
            return run.decoded(self.sampler(model, z, cond))
        assert isinstance(self.sampler, Consistency)
        draws = iter(fresh.unbind(1))
        return run.decoded(self.sampler.follow(model, z, cond, lambda _: next(draws)))

    def example(self, count: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Values of ``inputs``, for ``count`` samples; the noise that `Pipeline.sample` draws with this seed, too."""
        run, generator = self.run, torch.Generator().manual_seed(seed)
        found = {"noise": torch.randn(count, *run.shape, generator=generator)}
        if run.classes:
            found["labels"] = torch.arange(count) % run.classes
            found["labels"][1:][::3] = NO_CLASS
        for name, form in (run.conditioning.forms or {}).items():
            if name in self.inputs and name != "labels":
                dtype, shape = DTYPES[form.dtype], (count, *form.shape)
                drawn = torch.randn(shape, generator=generator) if dtype.is_floating_point else torch.ones(shape)
                found[name] = drawn.to(dtype)
        if "mask" in found:
            found["mask"][1:, -1] = False
        if self.draws:
            own = torch.Generator(run.device).manual_seed(derived(seed, 0))
            fresh = [torch.randn(count, *run.shape, device=run.device, generator=own) for _ in range(self.draws)]
            found["fresh"] = torch.stack(fresh, 1)
        return tuple(found[name].to(run.device) for name in self.inputs)


def export_program(
    run: Run,
    file: Path | str,
    *,
    nfe: int = 1,
    format: Format | None = None,
    guidance: CFG | None = None,
    decode: bool = True,
) -> tuple[Path, float]:
    """Writes a run's whole generator as one program: noise, labels, and other conditions → samples.

    The batch may have any size, up to 63 where it is decoded; the number of network evaluations, guidance and precision
    are fixed. The program needs neither alphaflow nor the run. It is run on several batches before it is kept, and
    compared with the run's samples.

    Args:
        run: the run, opened in the precision that the program shall have (``af.Run(…, dtype=torch.float16)``).
        file: .pt2 for ``torch.export.load``, .onnx for ONNX, with FILE.data beside it where it is larger than 2 GB.
        nfe: network evaluations a sample.
        format: ``"torch-export"`` or ``"onnx"``; None for what the file's ending says.
        guidance: scale and interval; None for none.
        decode: samples are decoded by the run's autoencoder; else they are its latents.

    Returns:
        The file, and how far the program's samples are from the run's at most, ‖a − b‖/‖b‖.

    Raises:
        UserError: the file exists, the format's package isn't installed, the network can't be exported, or the program
            isn't right.
    """
    check_finished(run)
    file, kind = _place(Path(file), format)
    module = Standalone(run, nfe, guidance, decode).eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent))
    try:
        call = _written(module, work / file.name, kind)
        differences = [_difference(module, call, count, nfe, guidance) for count in SIZES]
        off = max(differences, key=lambda each: math.inf if math.isnan(each) else each)
        if not off <= TOLERANCE.get(next(run.model.parameters()).dtype, 1e-5):
            raise UserError(
                f"the program is not right: its samples are off the run's by {off:.1e}, ‖a − b‖/‖b‖; nothing is written"
            )
        for written in work.iterdir():
            written.replace(file.parent / written.name)
    finally:
        remove(work)
    return file, off


def _place(file: Path, format: Format | None) -> tuple[Path, Format]:
    """Where a program is written and in which format, if it can be."""
    kind = format or ENDINGS.get(file.suffix)
    if kind is None or kind not in ENDINGS.values():
        raise UserError(f"{file.name} is no program: give a .pt2 or .onnx file, or `format=`")
    if ENDINGS.get(file.suffix, kind) != kind:
        raise UserError(f"{file.name} is named as another format than {kind}")
    check_writable(file)
    taken = next((each for each in (file, Path(f"{file}.data")) if each.exists() or each.is_symlink()), None)
    if taken is not None:
        raise UserError(f"{taken} exists; give another file")
    if kind == "onnx":
        _onnx_packages()
    return file, kind


@contextmanager
def quiet() -> Iterator[None]:
    """While it lasts torch warns of nothing, and logs nothing of its tracing."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


Program = Callable[[Sequence[Tensor]], Tensor]
"""A program that was read back from its file: inputs → samples."""


def _written(module: Standalone, file: Path, format: Format) -> Program:
    """Writes the program, and reads it back."""
    most = DECODED if len(module.decoders) else None
    batch = torch.export.Dim("batch", min=1, max=most)
    rest = tuple({0: batch} for _ in module.inputs[1:])
    shapes = {"noise": {0: batch}, **({"given": rest} if rest else {})}
    about = {"inputs": module.inputs, "nfe": module.sampler.nfe, "largest_batch": most, "version": __version__}
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, module.example(EXAMPLES), dynamic_shapes=shapes, strict=False)
            if format == "onnx":
                return _onnx(program, module, file, about)
            torch.export.save(program, file, extra_files={"alphaflow.json": json.dumps(about)})
            loaded = torch.export.load(file).module()
    except UserError:
        raise
    except Exception as error:  # whatever torch's tracer makes of a network
        raise UserError(f"this run's network can't be exported as {format}: {said(error)}") from error
    return lambda inputs: loaded(*inputs)


def _onnx(program: Any, module: Standalone, file: Path, about: dict[str, Any]) -> Program:
    runtime = _onnx_packages()
    options: dict[str, Any] = {"input_names": module.inputs, "output_names": ["samples"], "verbose": False}
    made = torch.onnx.export(program, (), dynamo=True, **options)
    assert made is not None
    made.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
    size = sum(weight.nbytes for weight in program.state_dict.values())
    made.save(file, external_data=size > LARGEST)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def call(inputs: Sequence[Tensor]) -> Tensor:
        feeds = {name: tensor.cpu().numpy() for name, tensor in zip(module.inputs, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return call


def _difference(module: Standalone, call: Program, count: int, nfe: int, guidance: CFG | None) -> float:
    """How far a program's samples are from what the run makes of the same noise, ‖a − b‖/‖b‖."""
    inputs, run, seed = module.example(count, count), module.run, count
    tensors = dict(zip(module.inputs, inputs, strict=True))
    noise, cond = tensors.pop("noise"), Cond(**{n: tensor for n, tensor in tensors.items() if n != "fresh"})
    ours = run.sample(count, nfe, cond=cond, seed=seed, noise=noise, dtype=torch.float32, guidance=guidance)
    with torch.no_grad():
        theirs = call(inputs).float().cpu()
    if theirs.shape != ours.shape:
        raise UserError(f"the program gives samples {tuple(theirs.shape)} where the run gives {tuple(ours.shape)}")
    return float((theirs - ours).norm() / ours.norm().clamp(min=1e-12))


def _onnx_packages() -> Any:
    """onnxruntime, if all that ONNX takes is installed."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'alphaflow[onnx]'") from error
