"""Surgery on ONNX classifiers: find the last linear layer, cut before it, put another head on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import UnsupportedModel
from .graph import OnnxGraph, attribute, copied, needed_for, replace_nodes

Linear = tuple[NDArray[np.float32], NDArray[np.float32]]  # weight (outputs, inputs), bias (outputs,)
LOGITS = "logits"  # the output of a classifier that we write
_TRANSPARENT = ("Identity", "Cast", "Softmax", "LogSoftmax", "Sigmoid", "Dropout")  # may follow the last linear layer


@dataclass(frozen=True)
class Classifier:
    """The last linear layer of a classifier: logits = features @ weight.T + bias."""

    features: str  # name of the tensor that goes in, (batch, inputs)
    weight: NDArray[np.float32]  # (outputs, inputs)
    bias: NDArray[np.float32]  # (outputs,)


def find_classifier(proto: Any, output: str | None = None) -> Classifier:
    """The last linear layer of an `onnx.ModelProto` before an output, by default the first.

    Raises UnsupportedModel naming what is there instead.
    """
    graph = OnnxGraph(proto.graph)
    constants = graph.initializers | {
        node.output[0]: node.attribute[0].t
        for node in graph.nodes
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    node = graph.producer(output or graph.outputs[0], skipping=_TRANSPARENT)
    bias = None
    if node is not None and node.op_type == "Add":
        bias_name = next((name for name in node.input if name in constants), None)
        product = next((graph.producer(name) for name in node.input if name not in constants), None)
        if bias_name and product is not None and product.op_type == "MatMul":
            bias, node = _array(constants[bias_name]).reshape(-1), product
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        raise UnsupportedModel(
            f"the model ends in {node.op_type if node else 'no operation'}, not in a linear layer of constant weights:"
            " its head cannot be replaced"
        )
    weight = _array(constants[node.input[1]]) * float(attribute(node, "alpha", 1.0))
    weight = weight if attribute(node, "transB", 0) else weight.T
    if node.op_type == "Gemm" and len(node.input) > 2:
        bias = _array(constants[node.input[2]]).reshape(-1) * float(attribute(node, "beta", 1.0))
    if bias is None:
        bias = np.zeros(1, np.float32)
    return Classifier(node.input[0], weight, np.broadcast_to(bias, (weight.shape[0],)).astype(np.float32))


def _array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
    return array


def backbone(proto: Any, features: str) -> Any:
    """A copy of the model that ends in the tensor `features`; what only the old head used is gone."""
    result = copied(proto)
    nodes, needed = needed_for([features], proto.graph.node)
    replace_nodes(result.graph, nodes)
    del result.graph.output[:], result.graph.value_info[:]
    constants = [tensor for tensor in proto.graph.initializer if tensor.name in needed]
    del result.graph.initializer[:]
    result.graph.initializer.extend(constants)
    result.graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, ["batch", None]))
    return result


def with_head(proto: Any, features: str, layers: list[Linear]) -> Any:
    """The backbone with linear layers on it, ReLU between them; the output is `logits` (batch, classes)."""
    result = backbone(proto, features)
    tensor = _renamed(result.graph, features) if features == LOGITS else features
    for index, (weight, bias) in enumerate(layers):
        last = index == len(layers) - 1
        names = f"head.{index}.weight", f"head.{index}.bias"
        output = LOGITS if last else f"head.{index}.out"
        result.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
            for array, name in zip((weight, bias), names, strict=True)
        )
        result.graph.node.append(helper.make_node("Gemm", [tensor, *names], [output], f"head.{index}", transB=1))
        tensor = output
        if not last:
            tensor = f"head.{index}.relu"
            result.graph.node.append(helper.make_node("Relu", [output], [tensor], tensor))
    del result.graph.output[:]
    classes = layers[-1][0].shape[0]
    result.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", classes]))
    onnx.checker.check_model(result)
    return result


def _renamed(graph: Any, tensor: str) -> str:
    """Another name for a tensor, everywhere: an encoder without a head calls its features `logits` too."""
    name = f"{tensor}.features"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, each in enumerate(names):
                if each == tensor:
                    names[place] = name
    return name
