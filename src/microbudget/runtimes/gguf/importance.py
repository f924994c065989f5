"""Importance matrices: how large the inputs of each weight matrix are on a text, column by column.

Rounding then errs where it costs least: the squared error of an output is the sum over columns of the weight's squared
error times the input's mean square. llama.cpp computes the inputs; its format of the matrix is read and written.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedModel
from . import inputs
from .file import GgufFile, TensorInfo
from .inputs import CONTEXT
from .types import TYPES
from .write import Layout, entry

Matrix = dict[str, NDArray[np.float32]]  # by the tensor's name: mean squares, (columns,)
F32 = TYPES["F32"]
TEXTS = "microbudget.imatrix.texts"  # an entry that llama.cpp does not read
SUMS, COUNTS = ".in_sum2", ".counts"  # after a tensor's name in the file


def collect(path: Path, texts: Iterable[str], *, context: int = CONTEXT, threads: int = 0) -> tuple[Matrix, int]:
    """The mean square of every column's input, for every weight matrix of a GGUF file; and over how many tokens.

    Arguments and errors as of `inputs.read`.
    """
    sums = inputs.Sums()
    inputs.read(path, texts, sums, context=context, threads=threads)
    return sums.means(), sums.tokens


def save(path: Path, matrix: Mapping[str, NDArray[np.float32]], tokens: int, source: str = "", texts: int = 0) -> None:
    """Write the matrix as llama.cpp's `llama-imatrix` does, sums of squares with their counts.

    tokens: over how many the means are; source: of what text, for people; texts: how many were read. Raises DiskFull.
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
        entry(TEXTS, texts, "u32"),
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


def texts_read(path: Path) -> int:
    """How many texts the matrix in a file of `save` was computed with; 0 where the file does not say it."""
    with GgufFile(path) as file:
        return file.whole(TEXTS, 0)


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
