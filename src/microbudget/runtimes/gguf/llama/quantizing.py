"""ggml's quantizers: rows of float32 to a type's blocks and back, with an importance for each column."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from ....errors import InvalidOption
from ..types import WRITABLE
from .library import library

Floats = NDArray[np.float32]


def row_bytes(type_id: int, columns: int) -> int:
    """Bytes of a row of a ggml type; columns is a multiple of the type's block."""
    if type_id not in WRITABLE:
        raise InvalidOption(f"ggml cannot quantize to type {type_id} ({type_name(type_id)})")
    block = library().ggml_get_type_traits(type_id).contents.blck_size
    if columns % block:
        raise InvalidOption(f"{type_name(type_id)} stores {block} values in a block: a row of {columns} is no multiple")
    return int(library().ggml_row_size(type_id, columns))


def requires_importance(type_id: int) -> bool:
    """Whether ggml refuses to quantize to this type without an importance matrix."""
    return bool(library().ggml_quantize_requires_imatrix(type_id))


def quantize(rows: Floats, type_id: int, importance: Floats | None = None) -> NDArray[np.uint8]:
    """Blocks of a ggml type. rows: (n, columns) float32; importance: (columns,), above 0 -> (n, bytes of a row).

    ggml_quantize_chunk. Python's lock is released meanwhile, so threads may quantize parts of a tensor at once.
    Raises InvalidOption for a type that cannot be written, or that needs an importance and gets none.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    count, columns = rows.shape
    width = row_bytes(type_id, columns)
    if importance is None and requires_importance(type_id):
        raise InvalidOption(f"{type_name(type_id)} needs an importance matrix: give one, or training text for it")
    if importance is not None and importance.shape != (columns,):
        raise ValueError(f"an importance of shape {importance.shape} for {columns} columns")
    blocks = np.empty((count, width), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    given = None if weights is None else weights.ctypes.data
    written = library().ggml_quantize_chunk(type_id, rows.ctypes.data, blocks.ctypes.data, 0, count, columns, given)
    if written != blocks.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {blocks.nbytes}")  # a defect, not the user's input
    return blocks


def dequantize(blocks: NDArray[np.uint8], type_id: int, columns: int) -> Floats:
    """The inverse of `quantize`, up to its loss: (n, bytes of a row) -> (n, columns) float32."""
    blocks = np.ascontiguousarray(blocks)
    if blocks.shape[1] != row_bytes(type_id, columns):
        raise ValueError(f"rows of {blocks.shape[1]} bytes for {columns} columns")
    traits = library().ggml_get_type_traits(type_id).contents
    values = np.empty((len(blocks), columns), np.float32)
    if type_id == 0:
        values[:] = blocks.view(np.float32)
        return values
    convert = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(traits.to_float)
    library().ggml_quantize_init(type_id)
    convert(blocks.ctypes.data, values.ctypes.data, values.size)
    return values


def type_name(type_id: int) -> str:
    """ggml's own name of a type: "q4_K"."""
    name: bytes | None = library().ggml_type_name(type_id)
    return (name or b"none").decode()
