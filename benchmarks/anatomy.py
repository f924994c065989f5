"""The two errors of a quantized ONNX file: with its weights rounded and its activations not, and the other way round.

Works on any quantizer's Q/DQ file, so that ours and the peers' are treated alike. Layers of two files are matched
by their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

LAYERS = ("Conv", "Gemm", "MatMul")
LEVELS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


@dataclass(frozen=True)
class Layer:
    """A node with constant weights, and what they are once everything constant is computed."""

    node: Any
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None

    @property
    def outputs_axis(self) -> int:
        """The axis of the weights that counts the outputs."""
        transposed = any(attribute.name == "transB" and attribute.i for attribute in self.node.attribute)
        return 0 if self.node.op_type == "Conv" or transposed else self.weight.ndim - 1


def constants(model: Any) -> set[str]:
    """The names of all tensors that depend on no input."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if all(name in known for name in node.input) and not any(a.HasField("g") for a in node.attribute):
            known |= set(node.output)
    return known - {""}


def computed(model: Any, names: list[str]) -> dict[str, NDArray[Any]]:
    """The values of constant tensors."""
    known, given = constants(model), {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    wanted = [name for name in dict.fromkeys(names) if name not in given]
    if not wanted:
        return given
    nodes = [node for node in model.graph.node if set(node.output) <= known]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph(nodes, "constants", [], outputs, model.graph.initializer)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return given | dict(zip(wanted, open_session(part).run(wanted, {}), strict=True))


def layers(model: Any) -> list[Layer]:
    """The layers with constant weights in the graph's order."""
    known = constants(model)
    found = [node for node in model.graph.node if node.op_type in LAYERS and node.input[1] in known]
    values = computed(model, [name for node in found for name in node.input[1:] if name in known and name])
    return [
        Layer(node, values[node.input[1]], values.get(node.input[2]) if len(node.input) > 2 else None) for node in found
    ]


def passes(layer: Layer) -> bool:
    """Whether a layer gives out what it gets: a depthwise convolution of ones, there for the sake of the layout."""
    W = layer.weight
    return layer.node.op_type == "Conv" and W.shape[1:] == (1, 1, 1) and layer.bias is None and bool((W == 1).all())


def replace_weight(model: Any, layer: Layer, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> None:
    """Give a layer other weights, and another bias where one is given."""
    for place, value in ((1, weight), (2, bias)):
        if value is None:
            continue
        name = _constant(model, f"{layer.node.output[0]}.given.{place}", value)
        del layer.node.input[place : place + 1]
        layer.node.input.insert(place, name)


def activations_alone(quantized: Any, original: Any) -> Any | None:
    """The quantized file with the float model's weights and biases; None where the layers do not correspond."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    here, there = [layer for layer in layers(model) if not passes(layer)], layers(original)
    if len(here) != len(there) or not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return None
    for mine, other in zip(here, there, strict=True):
        W = other.weight if mine.outputs_axis == other.outputs_axis else other.weight.T
        if mine.weight.shape != W.shape:
            return None
        bias = other.bias
        if mine.bias is not None and bias is None:
            bias = np.zeros_like(mine.bias)
        replace_weight(model, mine, W, bias if mine.node.op_type != "MatMul" else None)
    return model


def weights_alone(quantized: Any) -> Any | None:
    """The quantized file with activations that are cut at the ends of their range (that may be a Relu) but not rounded.

    None for a file without Q/DQ activations.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    known = constants(model)
    values = computed(model, [name for node in model.graph.node for name in node.input if name in known])
    del model.graph.value_info[:]  # it says that rounded tensors are integers
    rounding = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    rounding = [node for node in rounding if node.input[0] not in known]
    if not rounding:
        return None
    for node in rounding:
        if node.op_type == "QuantizeLinear":
            _cut(model, node, values)
        else:
            _become(node, "Identity", [node.input[0]])
    for node in model.graph.node:
        padding = values.get(node.input[2]) if node.op_type == "Pad" and len(node.input) > 2 else None
        if padding is not None and padding.dtype in LEVELS:
            node.input[2] = _constant(model, f"{node.output[0]}.zero", np.float32(0))
    return model


def _cut(model: Any, node: Any, values: dict[str, NDArray[Any]]) -> None:
    """Make a Clip of a QuantizeLinear; where it has a scale per channel, the ends are of the channel."""
    Z = values[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
    S, (low, high) = values[node.input[1]].astype(np.float64), LEVELS[Z.dtype]
    shape = () if S.size == 1 else (S.size, 1, 1)  # NNCF: the channels of a depthwise convolution's input
    ends = [
        _constant(model, f"{node.output[0]}.{name}", (S * (level - Z.astype(np.float64))).astype("f4").reshape(shape))
        for name, level in (("low", low), ("high", high))
    ]
    if shape == ():
        _become(node, "Clip", [node.input[0], *ends])
        return
    above = helper.make_node("Max", [node.input[0], ends[0]], [f"{node.output[0]}.above"])
    model.graph.node.insert(list(model.graph.node).index(node), above)
    _become(node, "Min", [above.output[0], ends[1]])


def _become(node: Any, op: str, inputs: list[str]) -> None:
    node.op_type = op
    del node.attribute[:]
    node.input[:] = inputs


def _constant(model: Any, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return name


def drop_unused(model: Any) -> None:
    """Leave out constants that no node reads any more."""
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def open_session(model: Any) -> onnxruntime.InferenceSession:
    """A session that computes Q/DQ as written: onnxruntime would round float weights after rounded inputs itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
