"""The networks of other projects: what they call their weights, and what they mean by time and velocity.

All are DiTs (arXiv 2212.09748) with the same blocks; `DiT` computes what they do once its weights are theirs. What
differs is told by `Layout`, and made up for in the weights, exactly:

- A network whose time runs from noise (0) to data (1) is asked at 1 − t. Its first layer W sees the cosines and sines
  of tω, and cos((1 − t)ω) = cos ω·cos tω + sin ω·sin tω, sin((1 − t)ω) = sin ω·cos tω − cos ω·sin tω: a rotation R of
  what ours sees, so that W·R is the same layer. Its velocity x − ε is minus ours: so is the last layer's.
- A network that gives a variance beside its prediction loses the rows of the last layer that give it.
- Patches are cut (row, column, channel) there and (channel, row, column) here: the last layer's rows are rearranged.
- A network without a second time gets one whose last layer is zero: it computes what it did, to the bit.
- Norms by the root mean square, SwiGLU, norms and rotations of queries and keys (LightningDiT, arXiv 2501.01423) are
  options of `DiT`, found by the names; a modulation without shifts gets shifts of zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import UserError
from ..models.dit import DiT
from ..models.embeddings import TimeEmbedding, position_embedding
from ..models.mit import MiT

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights may be of."""

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads of the published sizes S, B, L and XL, by their width: weights don't tell."""


