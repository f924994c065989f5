"""Tables of embeddings in 8 bits: a row of integers and one scale for each token, dequantized where it is read.

    Gather(T, ids)  ->  Cast(Gather(q, ids)) * Gather(S, ids),    T ~ q * S,  q: (rows, width) int8,  S: (rows, 1)

Only the rows that are read are dequantized, so it costs no time. The rows of a vocabulary are of very different
lengths, so that one scale for all of them would cost the short ones most of their bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...runtimes.onnx.graph import OnnxGraph, attribute, is_standard, replace_nodes

SMALLEST = 16_384  # numbers: below it the two further nodes are not worth the bytes
LARGEST = 127


def rounded_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers (rows, width) in [-127, 127] and scales (rows, 1), to nearest; a row of zeros has the scale 1."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    S = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    return np.clip(np.rint(table / S), -LARGEST, LARGEST).astype(np.int8), S


def tables(graph: OnnxGraph) -> dict[str, Any]:
    """The large float tensors (rows, width) that only Gathers of rows read, by name."""
    return {name: tensor for name, tensor in graph.initializers.items() if _is_table(graph, name, tensor)}


def about_tables(graph: OnnxGraph) -> list[str]:
    """What becomes of the tables in words, where there are any."""
    count = len(tables(graph))
    return [f"{count} tables of embeddings in 8 bits, with a scale for each row"] if count else []


def round_tables(proto: Any) -> int:
    """Store every large float table that only Gathers read in 8 bits, in place. How many there were."""
    graph = OnnxGraph(proto.graph)
    found = tables(graph)
    if not found:
        return 0
    nodes = []
    for node in graph.nodes:
        if node.op_type == "Gather" and node.input[0] in found:
            nodes += _dequantized(node)
        else:
            nodes.append(node)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in found]
    made = [part for name, tensor in found.items() for part in _stored(name, tensor)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, *made])
    replace_nodes(proto.graph, nodes)
    return len(found)


def _is_table(graph: OnnxGraph, name: str, tensor: Any) -> bool:
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or np.prod(tensor.dims) < SMALLEST:
        return False
    readers = graph.consumers.get(name, [])
    return (
        bool(readers)
        and name not in graph.outputs
        and all(
            node.op_type == "Gather"
            and is_standard(node)
            and node.input[0] == name
            and node.input[1] != name
            and attribute(node, "axis", 0) == 0
            for node in readers
        )
    )


def _stored(name: str, tensor: Any) -> tuple[Any, Any]:
    q, S = rounded_rows(numpy_helper.to_array(tensor))
    return numpy_helper.from_array(q, f"{name}.q"), numpy_helper.from_array(S, f"{name}.S")


def _dequantized(node: Any) -> list[Any]:
    table, ids, out = node.input[0], node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}.q", ids], [f"{out}.q"], f"{node.name}.q", axis=0),
        helper.make_node("Gather", [f"{table}.S", ids], [f"{out}.S"], f"{node.name}.S", axis=0),
        helper.make_node("Cast", [f"{out}.q"], [f"{out}.real"], f"{node.name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}.real", f"{out}.S"], [out], f"{node.name}.scaled"),
    ]
