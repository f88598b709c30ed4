"""How a network is called, and what it may say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .describe import Configured
from .errors import UserError
from .types import Model, Sample


class Network(nn.Module, Configured):
    """A network u(z, r, t, cond) that says more of itself than how it is called.

    Any callable is a `Model`, and any ``torch.nn.Module`` trains. What stands here is optional: a network that has some
    of it derives from this class and sets it, on the class or in ``__init__``; the rest keeps its default.

    Attributes:
        offers_tangent: it can differentiate itself beside its prediction: ``network(z, r, t, cond, along=direction) ->
            (u, du)``. u (b, …) is as without ``along``, with gradient; the `Direction` is that of the first n samples,
            and du (n, …) is dz·∂_z u + dr·∂_r u + dt·∂_t u, without a graph. With options of the network's own, u is
            what it gives with these. `alphaflow.tangents` has the rules.
        velocity_head: blocks of a second branch that predicts the instantaneous velocity, which
            ``network(…, velocity=True) -> (u, v)`` gives too (`ImprovedMeanFlow`); 0 for none.
        takes_guidance: guidance is an input, ``cond.guidance`` (b, 3) (`GuidanceInputs`); None where it doesn't say.
        recompute: keep less of the forward pass and compute it again in the backward pass; None where it can't.
        classes: the number of classes it knows; None for any, or none.
        conditions: the names of the conditions that it takes; None where it doesn't say. One that the data have and it
            doesn't take is refused, and the other way round.
        static_graph: the same weights get a gradient whatever the samples, so that trying it on two tells which.
    """

    offers_tangent: bool = False
    velocity_head: int = 0
    takes_guidance: bool | None = None
    recompute: bool | None = None
    classes: int | None = None
    conditions: tuple[str, ...] | None = None
    static_graph: ClassVar[bool] = False

    def adapt(
        self, weights: Mapping[str, Tensor], *, of_images: bool = False, of_flow: bool = False
    ) -> dict[str, Tensor]:
        """Another network's weights, by name, fitted to this one as a start.

        Args:
            weights: as they were saved.
            of_images: that network's samples are images.
            of_flow: that network was trained at r = t only.
        """
        return dict(weights)


class Wrapped:
    """Something that stands for a network and is called like it; its attributes are the network's.

    Args:
        inner: the network.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the network gives."""
        return self.inner(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def known(model: Any) -> Network | type[Network]:
    """What a network says of itself, through all that stands for it; the defaults if it isn't a `Network`."""
    model = unwrapped(model)
    return model if isinstance(model, Network) else Network


def unwrapped(model: Any) -> Any:
    """The network itself, without what stands for it."""
    while True:
        if isinstance(model, Wrapped):
            model = model.inner
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:  # torch.compile(network)
            model = model._modules["_orig_mod"]
        else:
            return model


def check_declared(model: object) -> None:
    """Refuses a network that says something of itself without being a `Network`: nobody would listen.

    Raises:
        UserError: so it is.
    """
    if isinstance(model, nn.Module) and not isinstance(known(model), Network):
        said = {**vars(type(model)), **vars(model)}.keys() & {"offers_tangent", "velocity_head", "takes_guidance"}
        if said:
            raise UserError(
                f"{type(model).__name__} sets {sorted(said)[0]}, which is heard of an af.Network only: "
                f"write `class {type(model).__name__}(af.Network)`"
            )


class Upcast(Wrapped):
    """A network as objectives and samplers call it: what it gives has its samples' precision at least.

    Under autocast a network answers in bfloat16, of 8 bits. Whatever is then made of its answers (differences, what
    α ≪ 1 or a guidance scale multiplies, a sampler's steps) must not be rounded to as many again. A network whose own
    weights are of another precision than float32 is given the samples in that; times stay as they are.

    Args:
        model: u(z, r, t, cond). Its attributes are read through.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.inner if isinstance(model, Upcast) else model)

    def __call__(self, z: Sample, *arguments: Any, **options: Any) -> Any:
        """What the network gives, be it u (b, …) or, with options of its own, several things of which u is the first.

        Raises:
            ValueError: u has another shape than z.
        """
        dtype, along = self._type(), options.get("along")
        if dtype is not None and along is not None:
            options = {**options, "along": along._replace(z=along.z.to(dtype))}
        return upcast(self.inner(z.to(dtype or z.dtype), *arguments, **options), z)

    def _type(self) -> torch.dtype | None:
        """The type of the network's weights, by its first, where that isn't float32; None for that, and for none."""
        network = unwrapped(self.inner)
        first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        others = (torch.float16, torch.bfloat16, torch.float64)
        return first.dtype if first is not None and first.dtype in others else None


def upcast(out: Any, z: Sample) -> Any:
    """A network's output in z's precision, or its own where that is higher.

    Raises:
        ValueError: it, or the first of several, has another shape than z.
    """
    u = out
    while isinstance(u, tuple):
        u = u[0]
    if u.shape != z.shape:
        raise ValueError(f"the model must return u with z's shape {tuple(z.shape)}, got {tuple(u.shape)}")
    return _promoted(out, z.dtype)


def _promoted(out: Any, dtype: torch.dtype) -> Any:
    if isinstance(out, tuple):
        return tuple(_promoted(part, dtype) for part in out)
    if isinstance(out, Tensor) and out.is_floating_point():
        return out.to(torch.promote_types(out.dtype, dtype))
    return out
