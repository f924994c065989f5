"""ggml's types of tensors, as in a GGUF file: how many values a block has, and how many bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import InvalidOption

# Types whose rounding takes no account of an importance matrix: none is computed for them.
UNWEIGHTED = frozenset(("F32", "F16", "BF16", "Q8_0", "MXFP4", "TQ1_0", "TQ2_0"))


@dataclass(frozen=True)
class GgmlType:
    """A type of tensor: `block` values of a row are stored together in `block_bytes`."""

    name: str
    id: int  # ggml.h, enum ggml_type
    block: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that one value takes."""
        return 8 * self.block_bytes / self.block

    @property
    def quantized(self) -> bool:
        """Whether values share a block."""
        return self.block > 1

    def fits(self, columns: int) -> bool:
        """Whether a row of that many values is a whole number of blocks."""
        return columns % self.block == 0

    def bytes_of(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor; shape: (..., columns), columns a multiple of `block`."""
        return math.prod(shape) // self.block * self.block_bytes


# From gguf's public description; what the installed llama.cpp says is compared in the tests.
_ALL = (
    GgmlType("F32", 0, 1, 4),
    GgmlType("F16", 1, 1, 2),
    GgmlType("Q4_0", 2, 32, 18),
    GgmlType("Q4_1", 3, 32, 20),
    GgmlType("Q5_0", 6, 32, 22),
    GgmlType("Q5_1", 7, 32, 24),
    GgmlType("Q8_0", 8, 32, 34),
    GgmlType("Q8_1", 9, 32, 36),
    GgmlType("Q2_K", 10, 256, 84),
    GgmlType("Q3_K", 11, 256, 110),
    GgmlType("Q4_K", 12, 256, 144),
    GgmlType("Q5_K", 13, 256, 176),
    GgmlType("Q6_K", 14, 256, 210),
    GgmlType("Q8_K", 15, 256, 292),
    GgmlType("IQ2_XXS", 16, 256, 66),
    GgmlType("IQ2_XS", 17, 256, 74),
    GgmlType("IQ3_XXS", 18, 256, 98),
    GgmlType("IQ1_S", 19, 256, 50),
    GgmlType("IQ4_NL", 20, 32, 18),
    GgmlType("IQ3_S", 21, 256, 110),
    GgmlType("IQ2_S", 22, 256, 82),
    GgmlType("IQ4_XS", 23, 256, 136),
    GgmlType("I8", 24, 1, 1),
    GgmlType("I16", 25, 1, 2),
    GgmlType("I32", 26, 1, 4),
    GgmlType("I64", 27, 1, 8),
    GgmlType("F64", 28, 1, 8),
    GgmlType("IQ1_M", 29, 256, 56),
    GgmlType("BF16", 30, 1, 2),
    GgmlType("TQ1_0", 34, 256, 54),
    GgmlType("TQ2_0", 35, 256, 66),
    GgmlType("MXFP4", 39, 32, 17),
    GgmlType("NVFP4", 40, 64, 36),
    GgmlType("Q1_0", 41, 128, 18),
    GgmlType("Q2_0", 42, 64, 18),
)
TYPES = {ggml_type.name: ggml_type for ggml_type in _ALL}
BY_ID = {ggml_type.id: ggml_type for ggml_type in _ALL}
FLOATS = ("F32", "F16", "BF16")
# The ids that ggml_quantize_chunk writes; any other would end the process.
WRITABLE = frozenset((0, 1, 2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 30, 34, 35, 39, 40, 41, 42))

# llama.h, enum llama_ftype: the values of `general.file_type`.
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19,
    "IQ2_XS": 20, "Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27,
    "IQ2_S": 28, "IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38,
    "Q1_0": 40, "Q2_0": 41,
}  # fmt: skip


def find(name: str) -> GgmlType:
    """The type of that name, in any case, that tensors can be written in. Raises InvalidOption with those there are."""
    found = TYPES.get(name.upper())
    if found is None or found.id not in WRITABLE:
        known = ", ".join(ggml_type.name for ggml_type in _ALL if ggml_type.id in WRITABLE)
        raise InvalidOption(f"there is no type {name!r} of tensors that can be written; there are {known}")
    return found
