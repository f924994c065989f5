"""A GGUF file opened by llama.cpp: its tokenizer, and contexts that process tokens and give their logits.

The caller has read the file before (`GgufFile`): llama.cpp ends the process on some files that it cannot read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_int8, c_int32
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import BrokenModel, UnsupportedModel
from ....machine.interrupts import stopping
from .branches import Branched
from .library import last_words, library, refused
from .structures import Batch, EvalCallback, Tensor

Logits = NDArray[np.float32]
Watch = Callable[[Tensor, bool], bool]  # (tensor, before its operation) -> whether to keep its values, or to go on
CACHE_TYPES = {"F32": 0, "F16": 1}  # ggml's ids
LARGEST_MICROBATCH = 512  # tokens that llama.cpp processes at once; more cost memory and save no time on a CPU


class Vocabulary:
    """The tokenizer of an open file."""

    def __init__(self, handle: int) -> None:
        self._lib, self._handle = library(), handle
        self.size = int(self._lib.llama_vocab_n_tokens(handle))
        self.begin = _token(self._lib.llama_vocab_bos(handle))
        self.end = _token(self._lib.llama_vocab_eos(handle))
        self.adds_begin = bool(self._lib.llama_vocab_get_add_bos(handle)) and self.begin is not None

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids, without those that begin or end a text. special: "<|end|>" in the text is that token."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        ids = (c_int32 * room)()
        count = self._lib.llama_tokenize(self._handle, raw, len(raw), ids, room, False, special)
        if count < 0:
            raise UnsupportedModel(f"llama.cpp cannot tokenize a text of {len(raw)} bytes: {last_words()}")
        return list(ids[:count])

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token, perhaps a part of a character. special: also of tokens like "<|end|>"."""
        buffer = ctypes.create_string_buffer(64)
        length = self._lib.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = self._lib.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(0, length)]

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """The text of tokens."""
        return b"".join(self.piece(token, special) for token in tokens).decode("utf-8", "replace")

    def text(self, token: int | None) -> str:
        """How a special token is written in a template; empty for None."""
        return "" if token is None else self.piece(token, special=True).decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether a model ends its text with this token."""
        return bool(self._lib.llama_vocab_is_eog(self._handle, token))


def _token(value: int) -> int | None:
    return None if value < 0 else int(value)


class Network:
    """An open GGUF file. Use `context` to compute; close it after its contexts."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        """Load a file; weights are mapped. Raises UnsupportedModel with llama.cpp's reasons, MissingExtra."""
        self._lib, self.path = library(), path
        last_words()
        parameters = self._lib.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        self._handle = self._lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._handle:
            raise refused(path, "open")
        self.vocabulary = Vocabulary(self._lib.llama_model_get_vocab(self._handle))
        self.trained_context = int(self._lib.llama_model_n_ctx_train(self._handle))
        self.parameters = int(self._lib.llama_model_n_params(self._handle))
        self.weight_bytes = int(self._lib.llama_model_size(self._handle))

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation, as the file has it."""
        found: bytes | None = self._lib.llama_model_chat_template(self._handle, None)
        return None if found is None else found.decode("utf-8", "replace")

    def context(self, size: int, **options: Any) -> Context:
        """Room for `size` tokens; options as of Context."""
        return Context(self, size, **options)

    def close(self) -> None:
        """Release the weights."""
        if self._handle:
            self._lib.llama_model_free(self._handle)
            self._handle = None


class Context:
    """A sequence of tokens with its keys and values."""

    def __init__(
        self,
        network: Network,
        size: int,
        *,
        threads: int,
        rows: int = 1,
        sequences: int = 1,
        cache: str = "F16",
        watch: Watch | None = None,
    ) -> None:
        """size: tokens. rows: the most logits that one call of `process` returns. cache: type of the keys and values.

        sequences: the most branches of one call of `branch`; they share the room.

        watch is called twice for every operation: before it, to say whether the result is needed, and after it. An
        exception that it raises, and Ctrl-C, end the computation and come out of `feed`. Raises BrokenModel.
        """
        lib, self.size, self.rows, self.sequences = network._lib, size, rows, sequences
        self._lib, self._vocabulary = lib, network.vocabulary.size
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = size
        parameters.n_ubatch = min(size, LARGEST_MICROBATCH)
        parameters.n_outputs_max, parameters.n_outputs_max_per_seq = rows, 0
        parameters.n_seq_max, parameters.kv_unified = sequences, sequences > 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k = parameters.type_v = CACHE_TYPES[cache]
        if cache == "F32":
            parameters.flash_attn_type = 0  # flash attention rounds to half precision on the way
        self._error: BaseException | None = None
        self._stopped, self._watched = False, watch is not None
        self._watch = EvalCallback(self._guarded(watch)) if watch else EvalCallback()
        parameters.cb_eval = self._watch
        self._handle = lib.llama_init_from_model(network._handle, parameters)
        if not self._handle:
            raise BrokenModel(f"llama.cpp cannot run the model with a context of {size} tokens: {last_words()}")
        self._memory = lib.llama_get_memory(self._handle)
        self.allocated = int(lib.llama_n_ctx(self._handle))  # llama.cpp rounds the size up
        self.filled = 0

    def process(self, tokens: Sequence[int], rows: int = 0) -> Logits:
        """Append tokens; a copy of the logits after each of the last `rows`, (rows, vocabulary).

        Raises BrokenModel when llama.cpp fails.
        """
        return self.view(tokens, rows).copy()

    def view(self, tokens: Sequence[int], rows: int = 0) -> Logits:
        """As `process`, in llama.cpp's own memory: valid until the next call and until `close`."""
        self.feed(tokens, rows)
        if not rows:
            return np.empty((0, self._vocabulary), np.float32)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._handle), (rows, self._vocabulary))

    def feed(self, tokens: Sequence[int], rows: int) -> None:
        """Append tokens and compute the logits after each of the last `rows`, without reading them."""
        count = len(tokens)
        if count == 0 or self.filled + count > self.size or rows > min(self.rows, count):
            raise ValueError(f"{count} tokens with {rows} rows do not fit: {self.filled} of {self.size} filled")
        ids = (c_int32 * count)(*tokens)
        wanted = (c_int8 * count)(*[0] * (count - rows), *[1] * rows)
        status = self._decode(Batch(count, ids, None, None, None, None, wanted))
        if self._error is not None:
            raise self._error
        if status:
            raise BrokenModel(f"llama.cpp failed to process {count} tokens (status {status}): {last_words()}")
        self.filled += count

    def branch(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[Logits]:
        """In place of all tokens so far: the logits before each token of each branch, (tokens, vocabulary).

        A branch continues the prefix, and does not see the others. Raises BrokenModel when llama.cpp fails.
        """
        if not prefix or not 0 < len(branches) <= self.sequences or not all(branches):
            raise ValueError(f"{len(branches)} branches after {len(prefix)} tokens, of at most {self.sequences}")
        branched = Branched.of(prefix, branches)
        if branched.batch.n_tokens > self.size or branched.rows > self.rows:
            raise ValueError(f"{branched.batch.n_tokens} tokens with {branched.rows} rows do not fit")
        self.rewind()
        status = self._decode(branched.batch)
        if status:
            raise BrokenModel(f"llama.cpp failed to process {len(branches)} branches: {last_words()}")
        rows = np.ctypeslib.as_array(self._lib.llama_get_logits(self._handle), (branched.rows, self._vocabulary))
        ends = np.cumsum([1, *(len(branch) - 1 for branch in branches)])
        return [np.concatenate([rows[:1], rows[start:end]]) for start, end in pairwise(ends)]

    def _decode(self, batch: Batch) -> int:
        if not self._watched:  # what only reads is done in worker processes, which end at once
            return int(self._lib.llama_decode(self._handle, batch))
        self._stopped = False
        with stopping(self._stop):
            return int(self._lib.llama_decode(self._handle, batch))

    def _stop(self) -> None:
        self._stopped = True

    def _guarded(self, watch: Watch) -> Callable[[int, bool, int], bool]:
        """ctypes would print an exception and go on; here it ends the computation, and `feed` raises it.

        llama.cpp stops after an operation whose result was said to be needed.
        """

        def call(tensor: int, before: bool, _data: int) -> bool:
            if self._stopped:
                return before
            try:
                return watch(Tensor.from_address(tensor), before)
            except BaseException as error:
                self._error, self._stopped = error, True
                return before

        return call

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens from a position on."""
        if position == 0:
            self._lib.llama_memory_clear(self._memory, False)
        elif not self._lib.llama_memory_seq_rm(self._memory, 0, position, -1):
            raise BrokenModel("llama.cpp cannot remove tokens of this model: its memory is no cache of keys")
        self.filled = position

    def close(self) -> None:
        """Release the memory."""
        if self._handle:
            self._lib.llama_free(self._handle)
            self._handle = None
