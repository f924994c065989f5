"""Dynamic int8 for linear layers: each batch is rounded by its own range, the weights are stored as integers.

ONNX Runtime fuses the five nodes into one kernel. It needs no calibration, and suits transformers, whose activations
have outliers that a fixed range would cut.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .draft import Draft
from .graph import Layer


def write_dynamic(draft: Draft, layer: Layer) -> None:
    """Replace a Gemm or MatMul by DynamicQuantizeLinear, MatMulInteger and the scales; layers share a rounded input."""
    node, S_w, builder = draft.graph.node(layer.name), draft.plan.weights[layer.name].S, draft.builder
    x = draft.tensors.read(layer.input, node)
    q, S_x, Z_x = (f"{x}.dynamic.{part}" for part in ("q", "S", "Z"))
    if not builder.has(q):
        builder.add_many("DynamicQuantizeLinear", [x], [q, S_x, Z_x])
    name, short = node.output[0], draft.weights.short(layer)
    W = draft.weights.integers(layer, transposed=layer.outputs_axis == 0)
    zero = builder.constant("Z0.int8", np.int8(0))
    sums = builder.add("MatMulInteger", [q, W, Z_x, zero], f"{name}.sums")
    wide = builder.add("Cast", [sums], f"{name}.wide", to=TensorProto.FLOAT)
    scale = builder.add("Mul", [S_x, builder.constant(f"{short}.S", S_w)], f"{name}.scale")
    b = draft.plan.biases.get(layer.name)
    if layer.op == "Gemm" and b is not None:
        product = builder.add("Mul", [wide, scale], f"{name}.product")
        builder.add("Add", [product, builder.constant(f"{layer.name}.bias", b)], name)
    else:
        builder.add("Mul", [wide, scale], name)
