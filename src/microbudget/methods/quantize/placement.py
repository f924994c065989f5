"""Which nodes compute on integers, and which tensors are therefore rounded.

Layers are given; the nodes between them join where the runtimes have an int8 kernel for them, where their inputs are
rounded anyway and where their outputs are read as integers: each change of type costs a pass over the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...runtimes.onnx.graph import attribute, is_standard
from .graph import Graph, Layer

COMPUTING = frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid", "LeakyRelu"})
MOVING = frozenset({
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "MaxPool", "Identity",
})  # fmt: skip  # the integers keep their mapping


@dataclass(frozen=True)
class Placement:
    """`nodes` compute on integers; `tensors` are rounded; a tensor that only moved has the mapping of its `source`."""

    nodes: frozenset[str]
    tensors: tuple[str, ...]  # in the graph's order, only those with a mapping of their own
    source: dict[str, str]  # moved tensor -> the tensor whose mapping it has


def place(graph: Graph, static: frozenset[str], kept_float: frozenset[str] = frozenset()) -> Placement:
    """Integer nodes and rounded tensors for these static layers, by name; `kept_float` are nodes that must not join."""
    nodes = _joined(graph, static, kept_float)
    source: dict[str, str] = {}
    rounded: dict[str, None] = {}
    layers = {layer.name: layer for layer in graph.layers}
    for node in graph.nodes:
        if node.name not in nodes:
            continue
        for name in _activations(graph, node):
            rounded.setdefault(source.get(name, name))
        layer, output = layers.get(node.name), node.output[0]
        if layer is not None:
            output = layer.output  # after the bias: what comes before it is not rounded
        if node.op_type in MOVING and layer is None:
            moved = node.input[0]
            source[output] = source.get(moved, moved)
        elif _output_is_rounded(graph, nodes, layer):
            rounded.setdefault(after_activation(graph, output))
    return Placement(nodes, tuple(rounded), source)


def after_activation(graph: Graph, tensor: str) -> str:
    """The tensor after the Relu or Clip that a rounded output absorbs, else the tensor itself."""
    node = graph.activation_of(tensor)
    return str(node.output[0]) if node is not None else tensor


def _joined(graph: Graph, static: frozenset[str], kept_float: frozenset[str]) -> frozenset[str]:
    """The static layers and the nodes between them; those without integer neighbours drop out, again and again."""
    nodes = set(static) | {node.name for node in graph.nodes if _can_join(graph, node)}
    nodes -= kept_float - static
    while True:
        isolated = {
            node.name
            for node in graph.nodes
            if node.name in nodes and node.name not in static and not _has_neighbours(graph, nodes, node)
        }
        if not isolated:
            return frozenset(nodes)
        nodes -= isolated


def _can_join(graph: Graph, node: Any) -> bool:
    if not is_standard(node) or len([name for name in node.output if name]) != 1:
        return False
    if node.op_type == "Pad":
        value = node.input[2] if len(node.input) > 2 else ""
        zero = not value or (value in graph.constants and not graph.constants[value].any())
        return zero and attribute(node, "mode", b"constant") == b"constant"
    if node.op_type in ("MaxPool", "AveragePool") and attribute(node, "ceil_mode", 0):
        return False
    if node.op_type in MOVING:
        return all(name == "" or name in graph.constants for name in node.input[1:])
    return node.op_type in COMPUTING and not any(name in graph.constants for name in node.input)


def _activations(graph: Graph, node: Any) -> list[str]:
    """The inputs of an integer node that are rounded."""
    moving_or_layer = node.op_type in MOVING or node.op_type in ("Conv", "Gemm", "MatMul")
    return [node.input[0]] if moving_or_layer else [name for name in node.input if name not in graph.constants]


def _has_neighbours(graph: Graph, nodes: set[str], node: Any) -> bool:
    """Whether all its inputs are rounded anyway, and an integer node reads its output."""
    if not _read_by(graph, nodes, after_activation(graph, node.output[0]), other_than=node):
        return False
    return all(
        producer_name(graph, name) in nodes or _read_by(graph, nodes, name, other_than=node)
        for name in _activations(graph, node)
    )


def _read_by(graph: Graph, nodes: set[str], tensor: str, other_than: Any) -> bool:
    return any(reader.name in nodes and reader.name != other_than.name for reader in graph.consumers.get(tensor, []))


def producer_name(graph: Graph, tensor: str) -> str:
    """The name of the node that produces a tensor, looking through an absorbed Relu or Clip and through the Add of a
    MatMul's bias; "" for a model's input.
    """
    producer = graph.producers.get(tensor)
    if producer is None:
        return ""
    before = producer.input[0] if producer.op_type in ("Relu", "Clip") else ""
    if before in graph.producers and after_activation(graph, before) == tensor:
        producer = graph.producers[before]
    added = graph.bias_adds.get(producer.output[0])
    return str(producer.name) if added is None else added.name


def _output_is_rounded(graph: Graph, nodes: frozenset[str], layer: Layer | None) -> bool:
    """A Conv's output always is (the integer kernel demands it); a Gemm's or MatMul's only for integer readers."""
    if layer is None or layer.op == "Conv":
        return True
    return any(reader.name in nodes for reader in graph.consumers.get(after_activation(graph, layer.output), []))
