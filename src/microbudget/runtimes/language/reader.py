"""Reader: the interface through which every runtime of language models is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class Tokenizer(Protocol):
    """The tokens of a language model."""

    bos: int | None  # the token that begins a text, or where there is none the one that ends it
    adds_bos: bool  # whether the model was trained to see it before every text

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids, without BOS and EOS. special: "<|end|>" in the text is that token."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...


class Reader(Tokenizer, Protocol):
    """An open language model, with the keys and values of one sequence of tokens."""

    runtime: str
    vocabulary: int
    longest: int  # tokens of the longest sequence that the model was trained for
    bos_text: str  # what a chat template calls bos_token; empty where the model has none
    eos_text: str  # and eos_token
    chat_template: str | None

    def ends(self, token: int) -> bool:
        """Whether this token ends an answer."""
        ...

    def reserve(self, size: int, rows: int) -> None:
        """Make room for a sequence of `size` tokens, and for the logits of `rows` of them at once."""
        ...

    def process(self, tokens: Sequence[int], rows: int = 0) -> Logits:
        """Append tokens. Returns the logits after each of the last `rows` of them, (rows, vocabulary).

        They are valid until the next call.
        """
        ...

    def rewind(self, position: int = 0) -> None:
        """Remove the tokens from a position on."""
        ...

    def branch(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[Logits]:
        """The logits before each token of each branch, (tokens, vocabulary); a branch continues the prefix, alone.

        The prefix has at least one token and is processed once. The sequence so far is forgotten.
        """
        ...

    def cache_bytes(self) -> int | None:
        """Bytes of keys and values for the reserved size; None where the runtime does not report them."""
        ...

    def close(self) -> None:
        """Release the model's memory."""
        ...
