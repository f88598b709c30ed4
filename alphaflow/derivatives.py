"""The derivative of a network in a direction (dz, dr, dt), as along its path. The one place that knows how it is taken.

A network that offers its own tangent (`Network.offers_tangent`) is asked for it; any other is differentiated by
``torch.func.jvp``. The result is the same, the price is not. Where a layer can't be differentiated forward, a central
difference of the network's values stands in for the derivative.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .errors import UserError, said
from .flow import expand_like
from .network import Upcast, known, unwrapped
from .parallel.device import exact_float32, fp32_products
from .parallel.shared import may_be_split
from .types import Cond, Direction, Model, Sample, Time

Derivative = Literal["exact", "difference"]
"""How du/dt is to be taken: exactly, or by a central difference."""

STEP = 0.005
"""h of the central difference."""

NO_RULE = ("forward AD", "forward mode AD", "functorch transforms")
"""What PyTorch says where a layer, or a custom function, can't be differentiated forward."""

WITHOUT_GRADIENT = (
    torch.layer_norm, torch.native_layer_norm, F.batch_norm, torch.batch_norm, torch.native_batch_norm, F.instance_norm,
    torch.instance_norm, F.glu,
)  # fmt: skip
"""Functions whose forward derivative has a wrong gradient in PyTorch, or none; F.layer_norm is replaced instead."""


def derivative_of(
    model: Model, derivative: Derivative = "exact", *, graph: bool = False
) -> Literal["its own tangent", "torch.func.jvp", "central differences"]:
    """How a network's derivative is taken; ``graph``: one that has a gradient."""
    if derivative == "difference":
        return "central differences"
    return "its own tangent" if known(model).offers_tangent and not graph else "torch.func.jvp"


def check_derivative(derivative: object) -> None:
    """Refuses what isn't a way to take du/dt.

    Raises:
        UserError: it is none.
    """
    if derivative not in get_args(Derivative):
        raise UserError(f"derivative is {' or '.join(get_args(Derivative))}, got {derivative!r}")


def with_derivative(
    model: Model,
    z: Sample,
    r: Time,
    t: Time,
    cond: Cond,
    along: Sample | Direction,
    *,
    derivative: Derivative = "exact",
    graph: bool = False,
    **options: Any,
) -> tuple[Any, Sample]:
    """The network's output for a whole batch, with gradient, and the derivative of its first samples.

    Args:
        model: u(z, r, t, cond).
        z: (b, …) at time t.
        r: (b,).
        t: (b,).
        cond: what u is conditioned on.
        along: the direction of the first n samples, or dz/dt (n, …) of their path (`Direction.of`).
        derivative: how the derivative is taken.
        graph: the derivative has a gradient, too. No fused attention and no tangent of the network's own has one: it is
            taken by ``torch.func.jvp`` through plain attention, or as a difference.
        **options: what else the network takes; nothing with ``graph``.

    Returns:
        What the network gives for these arguments, and dz·∂_z u + dr·∂_r u + dt·∂_t u (n, …).

    Raises:
        UserError: a layer can't be differentiated forward.
    """
    network, direction = Upcast(model), Direction.of(along, t)
    direction = direction._replace(z=direction.z.to(z.dtype))
    n, way = len(direction.t), derivative_of(model, derivative, graph=graph)
    few = z[:n], r[:n], t[:n], cond[:n]
    if way == "central differences":
        du = _difference(network, *few, direction, graph=graph)  # first, so that it has the prediction's dropout
        return network(z, r, t, cond, **options), du
    if graph:
        assert not options, "a derivative with gradient comes with u alone"
        return _with_graph(model, z, r, t, cond, direction)
    if way == "its own tangent":
        out, du = network(z, r, t, cond, along=direction, **options)
        return out, du.detach()
    du = _forward_ad(network, *few, direction)[1]
    return network(z, r, t, cond, **options), du


def _with_graph(model: Model, z: Sample, r: Time, t: Time, cond: Cond, along: Direction) -> tuple[Sample, Sample]:
    """A batch's output, and the derivative of its first samples, both with gradient, by forward-mode AD."""
    if known(model).recompute:
        raise UserError(
            "a network that recomputes keeps no graph for a derivative with gradient: leave recompute out, or give the "
            'objective `derivative="difference"`'
        )
    n = len(along.t)
    u, du = _forward_ad(Upcast(unwrapped(model)), z[:n], r[:n], t[:n], cond[:n], along, graph=True)
    network = Upcast(model)
    if n < len(z):
        return torch.cat([u, network(z[n:], r[n:], t[n:], cond[n:])]), du
    # gradients are averaged among processes only if the network was called as they share it, not as it is inside
    return (network(z, r, t, cond) if may_be_split() else u), du


def total_derivative(
    model: Model,
    z: Sample,
    r: Time,
    t: Time,
    cond: Cond,
    along: Sample | Direction,
    *,
    derivative: Derivative = "exact",
) -> tuple[Sample, Sample]:
    """The network's output and its derivative in a direction (dz, dr, dt), along a path for example.

    dz·∂_z u + dr·∂_r u + dt·∂_t u: the Jacobian-vector product of u at (z_t, r, t). Along a path, (v, 0, 1), it is
    du/dt (MeanFlow, arXiv 2505.13447, eq. 8). No graph is kept: both results are constants to the optimiser.

    ``"difference"`` takes it from the network's values at (z, r, t) ± h·(dz, dr, dt), h = 0.005, without leaving
    0 ≤ r < t ≤ 1 if that is wide enough: at the ends the difference is one-sided. Its error falls with h², at the ends
    with h. Both values are of the same dropout, and in float32 at least, whatever the precision of training: bfloat16
    has no digits left to subtract.

    Args:
        model: u(z, r, t, cond), any callable.
        z: (b, …) at time t.
        r: (b,).
        t: (b,).
        cond: what u is conditioned on.
        along: the direction, or dz/dt (b, …) of a path on which r stays (`Direction.of`).
        derivative: how it is taken: ``"exact"``, or ``"difference"``.

    Returns:
        u⁻ and its derivative, both (b, …).

    Raises:
        UserError: a layer can't be differentiated forward.
    """
    if derivative_of(model, derivative) == "torch.func.jvp":
        return _forward_ad(Upcast(model), z, r, t, cond, Direction.of(along, t))
    with torch.no_grad():
        return with_derivative(model, z, r, t, cond, along, derivative=derivative)


