"""Residual streams that begin in float, and the identity convolution that gives them the layout of integer kernels.

ONNX Runtime computes an integer convolution with channels last: when it loads a model, it puts a Transpose before and
after each, and removes pairs that cancel, also across an Add of two convolutions' outputs. After a float layer (or a
model's input) the first Add reads a tensor that no integer convolution made, and no later pair cancels: ResNet-20 with
its first convolution in float has 18 Transposes instead of 2, a pair for every Add but the first. An identity
convolution (depthwise, one weight of exactly one, the same scale before and after: exact in integers) gives the stream
the layout it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import GraphBuilder
from .graph import Graph
from .placement import COMPUTING, MOVING, producer_name
from .plan import Plan

PASSING = MOVING & {"Slice", "Pad", "MaxPool", "Identity"}  # keep the axes, so the layout goes through
MEETING = COMPUTING & {"Add", "Mul", "Concat"}
ONE = 64  # the integer weight of one: two products of it and a byte still fit into 16 bits


def need_identity(graph: Graph, plan: Plan) -> dict[str, int]:
    """The rounded tensors that need the identity convolution, and how many channels they have.

    No integer convolution made them; an integer convolution reads them and so does an integer Add, Mul or Concat, maybe
    through nodes that only move values; and more of these follow downstream: the first one has no pair to lose.
    """
    nodes = {node.name: node for node in graph.nodes}
    found: dict[str, int] = {}
    for layer in graph.layers:
        shape, tensor = graph.constants[layer.weight].shape, layer.input
        convolved = layer.op == "Conv" and len(shape) == 4 and layer.name in plan.integer_nodes
        if convolved and _meets(graph, plan, tensor) and not _laid_out(graph, plan, nodes, tensor):
            found[tensor] = int(shape[1] * layer.groups)
    return found


def _meets(graph: Graph, plan: Plan, tensor: str) -> bool:
    """Whether its integers, moved or not, are joined with others, and again further downstream."""

    def moves(node: Any) -> bool:
        return node.name in plan.integer_nodes and node.op_type in PASSING

    def computes(node: Any) -> bool:
        return node.name in plan.integer_nodes or node.op_type in ("Relu", "Clip")  # these are absorbed

    def joins(node: Any) -> bool:
        return node.name in plan.integer_nodes and node.op_type in MEETING

    return any(map(joins, graph.downstream(tensor, moves))) and sum(map(joins, graph.downstream(tensor, computes))) > 1


def _laid_out(graph: Graph, plan: Plan, nodes: dict[str, Any], tensor: str) -> bool:
    """Whether an integer node computed the tensor, and did not only move what a float node made."""
    node = nodes.get(producer_name(graph, tensor))
    while node is not None and node.name in plan.integer_nodes:
        if node.op_type not in PASSING:
            return True
        node = nodes.get(producer_name(graph, node.input[0]))
    return False


def write_identity(builder: GraphBuilder, begun: str, result: str, mapping: list[str], channels: int) -> None:
    """Write the identity convolution: integers of the name `begun` in, `result` out, both by `mapping`.

    mapping: the names of S and Z.
    """
    real = builder.add("DequantizeLinear", [begun, *mapping], f"{begun}.dq")
    stored = builder.constant(f"one.int8x{channels}", np.full((channels, 1, 1, 1), ONE, np.int8))
    scale = builder.constant("one.S", np.float32(1 / ONE))
    zero = builder.constant("Z0.int8", np.int8(0))
    one = f"one.x{channels}"
    if not builder.has(one):
        builder.add("DequantizeLinear", [stored, scale, zero], one)
    passed = builder.add("Conv", [real, one], f"{begun}.passed", group=channels, kernel_shape=[1, 1])
    builder.add("QuantizeLinear", [passed, *mapping], result)
