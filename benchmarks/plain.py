"""Yardsticks for benchmarks/step.py, written for it: a plain DiT, and MeanFlow's step as public descriptions have it.

The network is `alphaflow.DiT` in ordinary PyTorch, block for block as in timm, with the same parameters and names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import alphaflow as af

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class PlainAttention(nn.Module):
    """``eager`` writes the softmax out; else PyTorch's fused attention."""

    def __init__(self, width: int, heads: int, eager: bool) -> None:
        super().__init__()
        self.heads, self.eager = heads, eager
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.eager:
            x = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(b, n, width))


class PlainMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.act = nn.GELU(approximate="tanh")
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.hidden(x)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, eager: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = PlainAttention(width, heads, eager)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = PlainMLP(width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(F.silu(c)).chunk(6, dim=1)
        x = x + gate_a.unsqueeze(1) * self.attention(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class PlainTime(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        rates = 10_000 ** (-torch.arange(128, device=t.device, dtype=t.dtype) / 128)
        angles = t[:, None] * rates
        return self.out(F.silu(self.hidden(torch.cat([angles.cos(), angles.sin()], dim=-1))))


class PlainFinal(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, patch)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c)).chunk(2, dim=1)
        return self.out(modulate(self.norm(x), shift, scale))


class PlainPatches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(patch, width)


class PlainDiT(nn.Module):
    """`alphaflow.DiT` of an image shape with labels (b,), in ordinary PyTorch: ``model(z, r, t, labels)``."""

    def __init__(self, model: af.DiT, eager: bool = False) -> None:
        super().__init__()
        config = model.config
        width, (self.channels, self.size, _), self.patch = config["width"], config["shape"], config["patch"]
        patch = self.channels * self.patch**2
        self.patches, self.final = PlainPatches(patch, width), PlainFinal(width, patch)
        self.embed_t, self.embed_jump = PlainTime(width), PlainTime(width)
        self.embed_class = nn.Embedding(config["classes"] + 1, width)
        self.blocks = nn.ModuleList(PlainBlock(width, config["heads"], eager) for _ in range(config["depth"]))
        self.register_buffer("positions", model.positions.clone(), persistent=False)
        self.load_state_dict(model.state_dict())

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        b, p, n = len(z), self.patch, self.size // self.patch
        x = z.reshape(b, self.channels, n, p, n, p).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, -1)
        x = self.patches.proj(x) + self.positions
        c = self.embed_t(t) + self.embed_jump(t - r) + self.embed_class(labels)
        for block in self.blocks:
            x = block(x, c)
        x = self.final(x, c).reshape(b, n, n, self.channels, p, p)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(z.shape)


def flow_matching(model: Network, x: Tensor, labels: Tensor) -> Tensor:
    """A bare loss of flow matching with the adaptive weight; as little as it can be."""
    t = torch.sigmoid(torch.randn(len(x), device=x.device) - 0.4)
    noise = torch.randn_like(x)
    at = t[:, None, None, None]
    return weighted(model((1 - at) * x + at * noise, t, t, labels), noise - x)


def times(b: int, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """r and t, sorted logit-normal; the last share·b have r = t."""
    t, r = torch.sigmoid(torch.randn(2, b, device=device) - 0.4).sort(dim=0, descending=True).values
    return torch.where(torch.arange(b, device=device) < b - int(share * b), r, t), t


@dataclass(frozen=True)
class Draw:
    """What all of MeanFlow's steps begin with."""

    r: Tensor
    t: Tensor
    z: Tensor
    v: Tensor
    labels: Tensor


def draw(model: Network, x: Tensor, labels: Tensor, share: float, kappa: float = 0.0, none: int = 0) -> Draw:
    """Times, noise and dropped labels; with κ, ω = 1 also guidance: v + κ·(u(z, t, t, y) − u(z, t, t, ∅)).

    Guidance takes two forward passes of the whole batch, one after the other.
    """
    r, t = times(len(x), share, x.device)
    noise = torch.randn_like(x)
    at = t[:, None, None, None]
    z, v = (1 - at) * x + at * noise, noise - x
    if kappa:
        labels = torch.where(torch.rand(len(x), device=x.device) < 0.1, none, labels)
        with torch.no_grad():
            v = v + kappa * (model(z, t, t, labels) - model(z, t, t, torch.full_like(labels, none)))
    return Draw(r, t, z, v, labels)


def weighted(u: Tensor, target: Tensor) -> Tensor:
    """The squared error with the adaptive weight."""
    error = (u - target.detach()).square().flatten(1).mean(1)
    return (error / (error.detach() + 1e-3)).mean()


def whole_batch(
    model: Network, x: Tensor, labels: Tensor, *, share: float, kappa: float = 0.0, none: int = 0
) -> Tensor:
    """MeanFlow's step, (a): a forward pass, and ``torch.func.jvp`` over the whole batch, as a PyTorch port has it.

    Attention is PyTorch's fused one in the forward pass; forward-mode AD needs its plain kernel. The jvp runs with
    gradients on, so it builds a graph that is never used, which costs time and most of the memory.
    """
    d = draw(model, x, labels, share, kappa, none)
    u = model(d.z, d.r, d.t, d.labels)
    with sdpa_kernel(SDPBackend.MATH):
        _, dudt = torch.func.jvp(lambda z, t: model(z, d.r, t, d.labels), (d.z, d.t), (d.v, torch.ones_like(d.t)))
    return weighted(u, d.v - (d.t - d.r)[:, None, None, None] * dudt)


def one_jvp(model: Network, x: Tensor, labels: Tensor, *, share: float) -> Tensor:
    """MeanFlow's step, (c): prediction and derivative of the whole batch by one jvp (arXiv 2505.13447, algorithm 1)."""
    d = draw(model, x, labels, share)
    with sdpa_kernel(SDPBackend.MATH):
        u, dudt = torch.func.jvp(lambda z, t: model(z, d.r, t, d.labels), (d.z, d.t), (d.v, torch.ones_like(d.t)))
    return weighted(u, d.v - (d.t - d.r)[:, None, None, None] * dudt)


def subset(model: Network, x: Tensor, labels: Tensor, *, share: float, kappa: float = 0.0, none: int = 0) -> Tensor:
    """MeanFlow's step, (b): a JVP by two backward passes, of the samples with r < t only (as α-Flow's code has it).

    For a network whose attention is written out: fused attention can't be differentiated twice.
    """
    d = draw(model, x, labels, share, kappa, none)
    u = model(d.z, d.r, d.t, d.labels)
    n = len(x) - int(share * len(x))
    _, dudt = torch.autograd.functional.jvp(
        lambda z, t: model(z, d.r[:n], t, d.labels[:n]), (d.z[:n], d.t[:n]), (d.v[:n], torch.ones_like(d.t[:n]))
    )
    target = d.v.clone()
    target[:n] -= (d.t - d.r)[:n, None, None, None] * dudt
    return weighted(u, target)
