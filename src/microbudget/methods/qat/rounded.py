"""What quantize has written: the weights and biases that lie in a file as integers, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from ...errors import Failed, UnsupportedModel
from ...runtimes.onnx.graph import OnnxGraph, attribute, opset
from ...runtimes.onnx.module.preparing import constants_of
from ...runtimes.onnx.module.step import StaticNode

# By the widths of the planes in which integers of so few bits are packed, see `methods/quantize/packing.py`.
PACKED = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2)}
OTHER_INTEGERS = (
    "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul", "QGemm",
    "GatherBlockQuantized",
)  # fmt: skip
MOVING = frozenset({
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "MaxPool", "Identity",
})  # fmt: skip


@dataclass(frozen=True)
class RoundedWeight:
    """A layer's weights: real = scale * q."""

    real: str  # name of the tensor of floats that the layer reads
    q: NDArray[np.int8]
    scale: str  # the constant with one scale for each output
    axis: int  # of the outputs
    bits: int
    stored: tuple[str, ...]  # the initializers with the integers: one, or the planes of packed ones

    @property
    def packed(self) -> bool:
        """Whether several integers share a byte."""
        return self.bits in PACKED


@dataclass(frozen=True)
class RoundedBias:
    """A layer's bias: real = scale * q with the scale of its weights times that of its input."""

    real: str
    q: str
    scale: str


@dataclass
class Rounded:
    """All of a file's."""

    weights: dict[str, RoundedWeight] = field(default_factory=dict)  # by `real`
    biases: dict[str, RoundedBias] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # constants, computed ones too
    fixed: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # dequantized, and not trained


def find_rounded(model: Any) -> Rounded:
    """The rounded weights and biases of an `onnx.ModelProto` that quantize wrote.

    Raises UnsupportedModel for integers that are not static: they are not simulated here.
    """
    graph = OnnxGraph(model.graph)
    for node in graph.nodes:
        if node.op_type in OTHER_INTEGERS:
            raise UnsupportedModel(
                f"qat simulates the static integers of convolutions and linear layers, and the file computes with"
                f" {node.op_type}: its layers cannot be trained so"
            )
    found = Rounded(values=constants_of(model))
    casts: dict[str, str] = {}  # a constant of integers as floats -> that constant
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in found.values:
            _dequantized(found, graph, node)
        elif node.op_type == "Mul" and (integers := next((name for name in node.input if name in casts), "")):
            scale = next(name for name in node.input if name not in casts)
            axis = int(np.argmax(found.values[scale].shape))
            _weight(found, graph, (casts[integers], scale, node.output[0]), axis)
        elif node.input and all(name in found.values for name in node.input if name) and node.op_type != "Constant":
            values = StaticNode(node, opset(model))([found.values[name] if name else None for name in node.input])
            found.values |= dict(zip(node.output, values, strict=True))
            if node.op_type == "Cast" and found.values[node.input[0]].dtype == np.int8:
                casts[node.output[0]] = node.input[0]
    return found


def _dequantized(found: Rounded, graph: OnnxGraph, node: Any) -> None:
    """A DequantizeLinear of a constant."""
    q, scale = found.values[node.input[0]], found.values[node.input[1]]
    real = node.output[0]
    if q.dtype == np.int32:
        found.biases[real] = RoundedBias(real, node.input[0], node.input[1])
        found.fixed[real] = (q.astype(np.float64) * scale).astype(np.float32)
    elif scale.ndim == 1:
        _weight(found, graph, (node.input[0], node.input[1], real), attribute(node, "axis", 1))
    else:  # such as the ones of an identity convolution
        found.fixed[real] = q.astype(np.float32) * scale


def _weight(found: Rounded, graph: OnnxGraph, names: tuple[str, str, str], axis: int) -> None:
    integers, scale, real = names
    q = np.asarray(found.values[integers], np.int8)
    if integers in graph.initializers:
        bits = 7 if q.min() >= -64 and q.max() < 64 else 8  # where sums of 8 bits would saturate they have 7
        found.weights[real] = RoundedWeight(real, q, scale, axis, bits, (integers,))
        return
    planes = _planes(graph, integers)
    sizes = [int(found.values[name].size) for name in planes]
    for bits, widths in PACKED.items():
        if sizes == [-(-q.size * width // 8) for width in widths]:
            found.weights[real] = RoundedWeight(real, q, scale, axis, bits, planes)
            return
    raise Failed(f"qat cannot read the packed weights {integers!r}: quantize the float model again")


def _planes(graph: OnnxGraph, integers: str) -> tuple[str, ...]:
    """The initializers of bytes from which integers are unpacked, the lowest bits first, as they were written."""
    above = graph.origins(integers, lambda _: True)
    bytes_of = {name for name in above if name in graph.initializers and _is_bytes(graph.initializers[name])}
    order = [name for node in graph.nodes for name in node.input if name in bytes_of]
    return tuple(dict.fromkeys(order))


def _is_bytes(tensor: Any) -> bool:
    return bool(numpy_helper.to_array(tensor).dtype == np.uint8)


def in_integers(graph: OnnxGraph) -> dict[str, Any]:
    """The tensors of integers between a QuantizeLinear and a DequantizeLinear -> the QuantizeLinear."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            found[node.output[0]] = node
        elif node.op_type in MOVING and node.input and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
