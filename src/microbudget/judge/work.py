"""Work: the multiply-adds and bytes of one inference of an `.onnx` model, and what was not counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, shape_inference

from ..runtimes.onnx.graph import OnnxGraph, attribute, copied, load_structure, replace_nodes
from ..runtimes.onnx.shapes import shapes_of_run
from ..runtimes.onnx.types import BITS

Shape = tuple[int, ...]

INTEGER = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"}
INTEGER |= {"DynamicQuantizeMatMul"}
# Position of the weights among the inputs of a convolution, of the left factor among those of a product (always 0).
CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "QLinearConv": 3, "ConvInteger": 1}
PRODUCTS = {"Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger"}
PRODUCTS |= {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
# These move or name numbers and compute nothing.
FREE = {"Constant", "ConstantOfShape", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Shape"}
FREE |= {"Concat", "Slice", "Gather", "Cast", "Split", "Expand", "Pad", "Dropout", "QuantizeLinear", "DequantizeLinear"}
LONGEST_SHAPE = 1024  # integers: what is longer is no shape
SAME_SHAPE = {"QLinearAdd", "QLinearMul", "QLinearLeakyRelu", "QLinearSigmoid", "Gelu", "FastGelu", "QuickGelu"}


@dataclass(frozen=True)
class Work:
    """What one inference takes: multiply-adds by the type they run in, and bytes."""

    multiply_adds: dict[str, int]  # "float32", "int8"
    weight_bytes: int  # constants, as they are after opening, read once
    activation_bytes: int  # written once and read once, if nothing is fused
    in_out_bytes: int  # the model's inputs and outputs
    not_counted: dict[str, int] = field(default_factory=dict)  # operators without a rule or a known shape: how many

    @property
    def total_multiply_adds(self) -> int:
        """Multiply-adds of all types."""
        return sum(self.multiply_adds.values())


def count(path: Path, inputs: dict[str, Shape]) -> Work:
    """The work of a model for inputs of these shapes. Raises UnsupportedModel when the file cannot be parsed."""
    proto = load_structure(path)
    shapes, types = _infer(proto, inputs)
    shapes |= _seen_in_a_run(path, proto.graph, inputs, shapes)
    graph = OnnxGraph(proto.graph)
    multiply_adds, missed = Counter[str](), Counter[str]()
    constants, nodes = _folded(proto.graph)
    for node in nodes:
        found = _multiply_adds(node, shapes)
        if found is not None:
            multiply_adds["int8" if _runs_in_int8(node, graph) else "float32"] += found
        elif node.op_type not in FREE:
            missed[node.op_type] += 1
    sizes = {name: math.prod(shape) * BITS.get(types.get(name, "FLOAT"), 32) // 8 for name, shape in shapes.items()}
    read = {name for node in nodes for name in node.input} & constants
    ends = {value.name for value in (*proto.graph.input, *proto.graph.output)} - constants
    made = _materialized(nodes)
    return Work(
        dict(multiply_adds),
        sum(sizes.get(name, 0) for name in read),
        2 * sum(sizes.get(name, 0) for name in made - ends),
        sum(sizes.get(name, 0) for name in ends),
        dict(missed.most_common()),
    )


def peak_activations(path: Path, inputs: dict[str, Shape]) -> int:
    """The most bytes that activations take at once, each from the node that makes it to the last that reads it.

    What is rounded at once (QuantizeLinear) is written as integers. Raises UnsupportedModel as `count` does.
    """
    proto = load_structure(path)
    shapes, types = _infer(proto, inputs)
    graph, (constants, nodes) = OnnxGraph(proto.graph), _folded(proto.graph)
    made, last, alive, most = _materialized(nodes) - constants, dict[str, int](), dict[str, int](), 0
    shapes |= shapes_of_run(path, made - shapes.keys(), inputs) if made - shapes.keys() else {}
    for place, node in enumerate(nodes):
        last |= dict.fromkeys(node.input, place)
    for place, node in enumerate(nodes):
        for name in made.intersection(node.output):
            reader = graph.only_consumer(name)
            rounded = reader is not None and reader.op_type == "QuantizeLinear"
            bits = 8 if rounded else BITS.get(types.get(name, "FLOAT"), 32)
            alive[name] = math.prod(shapes.get(name, ())) * bits // 8
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, len(nodes)) > place}
    return most


def _seen_in_a_run(path: Path, graph: Any, inputs: dict[str, Shape], shapes: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes that inference left open (behind a Reshape or padding that is computed), where a product needs one."""
    counted = {*CONVOLUTIONS, *PRODUCTS, "ConvTranspose", "MatMulNBits"}
    needed = {name for node in graph.node if node.op_type in counted for name in (node.input[0], node.output[0])}
    if needed <= shapes.keys():
        return {}
    return shapes_of_run(path, {n for node in graph.node for n in node.output if n and n not in shapes}, inputs)


def _folded(graph: Any) -> tuple[set[str], list[Any]]:
    """Constants, those included that a runtime computes once when it opens the model; and the nodes that are left.

    Weights are dequantized at every call, or never where integers are multiplied: that is not folded.
    """
    constants, left = {tensor.name for tensor in graph.initializer}, []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        given = node.op_type == "Constant" or (bool(inputs) and constants.issuperset(inputs))
        if given and node.op_type != "DequantizeLinear" and not node.op_type.startswith("Random"):
            constants |= set(node.output)
        else:
            left.append(node)
    return constants, left