def _difference(
    model: Model, z: Sample, r: Time, t: Time, cond: Cond, along: Direction, h: float = STEP, *, graph: bool = False
) -> Sample:
    """(u at (z, r, t) + h·(dz, dr, dt) − u at … − h·…) / 2h; where 0 ≤ r < t ≤ 1 is too narrow for that, one-sided.

    The two are never nearer to each other than h: where there is no room even for that, the second lies outside. Where
    r < t both have that, too: at r = t a network may be guided otherwise (`guidance_at`).
    """
    ahead = _room(r, t, along, h)
    behind = torch.maximum(_room(r, t, Direction(along.z, -along.r, -along.t), h), h - ahead)
    values = []
    for step in (ahead, -behind):
        with _reproducible(z.device), torch.set_grad_enabled(graph):
            values.append(model(z + expand_like(step, z) * along.z, r + step * along.r, t + step * along.t, cond))
    return (values[0] - values[1]) / expand_like(ahead + behind, z)


def _room(r: Time, t: Time, along: Direction, h: float) -> Time:
    """How far (r, t) can go in a direction inside 0 ≤ r < t ≤ 1, h at most: (b,)."""
    found = torch.full_like(t, h)
    for room, speed in ((r, -along.r), ((t - r) * 0.999, along.r - along.t), (1 - t, along.t)):
        found = torch.minimum(found, torch.where(speed > 0, room / speed.clamp(min=1e-12), h))
    return found


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """While it lasts, values are exact to float32's digits; the random state, for dropout, is left as it was."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.autocast(device.type, enabled=False),
        fp32_products(device, tf32=False),
        exact_float32(device),
    ):
        yield


def _forward_ad(
    model: Model, z: Sample, r: Time, t: Time, cond: Cond, along: Direction, *, graph: bool = False
) -> tuple[Sample, Sample]:
    """Output and derivative by forward-mode AD. Fused attention has none in PyTorch: it runs on its plain kernel.

    A compiled network runs here as it was written: the compiler can't see through ``torch.func.jvp``, and would leave
    the network alone ever after. What it predicts elsewhere is compiled.
    """

    def u(z: Sample, r: Time, t: Time) -> Sample:
        out: Sample = model(z, r, t, cond)
        return out

    def taken() -> tuple[Sample, Sample]:
        as_written = nullcontext() if torch.compiler.is_compiling() else torch.compiler.set_stance("force_eager")
        norms = _DifferentiableNorms() if graph else nullcontext()
        with torch.set_grad_enabled(graph), sdpa_kernel(SDPBackend.MATH), as_written, norms:
            # a copy of r: torch.compile fails where three slices of a batch are differentiated
            value, derivative, *_ = torch.func.jvp(u, (z, r.clone(), t), tuple(along))
        return (value, derivative) if graph else (value.detach(), derivative.detach())

    _load_rules()
    try:
        return taken()
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_RULE):
            raise
        raise UserError(
            f"{_where_it_fails(model, taken)} can't be differentiated forward ({said(error).partition('.')[0]}); "
            'give the objective `derivative="difference"`, which takes du/dt from two more evaluations'
        ) from error


class _DifferentiableNorms(TorchFunctionMode):
    """While it lasts, layer norms are made of operations whose forward derivative has a right gradient.

    PyTorch's own rule takes mean and deviation of a layer norm or a batch norm for constants there, silently. What has
    no right gradient, or none, is refused.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        """What a function gives."""
        options = options or {}
        if function is F.layer_norm:
            return _layer_norm(*arguments, **options)
        if function in WITHOUT_GRADIENT:
            raise UserError(
                f"{function.__name__}'s derivative has no right gradient in PyTorch (nn.LayerNorm's has, here); give "
                'the objective `derivative="difference"`'
            )
        return function(*arguments, **options)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """F.layer_norm, computed in float32 at least; its result has x's precision, under autocast float32's."""
    given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(x, dim=list(range(-len(shape), 0)), correction=0, keepdim=True)
    out = (x - mean) * (variance + eps).rsqrt()
    out = out if weight is None else out * weight
    out = out if bias is None else out + bias
    return out if out.dtype == given or torch.is_autocast_enabled(x.device.type) else out.to(given)


def _where_it_fails(model: Model, call: Callable[[], object]) -> str:
    """The innermost module that runs when a call fails a second time: ``blocks.2.lstm (LSTM)``."""
    network, running = unwrapped(model), list[str]()
    if not isinstance(network, nn.Module):
        return "the network"

    def leave(*_: object) -> None:
        running.pop()

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            shown = f"{name} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
            enter = functools.partial(_enter, running, shown)
            for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
                hooks.callback(hook.remove)
        with suppress(RuntimeError):
            call()
    return running[-1] if running else "the network"


def _enter(running: list[str], shown: str, *_: object) -> None:
    running.append(shown)


@functools.cache
def _load_rules() -> None:
    """Loads PyTorch's forward-mode rules once, without the deprecation warning that its own loading raises."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning), torch.autograd.forward_ad.dual_level():
        torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]
