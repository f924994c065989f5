"""Dynamic int8 for linear layers: the input is rounded anew for every batch, the weights are integers in the file.

ONNX Runtime fuses the five nodes into one kernel. It needs no calibration, and suits transformers, whose activations
have outliers that a fixed range would cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from .storage import integers

if TYPE_CHECKING:
    from .graph import Layer
    from .write import Writer


def write_dynamic(writer: Writer, layer: Layer) -> None:
    """Replace a Gemm or MatMul by DynamicQuantizeLinear, MatMulInteger and the scales; layers share a rounded input."""
    node, S_w = writer.graph.node(layer.name), writer.plan.weights[layer.name].S
    x = writer.read(layer.input, node)
    q, S_x, Z_x = (f"{x}.dynamic.{part}" for part in ("q", "S", "Z"))
    if not writer.has(q):
        writer.add_many("DynamicQuantizeLinear", [x], [q, S_x, Z_x])
    name, short = node.output[0], writer.short(layer)
    W = integers(writer, layer, transposed=layer.outputs_axis == 0)
    zero = writer.constant("Z0.int8", np.int8(0))
    sums = writer.add("MatMulInteger", [q, W, Z_x, zero], f"{name}.sums")
    wide = writer.add("Cast", [sums], f"{name}.wide", to=TensorProto.FLOAT)
    scale = writer.add("Mul", [S_x, writer.constant(f"{short}.S", S_w)], f"{name}.scale")
    b = writer.plan.biases.get(layer.name)
    if layer.op == "Gemm" and b is not None:
        product = writer.add("Mul", [wide, scale], f"{name}.product")
        writer.add("Add", [product, writer.constant(f"{layer.name}.bias", b)], name)
    else:
        writer.add("Mul", [wide, scale], name)