def _materialized(nodes: Iterable[Any]) -> set[str]:
    """Activations that a runtime writes: not constants, and not what it dequantizes on the fly."""
    skipped = {"Constant", "DequantizeLinear", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
    return {output for node in nodes if node.op_type not in skipped for output in node.output if output}


def _infer(proto: Any, inputs: dict[str, Shape]) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes and element types of all tensors, as far as they can be known from the shapes of the inputs."""
    proto = without_unpacking(proto)
    for value in proto.graph.input:
        if value.name in inputs:
            _set_shape(value, inputs[value.name])
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    known: dict[str, Shape] = {}
    while True:  # contrib operators stop ONNX's inference: set their shapes and continue after them
        proto = shape_inference.infer_shapes(proto, data_prop=True)
        shapes, types = _known(proto.graph)
        news = {name: shape for name, shape in _contrib_shapes(proto.graph, shapes) if name not in known}
        if not news:
            return shapes, types
        known |= news
        for name, shape in news.items():
            value_type = TensorProto.DataType.Value(types.get(name, "FLOAT"))
            proto.graph.value_info.append(helper.make_tensor_value_info(name, value_type, shape))


def without_unpacking(proto: Any) -> Any:
    """The model with what unpacks its weights replaced by inputs of the same shape.

    ONNX would propagate each of their integers as a dimension: that took 1.4 GB for MobileNetV2.
    """
    constants, left = _folded(proto.graph)
    if len(left) == len(proto.graph.node):
        return proto
    shapes, types = _known(shape_inference.infer_shapes(proto).graph)
    long = {name for name in constants if math.prod(shapes.get(name, ())) > LONGEST_SHAPE}
    light = copied(proto)
    made = {name for node in light.graph.node for name in node.output} & long
    replace_nodes(light.graph, [node for node in light.graph.node if not made.issuperset(node.output)])
    light.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.DataType.Value(types[name]), shapes[name])
        for name in sorted(made)
    )
    return light


def _set_shape(value: Any, shape: Shape) -> None:
    value.type.tensor_type.shape.Clear()
    for size in shape:
        value.type.tensor_type.shape.dim.add(dim_value=size)


def _known(graph: Any) -> tuple[dict[str, Shape], dict[str, str]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        types.setdefault(value.name, TensorProto.DataType.Name(tensor.elem_type))
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in tensor.shape.dim))
    for node in graph.node:
        for item in node.attribute if node.op_type == "Constant" else ():
            shapes.setdefault(node.output[0], tuple(item.t.dims))
    return shapes, types


def _contrib_shapes(graph: Any, shapes: dict[str, Shape]) -> Iterable[tuple[str, Shape]]:
    for node in graph.node:
        first = shapes.get(node.input[0]) if node.input else None
        if first is None or node.output[0] in shapes:
            continue
        if node.op_type in SAME_SHAPE:
            yield node.output[0], first
        elif node.op_type == "MatMulNBits":
            yield node.output[0], (*first[:-1], attribute(node, "N", 0))
        elif node.op_type == "QGemm" and node.input[3] in shapes:
            columns = shapes[node.input[3]][0 if attribute(node, "transB", 0) else 1]
            yield node.output[0], (first[-1] if attribute(node, "transA", 0) else first[0], columns)
        elif node.op_type in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat") and node.input[1] in shapes:
            yield node.output[0], (*first[:-1], shapes[node.input[1]][-1])
        elif node.op_type == "QLinearGlobalAveragePool":
            yield node.output[0], (*first[:2], *(1 for _ in first[2:]))


def _multiply_adds(node: Any, shapes: dict[str, Shape]) -> int | None:
    """Multiply-adds of one node; None without a rule or a shape."""
    out = shapes.get(node.output[0]) if node.output else None
    first = shapes.get(node.input[0]) if node.input else None
    op_type = node.op_type
    if first is None or out is None:
        return None
    if op_type in CONVOLUTIONS or op_type == "ConvTranspose":
        weights = shapes.get(node.input[CONVOLUTIONS.get(op_type, 1)])
        positions = first if op_type == "ConvTranspose" else out
        return None if weights is None else math.prod(positions) * math.prod(weights[1:])
    if op_type == "MatMulNBits":
        return int(math.prod(first[:-1]) * attribute(node, "K", 0) * attribute(node, "N", 0))
    if op_type in PRODUCTS and first:
        return math.prod(out) * (first[0] if attribute(node, "transA", 0) else first[-1])
    return None


def _runs_in_int8(node: Any, graph: OnnxGraph) -> bool:
    """Whether a runtime multiplies integers: an integer operator, or one between dequantized input and weights."""
    if node.op_type in INTEGER or (node.op_type == "MatMulNBits" and attribute(node, "accuracy_level", 0) == 4):
        return True
    factors = [graph.producer(name) for name in node.input[:2]]
    return all(factor is not None and factor.op_type == "DequantizeLinear" for factor in factors)
