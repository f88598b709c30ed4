"""What a text encoder is, and the one that needs nothing: the text's bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..describe import Compact
from ..errors import UserError, is_whole


class Tokens(NamedTuple):
    """Texts as a network takes them: ``Cond(tokens=…, mask=…)``.

    Attributes:
        tokens: indices (b, n), int64, or features (b, n, d), float32.
        mask: which tokens there are (b, n), bool; those of a text come first, or wherever its tokenizer has them.
    """

    tokens: Tensor
    mask: Tensor


class TextEncoder(ABC):
    """What turns texts into tokens, each into the same number. Your own derives from it.

    It must have a ``length``, and a ``vocabulary`` or a ``width``; all may be set on the class or on the object.

    Attributes:
        length: tokens n of a text; shorter texts are filled up, and masked.
    """

    length: int

    @cached_property
    def vocabulary(self) -> int | None:
        """How many indices there are, where tokens are indices (b, n)."""
        return None

    @cached_property
    def width(self) -> int | None:
        """Number of features d, where tokens are features (b, n, d)."""
        return None

    @abstractmethod
    def count(self, text: str) -> int:
        """How many tokens a text takes, however many that are."""

    @abstractmethod
    def tokens_of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts (b) as tokens (b, n) or (b, n, d), and their mask (b, n), on the CPU; none takes more than n."""

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Texts (b) as tokens (b, n) or (b, n, d), and their mask (b, n), on the CPU.

        Raises:
            UserError: a text is empty, or takes more than n tokens.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"texts are a list of strings, at least one, got {texts!r:.60}")
        for text in texts:
            if wrong := self.problem(text):
                raise UserError(f"the text {text!r:.60} can't be encoded: {wrong}")
        return Tokens(*self.tokens_of(texts))

    def problem(self, text: str) -> str:
        """Why a text can't be encoded, in words; empty if it can."""
        if not text.strip():
            return "it is empty"
        count = self.count(text)
        return f"it takes {count:,} tokens, and {self.length} are the most" if count > self.length else ""

    def networks(self) -> list[nn.Module]:
        """What holds its weights, by which shards know it again: the modules among its attributes."""
        held = [self] if isinstance(self, nn.Module) else list(vars(self).values())
        return list({id(each): each for each in held if isinstance(each, nn.Module)}.values())

    @staticmethod
    def of(given: object) -> TextEncoder:
        """What was given as a text encoder.

        Raises:
            UserError: it doesn't derive from this class.
        """
        if not isinstance(given, TextEncoder):
            kind = type(given).__name__
            raise UserError(f"a text encoder is an object of a class that derives from af.TextEncoder, not a {kind}")
        return given


@dataclass(frozen=True, repr=False)
class ByteText(Compact, TextEncoder):
    """A text's bytes in UTF-8 as indices 0 … 255: needs no other package and no weights.

    Letters of English take one byte, others two to four.

    Args:
        length: tokens n of a text: the most bytes that one may have.
    """

    length: int = 64

    def __post_init__(self) -> None:
        check_length(self.length)

    @cached_property
    def vocabulary(self) -> int:
        """A byte has 256 values."""
        return 256

    def count(self, text: str) -> int:
        """Its bytes."""
        return len(_bytes(text))

    def tokens_of(self, texts: Sequence[str]) -> Tokens:
        """Bytes (b, n), int64, with zeros behind them, and which of them there are (b, n)."""
        data = [_bytes(text) for text in texts]
        filled = bytearray(b"".join(each.ljust(self.length, b"\0") for each in data))
        tokens = torch.frombuffer(filled, dtype=torch.uint8).view(-1, self.length).long()
        lengths = torch.tensor([len(each) for each in data])
        return Tokens(tokens, torch.arange(self.length) < lengths[:, None])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def check_length(length: int) -> None:
    """Raises a UserError unless it is a possible number of tokens."""
    if not is_whole(length) or length < 1:
        raise UserError(f"a text takes at least one token, a whole number, got `length={length!r}`")
