"""Where a residual stream begins in float, and what keeps its integer kernels from changing the layout at every step.

ONNX Runtime computes an integer convolution with channels last: when it loads a model, it puts a Transpose before and
behind each, and takes out the pairs that meet, also through an Add that reads two convolutions. Behind a float layer
(or a model's input) the first Add reads one that is no convolution's, and no pair behind it meets: ResNet-20 with its
first convolution in float has 18 Transposes in place of 2, a pair for every Add but the first. A convolution that
changes nothing (depthwise, one weight of exactly one, the same scale before and behind: exact in integers) gives the
stream the layout it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph import Graph
from .placement import COMPUTING, MOVING, made_by
from .plan import Plan

PASSING = MOVING & {"Slice", "Pad", "MaxPool", "Identity"}  # keep the axes, so the layout goes through
MEETING = COMPUTING & {"Add", "Mul", "Concat"}
ONE = 64  # the integer that stands for one: two products of it and a byte still fit into 16 bits


def begun_in_float(graph: Graph, plan: Plan) -> dict[str, int]:
    """The rounded tensors that need the convolution that changes nothing, and how many channels they have.

    No integer convolution made them, and of the integer nodes a convolution reads them and so does an Add, Mul or
    Concat, maybe behind nodes that only move values; and more of these come behind: the first has no pair to lose.
    """
    found: dict[str, int] = {}
    nodes = {node.name: node for node in graph.nodes}
    for tensor in plan.activations:
        channels = _convolved(graph, plan, tensor)
        begins = channels and _meets(graph, plan, tensor) and not _laid_out(graph, plan, nodes, tensor)
        if begins and _meetings(graph, plan, tensor) > 1:
            found[tensor] = channels
    return found


def _convolved(graph: Graph, plan: Plan, tensor: str) -> int:
    """The channels of a tensor that an integer convolution over two axes reads, else 0."""
    readers = {node.name for node in graph.readers.get(tensor, []) if node.name in plan.integer_nodes}
    for layer in graph.layers:
        shape = graph.constants[layer.weight].shape
        if layer.name in readers and layer.op == "Conv" and layer.input == tensor and len(shape) == 4:
            return int(shape[1] * layer.groups)
    return 0


def _meets(graph: Graph, plan: Plan, tensor: str) -> bool:
    readers = [node for node in graph.readers.get(tensor, []) if node.name in plan.integer_nodes]
    return any(
        node.op_type in MEETING or (node.op_type in PASSING and _meets(graph, plan, node.output[0])) for node in readers
    )


def _meetings(graph: Graph, plan: Plan, tensor: str) -> int:
    """How many Adds, Muls and Concats on integers depend on a tensor through integer nodes."""
    reached, found = {tensor}, 0
    for node in graph.nodes:
        computes = node.name in plan.integer_nodes or node.op_type in ("Relu", "Clip")  # these are absorbed
        if computes and reached & set(node.input):
            reached |= set(node.output)
            found += node.op_type in MEETING
    return found


def _laid_out(graph: Graph, plan: Plan, nodes: dict[str, Any], tensor: str) -> bool:
    """Whether an integer node made the tensor that is no mere mover of what a float node made."""
    node = nodes.get(made_by(graph, tensor))
    while node is not None and node.name in plan.integer_nodes:
        if node.op_type not in PASSING:
            return True
        node = nodes.get(made_by(graph, node.input[0]))
    return False


def pass_through(writer: Any, begun: str, tensor: str, result: str, channels: int) -> None:
    """Write the convolution that changes nothing: integers of the name `begun` in, `result` out, both as `tensor`."""
    mapping = writer.mapping(tensor)
    real = writer.add("DequantizeLinear", [begun, *mapping], f"{begun}.dq")
    stored = writer.constant(f"one.int8x{channels}", np.full((channels, 1, 1, 1), ONE, np.int8))
    scale = writer.constant("one.S", np.float32(1 / ONE))
    zero = writer.constant("Z0.int8", np.int8(0))
    one = f"one.x{channels}"
    if not writer.has(one):
        writer.add("DequantizeLinear", [stored, scale, zero], one)
    passed = writer.add("Conv", [real, one], f"{begun}.passed", group=channels, kernel_shape=[1, 1])
    writer.add("QuantizeLinear", [passed, *mapping], result)
