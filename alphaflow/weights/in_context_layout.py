"""Improved MeanFlow's network: what its project calls the weights of `MiT`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..models.dit import DiT
from ..models.mit import MiT
from .dit_layout import Layout

SIDE = 32
"""Rows and columns of the latents that improved MeanFlow's networks were trained on."""

BRANCHES = ("shared_blocks", "u_heads", "v_heads")
"""Where their blocks are: before the branches, u's, and v's."""


@dataclass(frozen=True)
class InContextLayout(Layout):
    """Improved MeanFlow's network in PyTorch, `MiT`; its weights don't tell the size of samples, which is 32 × 32."""

    def network(
        self, state: Mapping[str, Tensor], heads: int | None = None, classes: int | None = None
    ) -> tuple[DiT | MiT, dict[str, Tensor]]:
        """The network, which takes no memory yet, and its weights; as `Layout.network`."""
        wrapped = re.compile(r"\._flax_(linear|embedding)\b")  # what its PyTorch port keeps of JAX's names
        own = {wrapped.sub("", name.removeprefix(self.prefix)): weight for name, weight in state.items()}
        self.check_plain(own)
        first = own.get("x_embedder.proj.weight")
        table = own.get("y_embedder.embedding_table.weight")
        norm = own.get("u_heads.0.attn.q_norm.weight")
        if first is None or first.ndim != 4 or table is None or table.ndim != 2 or norm is None or not len(norm):
            raise self.unlike("it has no x_embedder, y_embedder or u_heads.0, or these are of other shapes")
        counts = {kind: len({name.split(".")[1] for name in own if name.startswith(f"{kind}.")}) for kind in BRANCHES}
        shared, head, velocity = counts.values()
        config: dict[str, Any] = {
            "shape": (first.shape[1], SIDE, SIDE), "patch": first.shape[2], "depth": shared + head, "u_blocks": head,
            "width": len(first), "heads": heads or len(first) // len(norm), "classes": classes or len(table) - 1,
            "velocity_head": velocity,
        }  # fmt: skip
        with torch.device("meta"):
            model = MiT(**config)
        weights, used = dict[str, Tensor](), set[str]()
        for name, wanted in model.state_dict().items():
            theirs = self._in_context(name, shared)
            missing = [each for each in theirs if each not in own]
            if missing:
                raise self.unlike(f"it lacks {missing[0]:.100}")
            if any(own[each].ndim != own[theirs[0]].ndim or not own[each].ndim for each in theirs):
                raise self.unlike(f"its {theirs[0]:.100} is {tuple(own[theirs[0]].shape)}")
            used.update(theirs)
            weights[name] = self._as_ours(name, torch.cat([own[each] for each in theirs]), config)
            if weights[name].shape != wanted.shape:
                raise self.unlike(f"its {theirs[0]:.100} is {tuple(own[theirs[0]].shape)}")
        left = [name for name in own if name not in used and not name.startswith("v_final_layer.")]
        if left:
            raise self.unlike(f"it has beside them {left[0]:.100}")
        return model, weights

    def _in_context(self, name: str, shared: int) -> list[str]:
        """Their names of what one of our weights is made of."""
        block = re.match(r"(velocity_)?blocks\.(\d+)\.(.*)", name)
        if block is None:
            kinds = {"tokens.classes": "class_tokens", "tokens.jump": "time_tokens", "embed.jump": "h_embedder.mlp",
                     "embed.omega": "omega_embedder.mlp", "embed.t_min": "cfg_t_start_embedder.mlp",
                     "embed.t_max": "cfg_t_end_embedder.mlp", "velocity_final.": "v_final_layer.",
                     "final.": "u_final_layer.", "layer.out": "layer.linear", "hidden": "0", "mlp.out": "mlp.2",
                     "patches": "x_embedder", "embed_class": "y_embedder.embedding_table"}  # fmt: skip
            for ours, theirs in kinds.items():
                name = name.replace(ours, theirs)
            return [re.sub(r"^tokens\.(\w+)", r"\1_tokens", name)]
        number, rest = int(block[2]), block[3]
        place = f"v_heads.{number}" if block[1] else f"shared_blocks.{number}"
        place = f"u_heads.{number - shared}" if not block[1] and number >= shared else place
        parts = {"attention.qkv.weight": ["attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"],
                 "mlp.hidden.weight": ["mlp.w1.weight", "mlp.w3.weight"], "mlp.out.weight": ["mlp.w2.weight"],
                 "attention.out.weight": ["attn.out_proj.weight"], "attention.norms.0.weight": ["attn.q_norm.weight"],
                 "attention.norms.1.weight": ["attn.k_norm.weight"], "norms.0.weight": ["norm1.weight"],
                 "norms.1.weight": ["norm2.weight"], "scales.0": ["attn_scale"], "scales.1": ["mlp_scale"]}  # fmt: skip
        return [f"{place}.{each}" for each in parts[rest]]

    def _as_ours(self, name: str, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
        """One of their weights as ours."""
        if name == "patches.proj.weight":
            return weight.reshape(len(weight), -1)
        if ".out." in name and name.startswith(("final", "velocity_final")):
            p = config["patch"]
            return rearrange(weight, "(p q c) ... -> (c p q) ...", p=p, q=p)
        return weight
