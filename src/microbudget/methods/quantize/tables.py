"""Tables of embeddings in integers: a row and its scales for each token, dequantized where it is read.

    8 bits:  Gather(T, ids)  ->  Cast(Gather(q, ids)) * Gather(S, ids),   T ~ q * S,  q: int8,  S: (rows, 1)
    4 bits:  the same with q from -8 to 7 and a scale in float16 for each 32 numbers, two of them in a byte: the first
             half of a row in the low bits, the second half in the high ones

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
ROWS_OF_4 = 2048  # of a table in 4 bits at least: smaller ones, of positions, are a small part of the bytes
GROUP = 32  # numbers with one scale in 4 bits
LOWEST_OF_4 = -8
FACTORS = (
    0.75,
    0.8,
    0.85,
    0.9,
    0.95,
    1.0,
    1.05,
    8 / 7,
)  # on the scale that just reaches the largest number; 8/7: -7 to 7


def rounded_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers (rows, width) in [-127, 127] and scales (rows, 1), to nearest; a row of zeros has the scale 1."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    S = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    return np.clip(np.rint(table / S), -LARGEST, LARGEST).astype(np.int8), S


def grouped_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """In 4 bits: bytes (rows, width / 2) and scales (rows, width / 32).

    The scale of a group is, of some near the one that reaches its largest number, the one with the smallest squared
    error; its sign lets that number be -8 of them, as in llama.cpp's Q4_0.
    """
    groups = table.reshape(len(table), -1, GROUP).astype(np.float32)
    places = np.abs(groups).argmax(axis=2, keepdims=True)
    largest = np.take_along_axis(groups, places, axis=2) / LOWEST_OF_4
    best_q = np.zeros(groups.shape, np.int8)
    best_S = np.ones(largest.shape, np.float16)
    best_error = np.full(largest.shape, np.inf, np.float32)
    for factor in FACTORS:
        S = (largest * factor).astype(np.float16)
        real = S.astype(np.float32)
        real[real == 0] = 1.0
        q = np.clip(np.rint(groups / real), LOWEST_OF_4, -LOWEST_OF_4 - 1)
        error = np.square(q * real - groups).sum(axis=2, keepdims=True)
        better = error < best_error
        best_q, best_S = np.where(better, q.astype(np.int8), best_q), np.where(better, real.astype(np.float16), best_S)
        best_error = np.where(better, error, best_error)
    nibbles = (best_q.reshape(table.shape) - LOWEST_OF_4).astype(np.uint8)
    half = table.shape[1] // 2
    packed = np.asarray(nibbles[:, :half] | (nibbles[:, half:] << 4), np.uint8)
    return packed, best_S[:, :, 0]


def tables(graph: OnnxGraph) -> dict[str, Any]:
    """The large float tensors (rows, width) that only Gathers of rows read, by name."""
    return {name: tensor for name, tensor in graph.initializers.items() if _is_table(graph, name, tensor)}


def about_tables(graph: OnnxGraph, bits: int = 8) -> list[str]:
    """What becomes of the tables in words, where there are any."""
    found = tables(graph).values()
    small = sum(bits == 4 and _fits_4(tensor) for tensor in found)
    whole = len(found) - small
    return [
        *([f"{small} tables of embeddings in 4 bits, with a scale for each {GROUP} numbers"] if small else []),
        *([f"{whole} tables of embeddings in 8 bits, with a scale for each row"] if whole else []),
    ]


def round_tables(proto: Any, bits: int = 8) -> int:
    """Store every large float table that only Gathers read in integers, in place. How many there were.

    bits: 8, or 4 for the tables with many rows.
    """
    graph = OnnxGraph(proto.graph)
    found = tables(graph)
    if not found:
        return 0
    small = {name for name, tensor in found.items() if bits == 4 and _fits_4(tensor)}
    nodes = []
    for node in graph.nodes:
        if node.op_type == "Gather" and node.input[0] in found:
            nodes += _dequantized_4(node) if node.input[0] in small else _dequantized(node)
        else:
            nodes.append(node)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in found]
    made = [part for name, tensor in found.items() for part in (_stored_4 if name in small else _stored)(name, tensor)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, *made])
    replace_nodes(proto.graph, nodes)
    return len(found)


def _fits_4(tensor: Any) -> bool:
    """Whether a table has many rows, whole groups, and scales that float16 holds."""
    rows, width = tensor.dims
    if rows < ROWS_OF_4 or width % (2 * GROUP):
        return False
    largest = np.abs(numpy_helper.to_array(tensor)).reshape(-1, GROUP).max(axis=1) / -LOWEST_OF_4
    limits = np.finfo(np.float16)
    smallest = min(largest[largest > 0], default=1.0)
    return bool(largest.max() * max(FACTORS) < limits.max and smallest * min(FACTORS) > limits.smallest_normal)


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


def _stored_4(name: str, tensor: Any) -> list[Any]:
    packed, S = grouped_rows(numpy_helper.to_array(tensor))
    constants = {
        f"{name}.q": packed,
        f"{name}.S": S,
        f"{name}.group": np.repeat(np.arange(S.shape[1], dtype=np.int64), GROUP),
        f"{name}.16": np.array(16, np.float32),
        f"{name}.8": np.array(-LOWEST_OF_4, np.float32),
    }
    return [numpy_helper.from_array(array, key) for key, array in constants.items()]


def _dequantized_4(node: Any) -> list[Any]:
    """The halves of a byte are taken apart in float, which is exact: OpenVINO rounds a BitShift of bytes."""
    table, ids, out = node.input[0], node.input[1], node.output[0]

    def made(op: str, inputs: list[str], part: str, **attributes: Any) -> Any:
        output = f"{out}.{part}" if part else out
        return helper.make_node(op, inputs, [output], f"{node.name}.{part or op}", **attributes)

    return [
        made("Gather", [f"{table}.q", ids], "bytes", axis=0),
        made("Cast", [f"{out}.bytes"], "packed", to=TensorProto.FLOAT),
        made("Div", [f"{out}.packed", f"{table}.16"], "parts"),
        made("Floor", [f"{out}.parts"], "high"),
        made("Mul", [f"{out}.high", f"{table}.16"], "rest"),
        made("Sub", [f"{out}.packed", f"{out}.rest"], "low"),
        made("Concat", [f"{out}.low", f"{out}.high"], "shifted", axis=-1),
        made("Sub", [f"{out}.shifted", f"{table}.8"], "real"),
        made("Gather", [f"{table}.S", ids], "half", axis=0),
        made("Cast", [f"{out}.half"], "S", to=TensorProto.FLOAT),
        made("Gather", [f"{out}.S", f"{table}.group"], "scale", axis=-1),
        made("Mul", [f"{out}.real", f"{out}.scale"], ""),
    ]
