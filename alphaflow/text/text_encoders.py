"""Text encoders by a name or a description."""

from __future__ import annotations

from pathlib import Path

from .text_encoder import ByteText, TextEncoder
from .transformers_text import TransformersText

TEXT_ENCODERS = {"ByteText": ByteText, "TransformersText": TransformersText}
"""What run.json and dataset.json may name as one."""


def open_text_encoder(name: str, length: int | None, device: str) -> TextEncoder:
    """The text encoder of this name, loaded.

    Args:
        name: ``"bytes"``, a model of transformers on the Hub, or its folder.
        length: tokens of a text; None for the encoder's own default.
        device: where it runs; ``"auto"`` takes a GPU if there is one, under torchrun each process its own.

    Raises:
        UserError: there is none of this name, or it can't be loaded.
    """
    given = {} if length is None else {"length": length}
    if name == "bytes":
        return ByteText(**given)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name  # the shards name it, wherever they are read
    encoder = TransformersText(name, device=device, **given)
    _ = encoder.tokenizer, encoder.network  # what is wrong with it is said before anything is begun
    return encoder
