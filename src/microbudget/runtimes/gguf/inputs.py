"""The inputs of each weight matrix while llama.cpp reads a text: sums of squares, column by column.

Reading can be stopped after any chunk of tokens, kept in a file, and continued as if it had never stopped.
"""

from __future__ import annotations

import ctypes
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData, BrokenModel
from ...machine.files import open_whole
from ...machine.processor import thread_count
from .file import GgufFile
from .llama import library
from .llama.network import Network
from .llama.structures import Tensor
from .types import TYPES

CONTEXT = 512  # tokens of a chunk, as llama.cpp's own tool has it
ROWS = 128  # tokens processed at once: their logits are computed too, else the last layer would see one token
F32 = TYPES["F32"]
Means = dict[str, NDArray[np.float32]]  # by the weight matrix's name: (columns,)


@dataclass
class Sums:
    """What has been added up so far.

    texts: how many were begun. waiting: tokens of these that are in no chunk yet.
    """

    squares: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # by the weight matrix's name: (columns,)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    texts: int = 0
    waiting: list[int] = field(default_factory=list)

    def add(self, name: str, inputs: NDArray[np.float32]) -> None:
        """Inputs of a matrix, (tokens, columns)."""
        squares = np.square(inputs).sum(axis=0, dtype=np.float64)
        self.squares[name] = self.squares.get(name, 0.0) + squares
        self.counts[name] = self.counts.get(name, 0) + len(inputs)

    def means(self) -> Means:
        """The mean square of every column's input."""
        return {name: (squares / self.counts[name]).astype(np.float32) for name, squares in self.squares.items()}

    def save(self, path: Path) -> None:
        """Write all of it. Raises OSError."""
        about = {"counts": self.counts, "tokens": self.tokens, "texts": self.texts, "waiting": self.waiting}
        arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **self.squares}
        with open_whole(path) as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Sums:
        """What `save` wrote; empty where there is no such file, or a damaged one."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                return cls({name: stored[name] for name in stored.files if name != "about"}, **about)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return cls()


class _Watch:
    """Adds up the inputs of every product with a weight matrix."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._operations: dict[int, bool] = {}

    def __call__(self, tensor: Tensor, before: bool) -> bool:
        """Called by llama.cpp before and after each operation."""
        if not self._is_product(tensor.op):
            return not before  # the result is not needed, or: go on
        weights, inputs = (Tensor.from_address(tensor.src[place]) for place in (0, 1))
        name = weights.name.decode("utf-8", "replace")
        if before:
            return name.endswith(".weight") and bool(inputs.type == F32.id)
        self._sums.add(name, values(inputs))
        return True

    def _is_product(self, operation: int) -> bool:
        if operation not in self._operations:
            self._operations[operation] = library().ggml_op_name(operation) == b"MUL_MAT"
        return self._operations[operation]


def values(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a float32 tensor in this process's memory: (rows, columns)."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    bytes_there = sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True)) + 4
    memory = (ctypes.c_char * bytes_there).from_address(tensor.data)
    return np.ndarray(shape, np.float32, memory, 0, strides).reshape(-1, shape[-1])


def read(
    path: Path,
    texts: Iterable[str],
    sums: Sums,
    *,
    context: int = CONTEXT,
    threads: int = 0,
    enough: Callable[[Sums], bool] | None = None,
) -> None:
    """Add to `sums` the inputs of a GGUF file's matrices while it reads texts.

    texts: one after another, cut into chunks of `context` tokens; the first `sums.texts` of them are skipped, since
    `sums` has them already. threads: 0 means all cores. enough: asked after each chunk whether to stop. Raises BadData
    for texts of less than 16 tokens, BrokenModel for inputs that are not finite, and what opening the file raises.
    """
    with GgufFile(path):  # a damaged file would end the process in llama.cpp
        network = Network(path)
    try:
        size = min(context, network.trained_context)
        reading = network.context(size, threads=thread_count(threads), rows=min(ROWS, size), watch=_Watch(sums))
        try:
            for chunk in _chunks(network, texts, size, sums):
                reading.rewind()
                for start in range(0, len(chunk), reading.rows):
                    part = chunk[start : start + reading.rows]
                    reading.feed(part, len(part))
                sums.tokens += len(chunk)
                if enough is not None and enough(sums):
                    break
        finally:
            reading.close()
    finally:
        network.close()
    if sums.tokens < 16:
        raise BadData(f"an importance matrix of {sums.tokens} tokens is too small: give more text")
    broken = [name for name, squares in sums.squares.items() if not np.isfinite(squares).all()]
    if broken:
        raise BrokenModel(f"{path} computes NaN or infinity before {broken[0]}")


def _chunks(network: Network, texts: Iterable[str], size: int, sums: Sums) -> Iterator[list[int]]:
    """All tokens in chunks of `size`, each with the token that begins texts where the model wants it."""
    words = network.vocabulary
    first = [words.begin] if words.adds_begin and words.begin is not None else []
    step = size - len(first)
    for place, text in enumerate(texts):
        if place < sums.texts:
            continue
        sums.texts += 1
        sums.waiting += words.encode(text)
        while len(sums.waiting) >= step:
            chunk, sums.waiting = sums.waiting[:step], sums.waiting[step:]
            yield first + chunk
    while sums.waiting:
        chunk, sums.waiting = sums.waiting[:step], sums.waiting[step:]
        yield first + chunk