@dataclass(frozen=True)
class Layout:
    """How a project's network names its weights, and what it means by time and velocity.

    Attributes:
        project: where its code is.
        time: the embedder of t.
        jump: the embedder of t − r; None for a network that knows no jumps.
        prefix: what stands before each name.
        to_data: its time runs from noise, 0, to data, 1, and its velocity points there.
        noise: it predicts the noise, at the steps of DDPM's schedule (`NoisePrediction`).
        variance: it may give a variance beside its prediction, as many channels again.
        unused: names, by how they begin, of what sampling doesn't need.
    """

    project: str
    time: str = "t_embedder"
    jump: str | None = None
    prefix: str = ""
    to_data: bool = False
    noise: bool = False
    variance: bool = True
    unused: tuple[str, ...] = ()

    def network(
        self, state: Mapping[str, Tensor], heads: int | None = None, classes: int | None = None
    ) -> tuple[DiT | MiT, dict[str, Tensor]]:
        """The network, which takes no memory yet, and its weights.

        Args:
            state: weights by the project's names.
            heads: number of attention heads; None for the published sizes'.
            classes: number of classes; None for the rows of their embedding less one for 'no class', or for as many,
                where the rows are a multiple of 10.

        Raises:
            UserError: they aren't the weights of this layout.
        """
        own = {name.removeprefix(self.prefix): weight for name, weight in state.items() if name.startswith(self.prefix)}
        self._check_tensors(own)
        config = self._config(own, heads, classes)
        with torch.device("meta"):
            model = DiT(**config)
        ours = [name for name in model.state_dict() if self.jump is not None or not name.startswith("embed_jump.")]
        names = {name: self._theirs(name, config["swiglu"]) for name in ours}
        self._check(own, set(names.values()))
        places = position_embedding(model.grid, config["width"])
        known = own["pos_embed"]
        if known.shape != (1, *places.shape) or not torch.allclose(
            known[0].float(), places, atol=max(1e-4, torch.finfo(known.dtype).eps)
        ):
            raise self.unlike("its positions, pos_embed, are not the fixed sines and cosines of places")
        weights = {name: self._fitted(name, own[theirs], config) for name, theirs in names.items()}
        if self.jump is None:
            weights |= _no_jump(config["width"], weights["final.out.bias"].dtype)
        if len(weights["embed_class.weight"]) == config["classes"]:  # trained without dropping labels
            none = torch.zeros_like(weights["embed_class.weight"][:1])
            weights["embed_class.weight"] = torch.cat([weights["embed_class.weight"], none])
        for name, weight in model.state_dict().items():
            if weight.shape != weights[name].shape:
                there, theirs = tuple(weights[name].shape), names.get(name, name)
                raise self.unlike(f"its {theirs} is {there}, where the others' shapes ask for {tuple(weight.shape)}")
        return model, weights

    def _theirs(self, name: str, swiglu: bool) -> str:
        """Their name of one of our weights."""
        hidden, out = ("w12", "w3") if swiglu else ("fc1", "fc2")
        renamed = {
            "patches.proj": "x_embedder.proj", "embed_class": "y_embedder.embedding_table",
            "embed_t.hidden": f"{self.time}.mlp.0", "embed_t.out": f"{self.time}.mlp.2",
            "embed_jump.hidden": f"{self.jump}.mlp.0", "embed_jump.out": f"{self.jump}.mlp.2",
            "final.norm": "final_layer.norm_final", "final.out": "final_layer.linear",
            "final.modulation": "final_layer.modulation", "modulation": "adaLN_modulation.1",
            "mlp.hidden": f"mlp.{hidden}", "mlp.out": f"mlp.{out}",
            "attention.qkv": "attn.qkv", "attention.out": "attn.proj",
            "attention.norms.0": "attn.q_norm", "attention.norms.1": "attn.k_norm",
            ".norms.0": ".norm1", ".norms.1": ".norm2",
        }  # fmt: skip
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        return name

    def _config(self, own: Mapping[str, Tensor], heads: int | None, classes: int | None) -> dict[str, Any]:
        """What `DiT` is told, by the weights' shapes."""
        numbers = {int(found[1]) for name in own if (found := re.match(r"blocks\.(\d+)\.", name))}
        swiglu = "blocks.0.mlp.w12.weight" in own
        inner = f"blocks.0.mlp.{'w3' if swiglu else 'fc2'}.weight"
        patches, places, hidden = own["x_embedder.proj.weight"], own["pos_embed"], own[inner]
        if patches.ndim != 4 or patches.shape[2] != patches.shape[3] or places.ndim != 3:
            raise self.unlike(f"its x_embedder.proj.weight is {tuple(patches.shape)}")
        width, channels, patch, _ = patches.shape
        side = math.isqrt(places.shape[1])
        norm = own.get("blocks.0.attn.q_norm.weight")
        heads = heads or (HEADS.get(width) if norm is None else width // max(len(norm), 1))
        if heads is None:
            raise UserError(f"a network of width {width} is none of the published sizes: say how many heads, `heads=`")
        rows = own["y_embedder.embedding_table.weight"].shape[0]
        if classes not in (None, rows - 1, rows) or rows < 2:
            raise self.unlike(f"its y_embedder has {rows} rows, and `classes={classes}` was given")
        return {
            "shape": (channels, side * patch, side * patch), "patch": patch, "depth": len(numbers), "width": width,
            "heads": heads, "classes": classes or (rows - 1 if rows % 10 else rows),
            "mlp_ratio": _ratio(hidden.shape[1], width, swiglu),
            "rms_norm": "blocks.0.norm1.weight" in own, "swiglu": swiglu, "qk_norm": norm is not None,
            "rope": any(name.startswith(ROTATIONS) for name in own),
        }  # fmt: skip

    def _check_tensors(self, own: Mapping[str, Tensor]) -> None:
        """Raises a UserError unless they are a DiT's, each of as many dimensions as its kind has."""
        self.check_plain(own)
        mlp = "blocks.0.mlp.w3.weight" if "blocks.0.mlp.w12.weight" in own else "blocks.0.mlp.fc2.weight"
        for name in ("x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight", mlp):
            if name not in own:
                raise self.unlike(f"it has no {self.prefix}{name}")
        for name, weight in own.items():
            usual = 1 if name.endswith("bias") or "norm" in name else 2
            if weight.ndim != {"pos_embed": 3, "x_embedder.proj.weight": 4}.get(name, usual):
                raise self.unlike(f"its {name:.100} is of shape {tuple(weight.shape)}")

    def check_plain(self, own: Mapping[str, Tensor]) -> None:
        """Raises a UserError unless all are dense tensors of finite floats."""
        for name, weight in own.items():
            plain = weight.layout == torch.strided and not weight.is_quantized and weight.device.type == "cpu"
            if not (plain and weight.dtype in PLAIN and weight.numel()):
                raise self.unlike(
                    f"its {name:.100}, {weight.dtype} {tuple(weight.shape)}, is no plain tensor of floats"
                )
            if not bool(weight.isfinite().all()):
                raise UserError(f"the weight {name:.100} is not finite: it holds NaN or infinity")

    def _check(self, own: Mapping[str, Tensor], names: set[str]) -> None:
        """Raises a UserError unless all weights are there, and no others."""
        missing = sorted(names - own.keys())
        left = sorted(
            name for name in own.keys() - names - {"pos_embed"} if not name.startswith((*self.unused, ROTATIONS))
        )
        for what, found in (("lacks", missing), ("has beside them", left)):
            if found:
                listed = ", ".join(f"{name:.100}" for name in found[:3]) + (
                    f" and {len(found) - 3} more" if len(found) > 3 else ""
                )
                raise self.unlike(f"it {what} {listed}")

    def _fitted(self, name: str, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
        """One of their weights as ours."""
        if name == "patches.proj.weight":
            return weight.reshape(len(weight), -1)
        if self.to_data and name == "embed_t.hidden.weight":
            return _reversed(weight)
        width = config["width"]
        if name.endswith((".modulation.weight", ".modulation.bias")) and len(weight) == 4 * width:  # without shifts
            scale_a, gate_a, scale_m, gate_m = weight.chunk(4)
            none = torch.zeros_like(scale_a)
            return torch.cat([none, scale_a, gate_a, none, scale_m, gate_m])
        if name.startswith("final.out."):
            p, c = config["patch"], config["shape"][0]
            if weight.shape[0] not in (p * p * c, 2 * p * p * c if self.variance else 0):
                raise self.unlike(f"its last layer has {weight.shape[0]} rows for patches of {p} × {p} × {c}")
            rows = rearrange(weight, "(p q c) ... -> c p q ...", p=p, q=p)[:c].flatten(0, 2)
            return -rows if self.to_data else rows
        return weight

    def unlike(self, what: str) -> UserError:
        """The error for weights of another network."""
        return UserError(f"these are not the weights of a network of {self.project}: {what}")


def _ratio(inner: int, width: int, swiglu: bool) -> float:
    """The ratio by which `DiT` makes MLPs of this inner width."""
    hidden = inner if not swiglu else next(n for n in range(inner, 2 * inner + 2) if int(2 / 3 * n) == inner)
    return next(ratio for ratio in (hidden / width, (hidden + 0.5) / width) if int(width * ratio) == hidden)


def _reversed(weight: Tensor) -> Tensor:
    """A time embedding's first layer (width, 2k) that sees the cosines and sines of t as it saw those of 1 − t."""
    exact = weight.double()
    cosines, sines = exact.chunk(2, dim=1)
    k = cosines.shape[1]
    rates = torch.exp(torch.arange(k, dtype=torch.float64) * (-math.log(10_000.0) / k))
    turned = [cosines * rates.cos() + sines * rates.sin(), cosines * rates.sin() - sines * rates.cos()]
    return torch.cat(turned, dim=1).to(torch.promote_types(weight.dtype, torch.float32))  # not rounded to half again


def _no_jump(width: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """An embedding of t − r that gives zero, and can learn: its last layer is zero, the one before as `DiT` begins."""
    embed = TimeEmbedding(width).to(dtype)
    torch.nn.init.normal_(embed.hidden.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    for parameter in (embed.hidden.bias, *embed.out.parameters()):
        torch.nn.init.zeros_(parameter)
    return {f"embed_jump.{name}": weight.detach() for name, weight in embed.state_dict().items()}


ROTATIONS = "feat_rope."
"""How the names of LightningDiT's rotations begin, which are computed here."""
