"""Ledger: where every byte of a model's files is. The rows and parts add up to `size_bytes` exactly."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UnsupportedModel
from ..model import CT2_NAME, Model

Role = Literal["weight", "activation scale", "constant", "statistic"]
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "U32": 32, "U64": 64}
VOCABULARY = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "vocabulary.json"}
VOCABULARY |= {"vocabulary.txt", "merges.txt", "added_tokens.json"}
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")  # batch norm's: measured, not learnt


@dataclass(frozen=True)
class Row:
    """One tensor. Its bytes are values, their scales and zero points, and padding (packing, alignment)."""

    name: str
    role: Role
    shape: tuple[int, ...]  # of the numbers it stands for, not of their packing
    type: str
    bits: int  # nominal: of one stored number
    value_bytes: int
    scale_bytes: int = 0
    zero_point_bytes: int = 0
    padding_bytes: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """All bytes that the tensor takes."""
        return self.value_bytes + self.scale_bytes + self.zero_point_bytes + self.padding_bytes

    @property
    def effective_bits(self) -> float:
        """Bits per number with scales, zero points and padding counted."""
        return 8 * self.bytes / self.numbers if self.numbers else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values with the derived ones."""
        return {**asdict(self), "bytes": self.bytes, "effective_bits": round(self.effective_bits, 3)}


@dataclass(frozen=True)
class Ledger:
    """All rows, and the bytes that are in no tensor.

    They are `graph` (nodes, names, headers), `metadata`, the `vocabulary` of tokens, and other `files` (configs).
    """

    rows: tuple[Row, ...]
    graph_bytes: int
    metadata_bytes: int
    files_bytes: int
    vocabulary_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """The sum of everything: the model's `size_bytes`."""
        outside = self.graph_bytes + self.metadata_bytes + self.files_bytes + self.vocabulary_bytes
        return sum(row.bytes for row in self.rows) + outside

    @property
    def weights(self) -> tuple[Row, ...]:
        """The rows that hold parameters."""
        return tuple(row for row in self.rows if row.role == "weight")

    @property
    def parameters(self) -> int:
        """Learnt numbers, without statistics, constants and quantization scales."""
        return sum(row.numbers for row in self.weights)

    @property
    def bits_per_weight(self) -> float | None:
        """Effective bits per parameter: the weights' values, scales, zero points and padding; not the graph."""
        return 8 * sum(row.bytes for row in self.weights) / self.parameters if self.parameters else None

    @property
    def nominal_bits_per_weight(self) -> float | None:
        """Bits per parameter of the stored numbers alone."""
        return sum(row.bits * row.numbers for row in self.weights) / self.parameters if self.parameters else None

    def largest(self, count: int) -> tuple[Row, ...]:
        """The rows that take the most bytes."""
        return tuple(sorted(self.rows, key=lambda row: -row.bytes)[:count])

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: totals by part, and all rows, the largest first."""
        return {
            "size_bytes": self.size_bytes,
            "parameters": self.parameters,
            "bits_per_weight": self.bits_per_weight,
            "nominal_bits_per_weight": self.nominal_bits_per_weight,
            "parts": self.parts(),
            "rows": [row.as_dict() for row in self.largest(len(self.rows))],
        }

    def parts(self) -> dict[str, int]:
        """Bytes by what they are for; adds up to `size_bytes`."""
        weights = self.weights
        others = [row for row in self.rows if row.role != "weight"]
        return {
            "values": sum(row.value_bytes for row in weights),
            "scales": sum(row.scale_bytes for row in weights),
            "zero_points": sum(row.zero_point_bytes for row in weights),
            "padding": sum(row.padding_bytes for row in weights),
            "other_tensors": sum(row.bytes for row in others),
            "graph": self.graph_bytes,
            "metadata": self.metadata_bytes,
            "vocabulary": self.vocabulary_bytes,
            "files": self.files_bytes,
        }


def ledger(model: Model) -> Ledger:
    """The ledger of a model's files. Raises UnsupportedModel for a format without one."""
    if model.format == "onnx":
        from .onnx_ledger import read_onnx

        return read_onnx(model.weights, model.files)
    if model.format == "hf":
        return _read_hf(model.files)
    if model.format == "gguf":
        from .gguf_ledger import read_gguf

        return read_gguf(model.weights)
    if model.format == "ct2":
        from .ct2_ledger import read_ct2

        return read_ct2(model.path / CT2_NAME, model.files)
    raise UnsupportedModel(f"there is no ledger for format {model.format!r}; there is for onnx, hf, gguf, ct2")


def _read_hf(files: Iterable[Path]) -> Ledger:
    rows: list[Row] = []
    headers = others = vocabulary = 0
    for file in files:
        if file.suffix == ".safetensors":
            read, header = _read_safetensors(file)
            rows += read
            headers += header
        elif file.name in VOCABULARY:
            vocabulary += file.stat().st_size
        else:
            others += file.stat().st_size
    return Ledger(tuple(rows), headers, 0, others, vocabulary)


def _read_safetensors(path: Path) -> tuple[list[Row], int]:
    """Rows and the bytes outside them: 8 bytes of length, a JSON header, then the tensors."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length <= size else None
        rows = [_safetensors_row(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"{path} is no safetensors file ({error}): is the download complete?") from error
    return rows, size - sum(row.bytes for row in rows)


def _safetensors_row(name: str, entry: dict[str, Any]) -> Row:
    start, end = entry["data_offsets"]
    kind, shape = entry["dtype"], tuple(entry["shape"])
    role: Role = "statistic" if name.endswith(NO_PARAMETERS) else "weight"
    return Row(name, role, shape, kind, BITS.get(kind, 8 * (end - start) // max(1, math.prod(shape))), end - start)
