"""Importance matrices: how large the inputs of each weight matrix are on a text, column by column.

Rounding then errs where it costs least: the squared error of an output is the sum over columns of the weight's squared
error times the input's mean square. llama.cpp computes the inputs; its format of the matrix is read and written.
"""

from __future__ import annotations

import ctypes
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData, BrokenModel, UnsupportedModel
from ...machine.processor import thread_count
from .file import GgufFile, TensorInfo
from .llama import library
from .llama.network import Network
from .llama.structures import Tensor
from .types import TYPES
from .write import Layout, entry

Matrix = dict[str, NDArray[np.float32]]  # by the tensor's name: mean squares, (columns,)
CONTEXT = 512  # tokens of a chunk, as llama.cpp's own tool has it
ROWS = 128  # tokens processed at once: their logits are computed too, else the last layer would see one token
F32 = TYPES["F32"]
SUMS, COUNTS = ".in_sum2", ".counts"  # after a tensor's name in the file


class _Sums:
    """Adds up the squares of the inputs of every product with a weight matrix."""

    def __init__(self) -> None:
        self.squares: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self._operations: dict[int, bool] = {}

    def watch(self, tensor: Tensor, before: bool) -> bool:
        """Called by llama.cpp before and after each operation."""
        if not self._is_product(tensor.op):
            return not before  # the result is not needed, or: go on
        weights, inputs = (Tensor.from_address(tensor.src[place]) for place in (0, 1))
        name = weights.name.decode("utf-8", "replace")
        if before:
            return name.endswith(".weight") and bool(inputs.type == F32.id)
        self._add(name, values(inputs))
        return True

    def _is_product(self, operation: int) -> bool:
        if operation not in self._operations:
            self._operations[operation] = library().ggml_op_name(operation) == b"MUL_MAT"
        return self._operations[operation]

    def _add(self, name: str, inputs: NDArray[np.float32]) -> None:
        squares = np.square(inputs).sum(axis=0, dtype=np.float64)
        self.squares[name] = self.squares.get(name, 0.0) + squares
        self.counts[name] = self.counts.get(name, 0) + len(inputs)


