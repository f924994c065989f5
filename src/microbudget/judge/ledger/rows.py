"""What a ledger is made of: a row for each tensor, and the bytes that are in none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

# Files that hold a tokenizer's vocabulary.
VOCABULARY = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "vocabulary.json"}
VOCABULARY |= {"vocabulary.txt", "merges.txt", "added_tokens.json"}

Role = Literal["weight", "activation scale", "constant", "statistic"]


@dataclass(frozen=True)
class Row:
    """One tensor. Its bytes are values, their scales and zero points, and padding (packing, alignment)."""

    name: str
    role: Role
    shape: tuple[int, ...]  # of its numbers, not of their packing
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
        """Bits per parameter of the stored numbers only."""
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
