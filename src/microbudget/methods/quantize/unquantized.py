"""What a quantized model still computes in float, each type of operator once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ...runtimes.onnx.graph import is_standard
from .graph import Graph
from .placement import MOVING, Placement

# These compute shapes, or move or name numbers.
NOT_COMPUTING = MOVING | {
    "Shape",
    "Constant",
    "ConstantOfShape",
    "Gather",
    "Cast",
    "Split",
    "Expand",
    "Dropout",
    "Size",
}


def left_float_notes(graph: Graph) -> list[str]:
    """A sentence for each reason why layers stay float."""
    by_reason: dict[str, list[str]] = {}
    for name, why in graph.left_float.items():
        by_reason.setdefault(why, []).append(name)
    return [
        f"{names[0]} stays float: {why}"
        if len(names) == 1
        else f"{names[0]} and {len(names) - 1} more stay float: {why}"
        for why, names in by_reason.items()
    ]


def computed_in_float(graph: Graph, placement: Placement) -> list[str]:
    """A sentence with the types of the operators between integer layers that compute floats; none where there is none.

    Layers are not among them: these have rows of their own, or a reason.
    """
    counts = Counter(node.op_type for node in _float_nodes(graph, placement))
    if not placement.nodes or not counts:
        return []
    names = ", ".join(f"{op_type} ({count})" if count > 1 else op_type for op_type, count in counts.items())
    return [f"computed in float, there is no integer kernel for them here: {names}"]


def _float_nodes(graph: Graph, placement: Placement) -> Iterator[Any]:
    layers = {layer.name for layer in graph.layers} | graph.left_float.keys()
    for node in graph.nodes:
        if not is_standard(node):  # these are left float with a reason of their own
            continue
        named = node.name in placement.nodes or node.name in layers or node.op_type in NOT_COMPUTING
        if named or node.output[0] in graph.bias_adds or not {*node.input} - graph.constants.keys() - {""}:
            continue
        producer = graph.producers.get(node.input[0])
        joined = producer is not None and producer.name in placement.nodes
        if not (joined and graph.activation_of(node.input[0]) is node):
            yield node
