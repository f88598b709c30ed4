"""Every tensor is made where its samples are: found without a GPU, by tensors that have a device and no values.

`FakeTensorMode` lets code run on a "cuda" that isn't there, forward only, and raises where two devices mix, as a GPU
would. Backward passes are walked on "meta", which asks for no GPU. What asks for values gets some: see `NoValues`.
"""

from __future__ import annotations

import inspect
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

import alphaflow as af
from alphaflow.autoencoders.chunks import decode_in_chunks
from alphaflow.costs import activation_bytes, phases, seconds_a_step
from alphaflow.diagnosis.decomposition import decompose
from alphaflow.evaluation.gatherer import Gatherer
from alphaflow.evaluation.sample_sets import training_data
from alphaflow.evaluation.statistics import Needs
from alphaflow.features.builtin import CLIPS_ONLY, FEATURES, UNPUBLISHED
from alphaflow.guidance_input import guidance_setting
from alphaflow.metrics.neighbours import nearest
from alphaflow.parallel.pieces import weights
from alphaflow.parallel.world import World
from alphaflow.runs.pipeline import InTraining
from alphaflow.training import state
from alphaflow.training.engine import Engine, MachineSetup
from alphaflow.training.feed import Feed
from alphaflow.training.flops import forward_flops
from alphaflow.training.sample_pictures import sample_picture

aten: Any = torch.ops.aten
CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda:0", "meta"))
SHAPE, CLASSES = (1, 8, 8), 10


