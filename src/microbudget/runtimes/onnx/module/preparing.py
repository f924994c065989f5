"""What a graph is made ready for before it becomes a module: float32, and reshapes that allow fewer channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph import attribute, copied, is_standard, needed_for, replace_nodes, set_constant
from ..half import widen

FLATTEN = "flatten.shape"  # the initializer of reshapes that keep the examples and join all else


def prepared(model: onnx.ModelProto) -> Any:
    """A copy in float32 whose reshapes to (examples, all else) say so, and not with the number of channels."""
    result = copied(model)
    _drop_overridable_inputs(result)
    widen(result)
    _free_flattening(result)
    return result


def only_output(model: Any, name: str) -> None:
    """Remove the outputs but one, and what only they need, in place."""
    nodes, used = needed_for([name], model.graph.node)
    replace_nodes(model.graph, nodes)
    for values in (model.graph.output, model.graph.initializer):
        for value in [value for value in values if value.name not in used | {name}]:
            values.remove(value)
    for value in [value for value in model.graph.output if value.name != name]:
        model.graph.output.remove(value)


def constants_of(model: Any) -> dict[str, Any]:
    """The values of initializers and Constant nodes by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return found | {node.output[0]: constant_of(node) for node in model.graph.node if node.op_type == "Constant"}


def constant_of(node: Any) -> Any:
    """The value of a Constant node."""
    (item,) = node.attribute
    value = onnx.helper.get_attribute_value(item)
    if item.name == "value":
        return numpy_helper.to_array(value)
    kind = np.float32 if "float" in item.name else np.int64
    return np.array(value, kind)


def _drop_overridable_inputs(model: Any) -> None:
    """Old exporters list the initializers among the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)


def _free_flattening(model: Any) -> None:
    """A Reshape of (examples, channels, ...) to (examples, channels * ...) gets the shape (0, -1)."""
    candidates = [node for node in model.graph.node if node.op_type == "Reshape" and is_standard(node)]
    constants = constants_of(model) if candidates else {}
    candidates = [node for node in candidates if len(node.input) > 1 and len(constants.get(node.input[1], ())) == 2]
    if not candidates:
        return
    sizes = _sizes(model)
    for node in candidates:
        found, (examples, rest) = sizes.get(node.input[0], []), constants[node.input[1]]
        if len(found) < 2 or not all(found[1:]) or attribute(node, "allowzero", 0):
            continue
        if rest in (-1, math.prod(found[1:])) and examples in (-1, 0, found[0]) and (examples, rest) != (-1, -1):
            node.input[1] = FLATTEN
    if any(FLATTEN in node.input for node in candidates):
        set_constant(model, FLATTEN, np.array([0, -1], np.int64))


def _sizes(model: Any) -> dict[str, list[int]]:
    """The shape of each tensor, with 0 for what is not known; none where inference fails."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # of several kinds; the reshapes then stay as they are
        return {}
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim] for value in values}
