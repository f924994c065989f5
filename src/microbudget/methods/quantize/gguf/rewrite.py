"""Rewrite a GGUF file with other types: row by row through ggml's quantizers, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import UnsupportedModel
from ....runtimes.gguf.convert import QUANTIZATION_VERSION
from ....runtimes.gguf.file import Entry, GgufFile, TensorInfo
from ....runtimes.gguf.types import FILE_TYPES
from ....runtimes.gguf.write import Layout, entry, order
from ....runtimes.hf.checkpoint import widen
from .mixtures import Choice, needs_imatrix

Importance = Mapping[str, NDArray[np.float32]]  # by tensor: (columns,), or (experts * columns,)
CHUNK_VALUES = 2**20  # 4 MB of float32 in flight for each thread
_REPLACED = (
    "general.quantization_version", "general.file_type", "split.no", "split.count", "split.tensors.count",
)  # fmt: skip


def ordered(file: GgufFile) -> tuple[TensorInfo, ...]:
    """The file's tensors in the order in which llama.cpp's quantizer writes them."""
    return order(tuple(file.tensors.values()))


def layout(file: GgufFile, choices: Sequence[Choice], file_type: str) -> Layout:
    """The new file before its data: all entries are kept, those that name the types are updated."""
    return Layout(updated_entries(tuple(file.entries.values()), file_type), retyped(choices), file.alignment)


def updated_entries(entries: Sequence[Entry], file_type: str) -> tuple[Entry, ...]:
    """Entries with the type of the new file, in the order of llama.cpp's quantizer."""
    return (
        *(item for item in entries if item.key not in _REPLACED),
        entry("general.quantization_version", QUANTIZATION_VERSION, "u32"),
        entry("general.file_type", FILE_TYPES[file_type], "u32"),
    )


def retyped(choices: Sequence[Choice]) -> tuple[TensorInfo, ...]:
    """The tensors with their new types."""
    return tuple(replace(choice.tensor, type=choice.type) for choice in choices)


def rewrite(
    file: GgufFile,
    choices: Sequence[Choice],
    file_type: str,
    path: Path,
    *,
    importance: Importance | None = None,
    threads: int = 1,
    track: Callable[[Sequence[Choice]], Iterator[Choice]] = iter,
) -> Layout:
    """Write `path` with the chosen types. Raises DiskFull before the start, UnsupportedModel for weights that are NaN.

    importance: how much each column of a matrix counts; without it all count the same. track: yields the choices, and
    may show the progress.
    """
    made = layout(file, choices, file_type)
    _check_importance(choices, file_type, importance)
    left = track(choices)
    with ThreadPoolExecutor(threads) as pool:
        made.write(path, lambda _: _data(file, next(left), importance or {}, pool, threads))
    return made


def _check_importance(choices: Sequence[Choice], file_type: str, importance: Importance | None) -> None:
    """Raise UnsupportedModel when the matrix is of another model, or lacks a tensor that needs it."""
    for choice in choices:
        tensor = choice.tensor
        weights = None if importance is None else importance.get(tensor.name)
        if weights is None:
            if importance is not None and needs_imatrix(choice, file_type):
                raise UnsupportedModel(
                    f"the importance matrix has no values for {tensor.name}, which {choice.type.name} needs:"
                    " was it computed for this model?"
                )
            continue
        expected = tensor.columns * (tensor.shape[0] if len(tensor.shape) == 3 else 1)
        if weights.size != expected:
            raise UnsupportedModel(
                f"the importance matrix has {weights.size} values for {tensor.name}, which has {expected} columns:"
                " it was computed for another model"
            )


def _data(
    file: GgufFile, choice: Choice, importance: Importance, pool: ThreadPoolExecutor, threads: int
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a tensor in its new type, in order; a few pieces are computed ahead."""
    if choice.type == choice.tensor.type:
        for first, count in _pieces(choice.tensor):
            yield file.read(choice.tensor, first, count)
        return
    weights = importance.get(choice.tensor.name)
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    for first, count in _pieces(choice.tensor):
        raw = file.read(choice.tensor, first, count)
        pending.append(pool.submit(_convert, raw, choice, _columns(weights, choice.tensor, first)))
        if len(pending) > threads:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _pieces(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """(first row, rows) of pieces that end where a matrix ends: each expert has an importance of its own."""
    height = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    step = max(1, CHUNK_VALUES // tensor.columns)
    for start in range(0, tensor.rows, height):
        for first in range(start, start + height, step):
            yield first, min(step, start + height - first)


def _columns(weights: NDArray[np.float32] | None, tensor: TensorInfo, row: int) -> NDArray[np.float32] | None:
    """The importance of the columns in the matrix that a row belongs to."""
    if weights is None:
        return None
    experts: NDArray[np.float32] = weights.reshape(-1, tensor.columns)
    chosen: NDArray[np.float32] = experts[row // tensor.shape[-2] if len(experts) > 1 else 0]
    return chosen


def _convert(raw: NDArray[np.uint8], choice: Choice, weights: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    from ....runtimes.gguf.llama.quantizing import quantize

    rows = as_float(raw, choice.tensor)
    if not np.isfinite(rows).all():
        raise UnsupportedModel(f"{choice.tensor.name} has weights that are not finite: the model is broken")
    return quantize(rows, choice.type.id, weights).reshape(-1)


def as_float(raw: NDArray[np.uint8], tensor: TensorInfo) -> NDArray[np.float32]:
    """Rows of a stored tensor as float32, (rows, columns)."""
    from ....runtimes.gguf.llama.quantizing import dequantize

    type_name, columns = tensor.type.name, tensor.columns
    if type_name == "F32":
        return raw.view(np.float32).reshape(-1, columns)
    if type_name == "F16":
        return raw.view(np.float16).reshape(-1, columns).astype(np.float32)
    if type_name == "BF16":
        return widen(raw.view(np.uint16)).reshape(-1, columns)
    if not tensor.type.quantized:
        raise UnsupportedModel(f"{tensor.name} is of type {type_name}, which is not a matrix of weights")
    return dequantize(raw.reshape(-1, tensor.type.bytes_of((columns,))), tensor.type.id, columns)
