"""The footprint of an `.onnx` file in ONNX Runtime: its weights by what reads them, and its activations.

While it opens, the runtime holds the file's tensors, its own copies of them and the layouts that its kernels want.
Freed copies of a few MB are kept by the allocator, and used again by what follows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from ...errors import UnsupportedModel
from ...model import Model
from ...runtimes.hf.checkpoint import Checkpoint
from ...runtimes.onnx.graph import OnnxGraph, attribute, load_structure
from ...runtimes.onnx.interface import read_signature
from ...runtimes.onnx.types import BITS
from ...task import Inputs
from ..ledger import ledger
from ..work import CONVOLUTIONS, PRODUCTS, peak_activations
from . import TEXT_BYTES, tokenizer_bytes

MB = 1_000_000
LIBRARY = 16 * MB  # pages of the library's code that are read now, threads, and an empty session
KEPT = 14 * MB  # of convolutions: up to here all copies stay in the process
FEW_TIMES, MANY_TIMES = 3.4, 1.8  # bytes of a convolution's weights up to KEPT, and of what comes on top
PRODUCT_TIMES, GEMM_TIMES = 1.6, 1.25  # of a matrix; of one that a Gemm reads transposed
TABLE_TIMES, INTEGER_TABLE_TIMES = 2.0, 1.5
INTEGER_TIMES = 2.0
NODE_BYTES, GRAM_BYTES = 5_000, 200  # of a node; of an n-gram that TfIdfVectorizer counts
ACTIVATION_TIMES = 2  # the layout of one operator and that of the next
UNPACKED_BYTES = 24  # of a weight that is unpacked when the file is opened: integers and floats at each step of it
PACKED_BITS = 8  # below it weights are stored packed
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Weights:
    """Bytes of a graph's weights as they lie in the file, by what reads them."""

    convolutions: int = 0  # floats, as all but the last three
    products: int = 0  # left as they are
    gemms: int = 0
    tables: int = 0  # of which single rows are read; and what is small
    integers: int = 0
    integer_tables: int = 0
    unpacked: int = 0  # the number of weights that are stored in less than a byte, and unpacked to floats

    def rounded(self, bits: int) -> Weights:
        """What `quantize` makes of float weights."""
        matrices, tables = (self.convolutions + self.products + self.gemms) // FLOAT_BYTES, self.tables // FLOAT_BYTES
        if bits < PACKED_BITS:
            return Weights(integer_tables=tables, unpacked=matrices)
        return Weights(integers=matrices, integer_tables=tables)

    @property
    def memory_bytes(self) -> int:
        """In an open session, without activations."""
        few = min(self.convolutions, KEPT)
        return round(
            LIBRARY
            + FEW_TIMES * few
            + MANY_TIMES * (self.convolutions - few)
            + PRODUCT_TIMES * self.products
            + GEMM_TIMES * self.gemms
            + TABLE_TIMES * self.tables
            + INTEGER_TIMES * self.integers
            + INTEGER_TABLE_TIMES * self.integer_tables
            + UNPACKED_BYTES * self.unpacked
        )

    @property
    def freed_bytes(self) -> int:
        """Of that, what only opening the file takes, and activations use again."""
        return self.convolutions + self.products + self.gemms + FLOAT_BYTES * self.unpacked


def read(model: Model, inputs: Inputs) -> int:
    """Bytes that the file will take with these inputs, or inputs of such shapes."""
    weights, structure = weights_of(model), load_structure(model.weights)
    nodes, grams = len(structure.graph.node), 0
    for node in structure.graph.node:
        if node.op_type == "TfIdfVectorizer":
            grams += len(attribute(node, "ngram_indexes", ()))
    activations = max(0, ACTIVATION_TIMES * _activations(model, inputs) - weights.freed_bytes)
    text = tokenizer_bytes(model.folder) or (TEXT_BYTES if grams else 0)
    return weights.memory_bytes + activations + NODE_BYTES * nodes + GRAM_BYTES * grams + text


def _activations(model: Model, inputs: Inputs) -> int:
    """At their peak; 0 where the inputs are none of the graph's, such as texts."""
    try:
        given = read_signature(model.weights).feed(inputs)
    except UnsupportedModel:
        return 0
    return peak_activations(model.weights, {name: value.shape for name, value in given.items()})


def weights_of(model: Model) -> Weights:
    """The weights of an `onnx` Model."""
    graph = OnnxGraph(load_structure(model.weights).graph, nested=True)
    found = Counter[str]()
    for row in ledger(model).rows:
        if row.bits < PACKED_BITS and "packed" in row.type:
            found["unpacked"] += row.numbers
        elif row.bits <= PACKED_BITS:
            found["integers"] += row.bytes
        else:
            found[_reader(graph.consumers.get(row.name, ()))] += FLOAT_BYTES * row.numbers
    for name, tensor in graph.initializers.items():
        bits = BITS.get(TensorProto.DataType.Name(tensor.data_type), 32)
        if bits <= PACKED_BITS and any(node.op_type == "Gather" for node in graph.consumers.get(name, ())):
            found["integer_tables"] += math.prod(tensor.dims) * bits // 8
    found["integers"] = max(0, found["integers"] - found["integer_tables"])
    return Weights(**found)


def weights_of_checkpoint(checkpoint: Checkpoint) -> Weights:
    """The weights that the export of a Hugging Face folder will have, by the shapes of its tensors."""
    found = Counter[str]()
    for name, stored in checkpoint.tensors.items():
        sides = len(stored.shape)
        kind = "convolutions" if sides > 2 else "tables" if sides < 2 or "embed" in name else "products"
        found[kind] += FLOAT_BYTES * math.prod(stored.shape)
    return Weights(**found)


def _reader(nodes: Iterable[Any]) -> str:
    """Which of the floats of Weights a tensor is that these nodes read."""
    for node in nodes:
        if node.op_type in CONVOLUTIONS or node.op_type == "ConvTranspose":
            return "convolutions"
        if node.op_type in PRODUCTS:
            return "gemms" if attribute(node, "transB", 0) else "products"
    return "tables"
