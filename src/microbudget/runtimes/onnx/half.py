"""Half floats (float16, bfloat16) of an ONNX model widened to float32, which every other step computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .graph import OnnxGraph, attribute, captured, replace_nodes, with_subgraphs

HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_TYPE_ATTRIBUTES = {"to", "dtype"}  # of Cast, RandomNormal, EyeLike, ...


def widen(model: Any) -> bool:
    """Make every half float of an `onnx.ModelProto` a float32, its inputs and outputs too. Whether there were any."""
    found = False
    for graph in with_subgraphs(model.graph):
        for tensor in graph.initializer:
            found |= _widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in HALF:
                value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
        for node in graph.node:
            found |= _widen_attributes(node)
    if found:
        _drop_casts(model)
    return found


def _widen_tensor(tensor: Any) -> bool:
    if tensor.data_type not in HALF:
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return True


def _widen_attributes(node: Any) -> bool:
    found = False
    for item in node.attribute:
        if item.name in _TYPE_ATTRIBUTES and item.type == item.INT and item.i in HALF:
            item.i, found = TensorProto.FLOAT, True
        elif item.type == item.TENSOR:
            found |= _widen_tensor(item.t)
    return found


def _drop_casts(model: Any) -> None:
    """Casts that were between the two types do nothing now, and would separate a layer from its weights.

    Those that make an output of the model stay, as the names of outputs do.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of several kinds; an operator that it does not know is no error
        inferred = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    graph = OnnxGraph(model.graph)
    inner = {name for node in graph.nodes for name in captured(node)}
    same: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        idle = node.op_type == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT
        if idle and types.get(node.input[0]) == TensorProto.FLOAT and node.output[0] not in {*graph.outputs, *inner}:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    replace_nodes(model.graph, kept)