def values(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a float32 tensor in this process's memory: (rows, columns)."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    bytes_there = sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True)) + 4
    memory = (ctypes.c_char * bytes_there).from_address(tensor.data)
    return np.ndarray(shape, np.float32, memory, 0, strides).reshape(-1, shape[-1])


def collect(path: Path, texts: Iterable[str], *, context: int = CONTEXT, threads: int = 0) -> tuple[Matrix, int]:
    """The mean square of every column's input, for every weight matrix of a GGUF file; and over how many tokens.

    texts: one after another, cut into chunks of `context` tokens. threads: 0 means all cores. Raises BadData for texts
    of less than 16 tokens, BrokenModel for inputs that are not finite, and what opening the file raises.
    """
    with GgufFile(path):  # a damaged file would end the process in llama.cpp
        network, sums = Network(path), _Sums()
    try:
        size = min(context, network.trained_context)
        run = network.context(size, threads=thread_count(threads), rows=min(ROWS, size), watch=sums.watch)
        try:
            count = 0
            for chunk in _chunks(network, texts, size):
                run.rewind()
                for start in range(0, len(chunk), run.rows):
                    part = chunk[start : start + run.rows]
                    run.feed(part, len(part))
                count += len(chunk)
        finally:
            run.close()
    finally:
        network.close()
    if count < 16:
        raise BadData(f"an importance matrix of {count} tokens is too small: give more text")
    return _means(sums, path), count


def _chunks(network: Network, texts: Iterable[str], size: int) -> Iterator[list[int]]:
    """All tokens in chunks of `size`, each with the token that begins texts where the model wants it."""
    words = network.vocabulary
    first = [words.begin] if words.adds_begin and words.begin is not None else []
    waiting: list[int] = []
    for text in texts:
        waiting += words.encode(text)
        while len(waiting) >= size - len(first):
            yield first + waiting[: size - len(first)]
            waiting = waiting[size - len(first) :]
    if waiting:
        yield first + waiting


def _means(sums: _Sums, path: Path) -> Matrix:
    means = {name: (squares / sums.counts[name]).astype(np.float32) for name, squares in sums.squares.items()}
    broken = [name for name, mean in means.items() if not np.isfinite(mean).all()]
    if broken:
        raise BrokenModel(f"{path} computes NaN or infinity before {broken[0]}")
    return means


def save(path: Path, matrix: Mapping[str, NDArray[np.float32]], tokens: int, source: str = "") -> None:
    """Write the matrix as llama.cpp's `llama-imatrix` does, sums of squares with their counts.

    tokens: over how many the means are; source: of what text, for people. Raises DiskFull.
    """
    values: dict[str, NDArray[np.float32]] = {}
    for name, means in sorted(matrix.items()):
        values[name + SUMS] = (means.astype(np.float64) * tokens).astype(np.float32)
        values[name + COUNTS] = np.array([tokens], np.float32)
    about = (
        entry("general.type", "imatrix", "str"),
        entry("imatrix.datasets", [source] if source else [], "[str]"),
        entry("imatrix.chunk_count", -(-tokens // CONTEXT), "u32"),
        entry("imatrix.chunk_size", CONTEXT, "u32"),
    )
    offset, tensors = 0, []
    for name, array in values.items():
        tensors.append(TensorInfo(name, (1, array.size), F32, offset))
        offset += -(-array.nbytes // 32) * 32
    Layout(about, tuple(tensors)).write(path, lambda tensor: [values[tensor.name]])


def load(path: Path) -> Matrix:
    """The matrix in a file of `save` or of llama.cpp's `llama-imatrix`. Raises UnsupportedModel, ModelNotFound.

    Means that are all zero are of a tensor that was never run: they would weigh nothing, and are refused.
    """
    if path.is_file() and _is_older(path):
        old, new = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".gguf")))
        raise UnsupportedModel(
            f"{path} is an importance matrix in llama.cpp's older format, which llama.cpp converts, without a model:"
            f" llama-imatrix --in-file {old} -o {new}"
        )
    with GgufFile(path) as file:
        general_type: Any = file.get("general.type")
        if general_type != "imatrix":
            raise UnsupportedModel(f"{path} is no importance matrix (its general.type is {general_type!r})")
        names = [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]
        matrix = {name: _mean(file, name) for name in names}
    if not matrix:
        raise UnsupportedModel(f"{path} holds no importance of any tensor")
    return matrix


def _is_older(path: Path) -> bool:
    """Whether a file has llama.cpp's format before GGUF, whatever its name: a count, then a name after its length."""
    with path.open("rb") as stream:
        head = stream.read(8)
        count, length = (int.from_bytes(head[place : place + 4], "little") for place in (0, 4))
        name = stream.read(length) if 0 < length < 256 else b""
    return path.suffix.lower() == ".dat" or (0 < count < 1 << 20 and len(name) == length and name.endswith(b".weight"))


def _mean(file: GgufFile, name: str) -> NDArray[np.float32]:
    parts = [file.tensors.get(name + ending) for ending in (SUMS, COUNTS)]
    if any(part is None or part.type != F32 for part in parts):
        raise UnsupportedModel(f"{file.path} has no sums and counts in float32 of {name}")
    sums, counts = (file.read(part).view(np.float32).reshape(-1) for part in parts if part is not None)
    if counts.size != 1 or not counts[0] > 0 or not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise UnsupportedModel(f"{file.path} is damaged: the sums or counts of {name} cannot be")
    if not sums.any():
        raise UnsupportedModel(
            f"{file.path}: the importance of {name} is zero in all columns, as if it never ran: compute it again"
        )
    return np.asarray(sums / counts[0], np.float32)
