"""GGUF files in llama.cpp: logits of the file as it ships, with its own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...machine.processor import thread_count
from ..language.session import LanguageSession
from .file import GgufFile
from .llama import library, version
from .llama.network import Context, Network

if TYPE_CHECKING:
    from ...model import Model


SIZES, ROWS, SEQUENCES = 256, 64, 8  # steps of the room for branches: tokens, rows of logits, branches


class GgufReader:
    """An open GGUF file with one sequence of tokens. cache: the type of its keys and values, "F16" or "F32"."""

    def __init__(self, path: Path, threads: int = 0, cache: str = "F16") -> None:
        with GgufFile(path) as file:  # a damaged file is refused here: llama.cpp would end the process on some
            begins = "tokenizer.ggml.bos_token_id" in file.entries
            self._cache_row_bytes = cache_row_bytes(file, cache)
        self.runtime = f"llama.cpp (xllamacpp {version()})"
        self._network, self._cache = Network(path), cache
        self._threads = thread_count(threads)
        self._context: Context | None = None
        self._branched: Context | None = None  # another one, with room for several sequences
        self._words = self._network.vocabulary
        self.vocabulary, self.longest = self._words.size, self._network.trained_context
        self.bos = self._words.begin if begins else self._words.end
        self.adds_bos = self._words.adds_begin
        self.bos_text = self._words.text(self._words.begin) if begins else ""
        self.eos_text = self._words.text(self._words.end)
        self.chat_template = self._network.chat_template

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids, without those that begin or end a text. special: "<|end|>" in the text is that token."""
        return self._words.encode(text, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._words.decode(tokens)

    def ends(self, token: int) -> bool:
        """Whether the model ends its text with this token."""
        return self._words.ends(token)

    def reserve(self, size: int, rows: int) -> None:
        """Make room for a sequence of `size` tokens, and for the logits of `rows` of them at once."""
        if self._context is not None:
            self._context.close()
        self._context = self._network.context(size, threads=self._threads, rows=rows, cache=self._cache)

    def process(self, tokens: Sequence[int], rows: int = 0) -> NDArray[np.float32]:
        """Append tokens; the logits after each of the last `rows`, (rows, vocabulary), valid until the next call."""
        return self._opened().view(tokens, rows)

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens from a position on."""
        self._opened().rewind(position)

    def branch(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The logits before each token of each branch, (tokens, vocabulary), in one call of llama.cpp."""
        needed = (
            len(prefix) + sum(map(len, branches)),
            1 + sum(len(branch) - 1 for branch in branches),
            len(branches),
        )
        room = self._branched
        have = (0, 0, 0) if room is None else (room.size, room.rows, room.sequences)
        if room is None or any(more > less for more, less in zip(needed, have, strict=True)):
            # In steps, so that few questions need a new context.
            size, rows, sequences = (
                -(-max(more, less) // step) * step
                for more, less, step in zip(needed, have, (SIZES, ROWS, SEQUENCES), strict=True)
            )
            if room is not None:
                room.close()
            room = self._branched = self._network.context(
                size, threads=self._threads, rows=rows, sequences=sequences, cache=self._cache
            )
        return room.branch(prefix, branches)

    def cache_bytes(self) -> int | None:
        """Bytes of keys and values for the reserved size; None before there is one."""
        return None if self._context is None else self._context.allocated * self._cache_row_bytes

    def close(self) -> None:
        """Release the weights and the sequence."""
        for context in (self._context, self._branched):
            if context is not None:
                context.close()
        self._network.close()

    def _opened(self) -> Context:
        if self._context is None:
            raise ValueError("reserve room before a sequence is processed")
        return self._context


def cache_row_bytes(file: GgufFile, cache: str = "F16") -> int:
    """Bytes of keys and values of one token in all layers, from the file's metadata."""
    architecture = file.architecture
    heads = file.wholes(f"{architecture}.attention.head_count", 0)
    shared = heads
    if f"{architecture}.attention.head_count_kv" in file.entries:
        shared = file.wholes(f"{architecture}.attention.head_count_kv")
    width = file.whole(f"{architecture}.embedding_length", 0) // max(1, *heads)
    keys, values = (file.whole(f"{architecture}.attention.{name}_length", width) for name in ("key", "value"))
    layers = file.whole(f"{architecture}.block_count", 0)
    all_heads = sum(shared) if len(shared) == layers else shared[0] * layers
    return all_heads * (keys + values) * {"F32": 4, "F16": 2}[cache]


def load_library() -> None:
    """Load llama.cpp, which is otherwise loaded with the first model: its memory is no model's."""
    library()


def open_session(model: Model, *, threads: int = 0) -> LanguageSession:
    """Open a `gguf` Model. threads: 0 means all cores."""
    return LanguageSession(GgufReader(model.weights, threads))
