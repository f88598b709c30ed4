"""Text encoders of the transformers library, from the Hub or a local folder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..describe import Compact
from ..errors import UserError, reason
from ..hub import check_hub
from ..parallel.device import find_device
from .text_encoder import TextEncoder, Tokens, check_length

TEXT_PARTS = {"clip": "CLIPTextModel", "chinese_clip": "ChineseCLIPTextModel", "siglip": "SiglipTextModel"}
"""Kinds of models of pictures and texts, and the classes of their texts' part."""


@dataclass(frozen=True, repr=False)
class TransformersText(Compact, TextEncoder):
    """A text encoder of transformers: CLIP's, T5's encoder, BERT and its like. Tokens are its last hidden state.

    Nothing is loaded until it is needed. Weights are kept in float32 and run in bfloat16 on a GPU; they are read from
    safetensors only, and code that a model brings is never run.

    Args:
        name: a model on the Hub (``"google/flan-t5-base"``) or a local folder, with its tokenizer.
        length: tokens n of a text, the special ones included.
        device: where it runs; ``"auto"`` takes a GPU if there is one, under torchrun each process its own.

    Raises:
        UserError: on first use: transformers isn't installed, there is no such model or device, or it takes fewer
            tokens.
    """

    name: str
    length: int = 77
    device: Literal["auto"] | str = "auto"

    def __post_init__(self) -> None:
        check_length(self.length)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that belongs to the network."""
        tokenizer = self._loaded("AutoTokenizer")
        if tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer of {self.name} can't fill up short texts: it has no token for padding")
        return tokenizer

    @cached_property
    def network(self) -> nn.Module:
        """The loaded network, in evaluation mode."""
        config = self._loaded("AutoConfig")
        settings = config.to_dict()
        most = settings.get("text_config", settings).get("max_position_embeddings")
        most = min(most or self.length, self.tokenizer.model_max_length)  # RoBERTa counts two positions more
        if most < self.length:
            raise UserError(f"{self.name} takes texts of {most} tokens at most, got `length={self.length}`")
        kind = TEXT_PARTS.get(config.model_type, "AutoModelForTextEncoding")
        network: nn.Module = self._loaded(kind, use_safetensors=True, dtype=torch.float32)
        return network.to(find_device(self.device)).eval().requires_grad_(False)

    @cached_property
    def width(self) -> int:
        """Number of features d of a token, found by encoding one."""
        return int(self.tokens_of(["a"]).tokens.shape[-1])

    def networks(self) -> list[nn.Module]:
        """The loaded network."""
        return [self.network]

    def count(self, text: str) -> int:
        """Tokens of a text, the special ones included."""
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def tokens_of(self, texts: Sequence[str]) -> Tokens:
        """The last hidden state (b, n, d), float32, and the tokenizer's mask (b, n)."""
        options = {"padding": "max_length", "max_length": self.length, "return_attention_mask": True}
        given = self.tokenizer(list(texts), return_tensors="pt", **options)
        device = next(self.network.parameters()).device
        ids, mask = given["input_ids"].to(device), given["attention_mask"].to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        return Tokens(hidden.float().cpu(), mask.bool().cpu())

    def _loaded(self, kind: str, **options: Any) -> Any:
        """A part of the model: from the folder, or the Hub's cache, or the Hub."""
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise UserError("this needs transformers: pip install 'alphaflow[text]'") from error
        load = getattr(transformers, kind).from_pretrained
        options["trust_remote_code"] = False
        try:
            try:
                return load(self.name, local_files_only=True, **options)
            except OSError:
                if Path(self.name).is_dir():
                    raise
                check_hub("text encoder", self.name, "give a folder that holds it, or use `af.ByteText`")
                return load(self.name, **options)
        except UserError:
            raise
        except Exception as error:  # whatever a folder's files can make transformers raise
            raise UserError(
                f"can't load the text encoder {self.name!r}: {reason(error)}; give a model on the Hub, or a folder "
                "with config.json, model.safetensors and its tokenizer's files"
            ) from error
