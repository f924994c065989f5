"""The ledger of GGUF files: blocks hold values and their scales together, so both follow from the type."""

from __future__ import annotations

from ...model import Model
from ...runtimes.gguf.file import GgufFile, TensorInfo
from ...runtimes.gguf.types import GgmlType
from .rows import Ledger, Role, Row

# Bits of one value without its block's scales, where the type's name does not begin with them.
NOMINAL_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8}
CONSTANTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # computed, not learnt


def read(model: Model) -> Ledger:
    """The ledger of one file. Raises UnsupportedModel when it is damaged."""
    with GgufFile(model.weights) as file:
        rows = tuple(_row(tensor) for tensor in file.tensors.values())
        metadata = sum(len(entry.raw) for entry in file.entries.values())
        vocabulary = sum(len(entry.raw) for key, entry in file.entries.items() if key.startswith("tokenizer."))
        size = file.size_bytes
    graph = size - sum(row.bytes for row in rows) - metadata
    return Ledger(rows, graph, metadata - vocabulary, 0, vocabulary)


def _row(tensor: TensorInfo) -> Row:
    bits = nominal_bits(tensor.type)
    values = -(-tensor.parameters * bits // 8)
    role: Role = "constant" if tensor.name in CONSTANTS else "weight"
    return Row(tensor.name, role, tensor.shape, tensor.type.name, bits, values, tensor.size_bytes - values)


def nominal_bits(value_type: GgmlType) -> int:
    """Bits of a value as the type's name has them: 4 of Q4_K and IQ4_XS, 2 of TQ2_0."""
    if value_type.name in NOMINAL_BITS:
        return NOMINAL_BITS[value_type.name]
    return int(next(letter for letter in value_type.name if letter.isdigit()))