class NoValues(FakeTensorMode):
    """Tensors without values. Numbers that are asked for are 1, conditions true, and a mask holds everywhere.

    (`guided_velocity` runs the network for the samples that a mask picks; the Trainer reads a step's loss.)
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.cache_enabled = torch.autograd.forward_ad._current_level < 0  # its answers are wrong there
        if func is aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is aten.nonzero.default:
            with self:
                return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.long, device=args[0].device)
        if func is aten.index.Tensor:  # which lets any device pass here
            wrong = [i for i in args[1] if i is not None and i.device not in (CPU, args[0].device)]
            assert not wrong, f"a tensor on {args[0].device} is indexed from {wrong[0].device}"
        return super().__torch_dispatch__(func, types, args, kwargs)


class Generator(torch.Generator):
    """A generator of the CPU that says it is another device's: without a GPU there is none of "cuda"."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        self = super().__new__(cls)
        self.pretended = torch.device(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.pretended


DRAWING = ("rand", "randn", "randint", "randperm", "_standard_gamma")
"""Functions of torch that draw, which look at a generator's device where there are values."""


def drawing(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function, held to generators of the device that it draws on."""

    def checked(*args: Any, generator: Generator | None = None, **kwargs: Any) -> Tensor:
        out = draw(*args, generator=generator, **kwargs)
        where = out.device if generator is None else generator.device
        assert where.type == out.device.type, f"a generator of {where} draws on {out.device}"
        return out

    return checked


def with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that works on tensors with values."""

    def called(*arguments: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return called


def of_file(storage: Any, *, made: Any = torch.asarray, **options: Any) -> Tensor:
    """A file's bytes as a tensor, as safetensors asks for it: with values."""
    with unset_fake_temporarily():
        return made(storage, **options)


def backward(loss: Tensor, *rest: Any, real: Any = torch.autograd.backward, **options: Any) -> None:
    """Gives the weights of a loss on the GPU gradients, since nothing can go backward there."""
    if not (isinstance(loss, Tensor) and loss.is_cuda):
        real(loss, *rest, **options)
        return
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)


def array(tensor: Tensor) -> Any:
    """``tensor.numpy()``, which is for the CPU."""
    assert tensor.device == CPU, f"numpy() of a tensor on {tensor.device}"
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def moved(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``module.to(…)`` with new weights: PyTorch would swap those without values, but for the mode's references."""
    for module in self.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(function(weight.detach()), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = function(buffer)
    return self


@pytest.fixture(autouse=True)
def _no_values(monkeypatch: pytest.MonkeyPatch, _one_thread: None) -> Iterator[None]:
    """Every test here runs without values, and without what only a GPU's driver can do."""
    for module in ("types", "training.feed", "runs.conditioning"):  # it looks for labels that are out of range
        monkeypatch.setattr(f"alphaflow.{module}.check_labels", lambda labels, classes: None)
    for name in ("__init__", "fetch"):  # data have values: mixed with NumPy's memory, tensors without end the process
        monkeypatch.setattr(af.Digits, name, with_values(getattr(af.Digits, name)))
    monkeypatch.setattr(torch, "Generator", Generator)
    for name in DRAWING:
        monkeypatch.setattr(torch, name, drawing(getattr(torch, name)))
    monkeypatch.setattr(torch, "asarray", of_file)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" knows none
    monkeypatch.setattr(torch.autograd, "backward", backward)
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "none")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "numpy", array)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        with NoValues():
            yield


def tensors_of(found: Any) -> Iterator[Tensor]:
    """All tensors in records, mappings and sequences."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, nn.Module):
        yield from (*found.parameters(), *found.buffers())
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from tensors_of(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from tensors_of(value)
    elif hasattr(found, "__dict__"):
        yield from tensors_of(vars(found))


def check(found: Any, device: torch.device) -> None:
    """All tensors that were found, at least one, are on the device."""
    places = [tensor.device for tensor in tensors_of(found)]
    assert places
    assert all(place == device for place in places), places


class Plain(nn.Module):
    """A user's network, which offers no tangent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.labels = nn.Linear(64 + 2, 64), nn.Embedding(CLASSES + 1, 64)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        labels = self.labels(cond.class_index(CLASSES, len(z), z.device))
        return (self.inner(torch.cat([z.flatten(1), r[:, None], t[:, None]], dim=1)) + labels).view_as(z)


def dit(shape: tuple[int, ...] = SHAPE, **options: Any) -> af.DiT:
    return af.DiT(shape, patch=4, depth=1, width=16, heads=2, classes=CLASSES, **options)


def batch(device: torch.device, b: int = 8) -> tuple[Tensor, af.Cond]:
    return torch.zeros(b, *SHAPE, device=device), af.Cond(labels=torch.arange(b, device=device) % CLASSES)


OBJECTIVES: dict[str, Callable[..., af.Objective]] = {
    "FlowMatching": af.FlowMatching,
    "TrajectoryFlowMatching": af.TrajectoryFlowMatching,
    "AlphaFlow": af.AlphaFlow,
    "AlphaFlow at 0": lambda **options: af.AlphaFlow(alpha=0.0, clamp=4.0, **options),
    "MeanFlow": af.MeanFlow,
    "ImprovedMeanFlow": af.ImprovedMeanFlow,
    "Shortcut": af.Shortcut,
    "Shortcut of the paper": lambda **options: af.Shortcut(
        times=af.DyadicPairs(16), ema_target=True, weighting=af.UniformWeighting(), **options
    ),
    "SplitMeanFlow": lambda **options: af.SplitMeanFlow(weighting=af.AdaptiveWeighting(p=0.5), **options),
    "ConsistencyTraining": lambda **options: af.ConsistencyTraining(intervals=8.0, **options),
    "ContinuousConsistency": af.ContinuousConsistency,
    "ContinuousConsistency, not adaptive": lambda **options: af.ContinuousConsistency(adaptive=False, **options),
    "FACM": af.FACM,
    "Lagrangian": af.Lagrangian,
    "TerminalVelocity": af.TerminalVelocity,
    "TerminalVelocity, differences": lambda **options: af.TerminalVelocity(derivative="difference", **options),
    "AlignYourFlow": af.AlignYourFlow,
    "TransitionModel": af.TransitionModel,
    "DecoupledMeanFlow": af.DecoupledMeanFlow,
    "SoFlow": af.SoFlow,
}
GUIDANCE: dict[str, Any] = {
    "none": None,
    "one scale": af.Guidance(2.0, 0.4, (0.1, 0.9)),
    "input": af.GuidanceInputs(),
    "input, plain": af.GuidanceInputs(own=False),
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "its own tangent": dit,
    "jvp": lambda guidance: Plain(),
    "velocity head": lambda guidance: dit(guidance=guidance, velocity_head=1),
}
GRID = [
    *((name, guidance, "jvp") for name in OBJECTIVES for guidance in ("none", "one scale", "input")),
    ("TerminalVelocity", "input, plain", "jvp"),
    *(
        (name, "none", "its own tangent")
        for name in ("FlowMatching", "MeanFlow", "FACM", "Lagrangian", "TerminalVelocity")
    ),
    *((name, "input", "its own tangent") for name in ("AlphaFlow", "MeanFlow")),
    *(("ImprovedMeanFlow", guidance, "velocity head") for guidance in ("none", "one scale", "input")),
]
"""What is walked: every objective with every guidance, on a small network; and what a DiT does of its own."""


def exported(kind: Callable[[Any], bool]) -> set[str]:
    """Names in `af` of classes that can be made."""
    classes = {name: getattr(af, name) for name in af.__all__ if isinstance(getattr(af, name), type)}
    return {name for name, cls in classes.items() if not inspect.isabstract(cls) and kind(cls)}


def test_no_objective_is_left_out() -> None:
    assert exported(lambda cls: issubclass(cls, af.Objective)) == {name for name in OBJECTIVES if name.isalpha()}


def loss_of(objective: af.Objective, model: nn.Module, device: torch.device) -> af.Loss:
    """A training loss on a device, as a run gets there: networks are made on the CPU and moved."""
    model.to(device)
    average = {"ema": af.EMA(model, 0.9).model} if objective.ema_target else {}
    objective.prepare(device)
    return objective(model, *batch(device), 5, torch.Generator(device), **average)


@pytest.mark.parametrize(("name", "guidance", "network"), GRID)
def test_an_objectives_value(name: str, guidance: str, network: str) -> None:
    objective = OBJECTIVES[name](guidance=GUIDANCE[guidance])
    check(loss_of(objective, NETWORKS[network](guidance=guidance.startswith("input")), CUDA), CUDA)


@pytest.mark.parametrize(("name", "guidance", "network"), GRID)
def test_an_objectives_gradient(name: str, guidance: str, network: str) -> None:
    model, objective = (
        NETWORKS[network](guidance=guidance.startswith("input")),
        OBJECTIVES[name](guidance=GUIDANCE[guidance]),
    )
    loss = loss_of(objective, model, META)
    backward(loss.total)
    check(loss, META)
    for trained in (model, objective.network):
        if trained is not None:
            check([weight.grad for weight in trained.parameters() if weight.grad is not None], META)


def test_recomputation() -> None:
    model = dit()
    model.recompute = True
    backward(loss_of(af.MeanFlow(), model, META).total)
    check([weight.grad for weight in model.parameters() if weight.grad is not None], META)


def test_guidance_without_dropped_labels() -> None:
    check(loss_of(af.MeanFlow(guidance=af.Guidance(2.0, 0.4, dropped="plain")), dit(), CUDA), CUDA)


@pytest.mark.parametrize("teacher", [dit, lambda: af.CFG(2.0).wrap(dit())], ids=["network", "guided"])
def test_a_teacher(teacher: Any) -> None:
    check(loss_of(af.MeanFlow(teacher=teacher()), dit(), CUDA), CUDA)


@pytest.mark.parametrize("network", [dit, lambda shape: dit(shape, factorised=True)], ids=["joint", "factorised"])
def test_a_network_of_clips(network: Any) -> None:
    """Also of other lengths and sizes than its own, whose places are interpolated."""
    model = network((1, 3, 8, 8)).to(CUDA)
    for shape in ((1, 3, 8, 8), (1, 5, 8, 12), (1, 8, 8)):
        z, t = torch.zeros(2, *shape, device=CUDA), torch.zeros(2, device=CUDA)
        check(model(z, t, t, along=af.Direction.of(z, t)), CUDA)


def test_a_networks_weights_from_another() -> None:
    clips, weights = dit((1, 3, 8, 8)).to(CUDA), af.DiT(SHAPE, patch=4, depth=1, width=16, heads=2).state_dict()
    clips.load_state_dict(clips.adapt(weights, of_images=True), strict=False)
    check(clips, CUDA)


TIMES: dict[str, Any] = {
    "Uniform": af.UniformTimes(),
    "LogitNormal": af.LogitNormal(),
    "TruncatedLogitNormal": af.TruncatedLogitNormal(low=0.1, high=0.9),
    "ArctanLogNormal": af.ArctanLogNormal(),
    "Beta": af.BetaTimes(2.0, 1.0),
    "Dyadic": af.DyadicPairs(16),
    "Gap": af.GapPairs(),
    "TimePairs, of their own": af.TimePairs(r_times=af.UniformTimes(), fm_times="pair"),
    **{f"TimePairs, {kind}": af.TimePairs(af.LogitNormal(), kind) for kind in ("sorted", "min", "product", "zero")},
    **{
        f"TimePairs, truncated {times}": af.TimePairs(times, "truncated")
        for times in (af.UniformTimes(), af.LogitNormal())
    },
}


@pytest.mark.parametrize("name", TIMES)
def test_times(name: str) -> None:
    times, generator = TIMES[name], torch.Generator(CUDA)
    t = times.sample(6, CUDA, generator)
    check(t, CUDA)
    if hasattr(times, "pairs"):
        check(times.pairs(6, CUDA, generator), CUDA)
    if hasattr(times, "cdf"):
        check([times.cdf(t), times.quantile(t)], CUDA)


SAMPLERS: dict[str, af.Sampler] = {
    **{f"ODE, {solver}": af.ODE(2, solver=solver) for solver in ("jump", "euler", "heun")},
    **{f"ODE, {solver}, cfg": af.ODE(2, solver=solver, cfg=af.CFG(2.0, (0.4, 1.0))) for solver in ("jump", "heun")},
    "Consistency": af.Consistency(3),
}


def test_no_sampler_is_left_out() -> None:
    made = {type(sampler).__name__ for sampler in SAMPLERS.values()}
    assert exported(lambda cls: hasattr(cls, "nfe") and cls is not af.Sampler) == made


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name: str) -> None:
    check(SAMPLERS[name](dit().to(CUDA), *batch(CUDA), torch.Generator(CUDA)), CUDA)


def test_sampling_with_guidance_as_an_input() -> None:
    x, cond = batch(CUDA)
    cond = cond.replace(guidance=guidance_setting(len(x), 2.0)).to(CUDA)
    check(af.ODE(2)(dit(guidance=True).to(CUDA), x, cond), CUDA)


def recipe(**options: Any) -> af.Recipe:
    own = {"model": dit(), "objective": af.MeanFlow(), "dataset": digits(), "steps": 2, "samplers": (af.ODE(1),)}
    return af.Recipe(**{**own, **options})


@pytest.mark.parametrize("nfe", [1, 2])
def test_a_runs_samples(nfe: int) -> None:
    made = recipe(samplers=(af.ODE(1), af.Consistency(2)))
    model = made.model.to(CUDA)
    run = InTraining(made, model, CUDA)
    check(run.sample(6, nfe, batch_size=4), CPU)
    guided = replace(made, model=dit(guidance=True).to(CUDA), objective=af.MeanFlow(guidance=af.GuidanceInputs()))
    check(InTraining(guided, guided.model, CUDA).sample(6, nfe, guidance=af.CFG(2.0)), CPU)
    picture = sample_picture(made, model, CUDA)
    assert picture is not None
    check(picture.pixels, CPU)


def test_decoding() -> None:
    twice = decode_in_chunks(lambda x: x.repeat_interleave(2, dim=2), torch.zeros(2, 1, 9, 8, 8, device=CUDA), 4, 2)
    check(twice, CUDA)
    pixels = torch.zeros(2, 3, 8, 8, device=CUDA)
    normalised = af.Normalised(af.Pixels(), (0.1, 0.2, 0.3), (2.0, 2.0, 2.0))
    check([normalised.decode(pixels), af.Pixels(1).encode(pixels), normalised.normalisation.forward(pixels)], CUDA)


class Zeros(af.IndexedDataset):
    """Zeros of any shape, with labels if there are classes."""

    def __init__(self, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
        super().__init__(4, 0)
        self._shape, self._names = shape, names

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._names

    def __len__(self) -> int:
        return 12

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        labels = af.Cond(labels=torch.zeros(len(indices), dtype=torch.long)) if self._names else af.Cond()
        return af.Batch(torch.zeros(len(indices), *self._shape), labels)


def mixture(clips: tuple[str, ...] = ("a", "b"), images: tuple[str, ...] = ("b", "c")) -> af.Mixture:
    with unset_fake_temporarily():
        return af.Mixture(Zeros((1, 2, 8, 8), clips), Zeros(SHAPE, images), 0.5)


def digits() -> af.Digits:
    with unset_fake_temporarily():  # they are read in another thread, to which no mode reaches
        return af.Digits(4)


DATA: dict[str, Callable[[], Any]] = {
    "digits": digits,
    "mixture": mixture,
    "mixture, labels of images": lambda: mixture(clips=()),
    "mixture, labels of clips": lambda: mixture(images=()),
}


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("name", DATA)
def test_batches_on_their_way(name: str, ahead: int) -> None:
    data = DATA[name]()
    with Feed(data, data, CUDA, ahead) as feed:
        for _ in range(3):
            found = next(feed)
            check(found, CUDA)
            assert found.cond.labels is not None


def test_a_posteriors_samples() -> None:
    mean = torch.zeros(4, 2, 4, 4)
    moments = af.Batch(mean, af.Cond(labels=torch.arange(4)), mean + 1).to(CUDA)
    check(moments.drawn(torch.Generator(CUDA)), CUDA)
    check([moments[torch.arange(2, device=CUDA)], moments.split(3)], CUDA)


def test_averages() -> None:
    model = dit().to(CUDA)
    for decay in (0.99, af.PowerLaw(0.1)):
        average = af.EMA(model, decay)
        for _ in range(2):
            average.update()
        check(average.model, CUDA)
        check(weights(average.model), CPU)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the CPU, with values."""
    place = tmp_path_factory.mktemp("devices") / "run"
    made = recipe(objective=af.ContinuousConsistency(), ema=(0.99, af.PowerLaw(0.1)))
    af.Trainer(made, out=place, device=CPU, checkpoint_every=1).fit()
    return place


def test_a_run_goes_on_on_the_device(run: Path, tmp_path: Path) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    made = recipe(objective=af.ContinuousConsistency(), ema=(0.99, af.PowerLaw(0.1)), steps=3)
    trainer = af.Trainer(made, out=place, device=CUDA, resume=True)
    assert trainer.step == 2
    with trainer.feed:
        check(trainer.train_step(), CUDA)
    engine = trainer.engine
    check([list(engine.networks.values()), list(engine.optimizer.state.values())], CUDA)
    check([average.model for average in engine.averages.values()], CUDA)


def test_a_run_is_opened_on_the_device(run: Path) -> None:
    opened = af.Run(run, device=CUDA)
    check(opened.sample(3), CPU)
    found = af.post_hoc_average(run, 0.15)
    check(found, CPU)
    opened.model.load_state_dict(found)
    check(opened.model, CUDA)


class Halved(af.Autoencoder, nn.Module):
    """An autoencoder of the user's own, with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels * self.factor

    def decode(self, latents: Tensor) -> Tensor:
        return latents / self.factor

    def latent_shape(self, size: int, frames: int | None = None) -> tuple[int, ...]:
        return (1, size, size)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_autoencoder_of_ones_own(wrapped: bool) -> None:
    """It goes to the device with what it decodes: samples, pictures in training, real ones."""
    own = Halved()
    autoencoder = af.Normalised(own, (0.0,), (1.0,)) if wrapped else own
    made = recipe(model=dit(), dataset=digits(), autoencoder=autoencoder)
    opened = InTraining(made, made.model.to(CUDA), CUDA)
    check(opened.sample(3), CPU)
    check(own, CUDA)
    check(training_data(opened).read(0, 4).pixels, CPU)
    drawn = sample_picture(made, made.model, CUDA)
    assert drawn is not None
    check(drawn.pixels, CPU)


LEARNED: dict[str, Callable[[], af.Objective]] = {
    "MeanFlow": af.MeanFlow,
    "network of its own": af.ContinuousConsistency,
    "average": lambda: af.Shortcut(ema_target=True),
    "teacher": lambda: af.MeanFlow(teacher=Plain()),
    "guided teacher": lambda: af.MeanFlow(teacher=af.CFG(2.0).wrap(Plain())),
}


@pytest.mark.parametrize("name", ["MeanFlow", "network of its own", "average"])
def test_an_engines_step(name: str) -> None:
    made = recipe(model=Plain(), objective=LEARNED[name](), ema=(0.99, af.PowerLaw(0.1)), clip=1.0)
    made.model.to(CUDA)
    engine = Engine(made, MachineSetup(accumulate=2), CUDA, World())
    x, cond = batch(CUDA)
    check(engine.gradient(af.Batch(x, cond), 0, torch.Generator(CUDA)), CUDA)
    norm = engine.norm()
    check(norm, CUDA)
    for step in range(2):
        engine.update(step, norm)
    check([engine.parameters(), list(engine.optimizer.state.values())], CUDA)
    check([average.model for average in engine.averages.values()], CUDA)
    check(state.tensors(engine, torch.Generator(CUDA)), CPU)
    assert engine.broken() == ""
    assert engine.flops


@pytest.mark.parametrize("data", ["digits", "mixture"])
def test_a_trainers_steps(data: str) -> None:
    dataset = DATA[data]()
    trainer = af.Trainer(recipe(model=dit(dataset.shape), dataset=dataset), device=CUDA)
    with trainer.feed:
        for _ in range(2):
            check(trainer.train_step(), CUDA)
    check(trainer.ema.model, CUDA)
    assert trainer.step == 2


@pytest.mark.parametrize("name", LEARNED)
def test_info(name: str) -> None:
    """What a step costs is counted on the CPU and timed on the device, wherever the recipe's networks are."""
    made = recipe(model=Plain(), objective=LEARNED[name]())
    networks = [made.model, made.objective.network or [], made.objective.teacher or []]
    (phase,) = phases(made, batch=2)
    assert seconds_a_step(made, phase.step, CUDA, 1) > 0
    activation_bytes(made, phase.step, 2)
    check(networks, CPU)
    made.model.to(CUDA)
    made.objective.prepare(CUDA)
    assert forward_flops(made, CUDA)
    assert phases(made, batch=2)
    check(networks, CUDA)
    assert all(tensor.grad is None for tensor in tensors_of(networks))


def test_a_diagnosis() -> None:
    x, cond = batch(CUDA)
    check(decompose(dit().to(CUDA), af.MeanFlow(), af.Batch(x, cond), 0, torch.Generator(CUDA)), CUDA)


PICTURES, CLIPS = (3, 32, 32), (3, 4, 32, 32)


@pytest.mark.parametrize("there", [CPU, CUDA], ids=str)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name in UNPUBLISHED
        for shape in (PICTURES, CLIPS)
        if name != "pairs" and (shape == CLIPS or name not in CLIPS_ONLY)  # which compares two samples
    ],
)
def test_extractors_and_what_is_gathered(name: str, shape: tuple[int, ...], there: torch.device) -> None:
    """Of pixels on the CPU, as sources give them, and on the device."""
    pixels, extractor = torch.zeros(24, *shape, dtype=torch.uint8, device=there), UNPUBLISHED[name](CUDA)
    features = extractor(pixels)[FEATURES]
    assert features.device in (there, CUDA)
    gatherer = Gatherer({name: Needs(moments=True, features=True, halves=True)}, {name: extractor}, 48, shape)
    for start in (0, 24):
        gatherer.add(pixels, start, torch.zeros(24, dtype=torch.long, device=there))
    found = gatherer.finish()
    assert found is not None
    check(found.spaces[name], CPU)
    check(found.labels, CPU)


FIGURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "frechet_distance": lambda a, b: af.metrics.frechet_distance(af.metrics.Moments.of(a), af.metrics.Moments.of(b)),
    "kernel_distance, whole": lambda a, b: af.metrics.kernel_distance(a, b, subsets=20, size=10),
    "kernel_distance, parts": lambda a, b: af.metrics.kernel_distance(a, b, subsets=2, size=10),
    "precision_recall": af.metrics.precision_recall,
    "label_agreement": lambda a, b: af.metrics.label_agreement(a, a[:, 0].long(), b, b[:, 0].long()),
    "label_agreement, labels on the CPU": lambda a, b: af.metrics.label_agreement(
        a, a[:, 0].cpu().long(), b, b[:, 0].long()
    ),
    "sliced_wasserstein": af.metrics.sliced_wasserstein,
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_features_on_the_device(name: str) -> None:
    FIGURES[name](torch.zeros(20, 6, device=CUDA), torch.zeros(20, 6, device=CUDA))


def test_parts_of_figures() -> None:
    features = torch.zeros(20, 6, device=CUDA)
    found = nearest(features, features, 3)
    check([found.indices, found.distances], CUDA)
    score, moments = af.metrics.InceptionScore(20, 2), af.metrics.RunningMoments()
    score.add(features, 0)
    check(score.parts(), CPU)
    moments.add(features)
    moments.merge(20, torch.zeros(6), torch.zeros(6, 6))  # as another process sends them
    check(moments.moments(), CPU)


@pytest.mark.parametrize("what", ["mixed", "drawn", "indexed", "numpy"])
def test_a_tensor_on_the_wrong_device_is_found(what: str) -> None:
    here, there = torch.zeros(3), torch.zeros(3, device=CUDA)
    wrong: dict[str, Callable[[], Any]] = {
        "mixed": lambda: here + there,
        "drawn": lambda: torch.randn(3, device=CUDA, generator=torch.Generator()),
        "indexed": lambda: here[there.long()],
        "numpy": there.numpy,
    }
    with pytest.raises((RuntimeError, AssertionError)):
        wrong[what]()
