"""The graph of an ONNX model: which node produces a tensor, which nodes consume it, and how to walk from there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...errors import UnsupportedModel

Node = Any  # onnx.NodeProto, whose fields mypy does not know
Condition = Callable[[Node], bool]
STANDARD_DOMAINS = ("", "ai.onnx")


class OnnxGraph:
    """The connections of an `onnx.GraphProto`; with `nested`, also those inside its If, Loop and Scan nodes.

    Nodes are those of the proto itself: what is changed in them is changed there.
    """

    def __init__(self, proto: Any, *, nested: bool = False) -> None:
        graphs = list(with_subgraphs(proto)) if nested else [proto]
        self.nodes: list[Node] = [node for graph in graphs for node in graph.node]
        self.initializers: dict[str, Any] = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
        self.inputs = [value.name for value in proto.input if value.name not in self.initializers]
        self.outputs = [value.name for value in proto.output]
        self.producers: dict[str, Node] = {}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            self.producers.update({name: node for name in node.output if name})
            for name in {*node.input, *captured(node)} - {""}:
                self.consumers.setdefault(name, []).append(node)

    def producer(self, tensor: str, *, skipping: Collection[str] = ()) -> Node | None:
        """The node that produces a tensor, looking through operators of the types `skipping` by their first input.

        None for an input or an initializer.
        """
        node = self.producers.get(tensor)
        while node is not None and node.op_type in skipping:
            node = self.producers.get(node.input[0])
        return node

    def only_consumer(self, tensor: str) -> Node | None:
        """The only node that reads the tensor; None where there are more, or where it is an output of the model."""
        consumers = self.consumers.get(tensor, [])
        return consumers[0] if len(consumers) == 1 and tensor not in self.outputs else None

    def downstream(self, tensor: str, through: Condition) -> Iterator[Node]:
        """The nodes that read the tensor, and those that read the outputs of every node `through` which the walk goes.

        Each node once.
        """
        seen, tensors = set[int](), [tensor]
        while tensors:
            for node in self.consumers.get(tensors.pop(), []):
                if id(node) not in seen:
                    seen.add(id(node))
                    yield node
                    if through(node):
                        tensors += node.output

    def origins(self, tensor: str, through: Condition) -> set[str]:
        """The tensors from which one is computed by nodes `through` which the walk upstream goes: where it ends."""
        origins, seen, waiting = set[str](), {tensor}, [tensor]
        while waiting:
            node = self.producers.get(current := waiting.pop())
            if node is None or not through(node):
                origins.add(current)
                continue
            new = {name for name in node.input if name} - seen
            seen |= new
            waiting += new
        return origins


def with_subgraphs(proto: Any) -> Iterator[Any]:
    """A graph and those inside its If, Loop and Scan nodes, at any depth."""
    yield proto
    for node in proto.node:
        for inner in subgraphs(node):
            yield from with_subgraphs(inner)


def subgraphs(node: Node) -> Iterator[Any]:
    """The graphs that a node holds as attributes: the branches of an If, the body of a Loop or Scan."""
    for item in node.attribute:
        if item.type == item.GRAPH:
            yield item.g
        elif item.type == item.GRAPHS:
            yield from item.graphs


def captured(node: Node) -> set[str]:
    """The outer tensors that a node's subgraphs read."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        own |= {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            names |= {*inner.input, *captured(inner)} - own
        names |= {value.name for value in graph.output} - own
    return names - {""}


def needed_for(tensors: Iterable[str], nodes: Iterable[Node]) -> tuple[list[Node], set[str]]:
    """Of `nodes`, in their order, those that the tensors depend on; and all names read on the way, the tensors' too."""
    names, kept = set(tensors), []
    for node in reversed(list(nodes)):
        if names & set(node.output):
            kept.append(node)
            names |= {*node.input, *captured(node)}
    return kept[::-1], names - {""}


def is_standard(node: Node) -> bool:
    """Whether the operator is one of ONNX's own, not of another domain."""
    return node.domain in STANDARD_DOMAINS


def load_structure(path: Path) -> Any:
    """The `onnx.ModelProto` of a file without its external data. Raises UnsupportedModel when it cannot be parsed."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises several types of its own
        raise UnsupportedModel(f"{path} is not an ONNX model ({type(error).__name__}): is it complete?") from error


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 1 where the model names none, as the oldest ones do."""
    versions = (int(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    return max(versions, default=1)


def attribute(node: Node, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def copied(model: onnx.ModelProto) -> Any:
    """A model that can be changed while the one given stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def replace_nodes(proto: Any, nodes: Iterable[Node]) -> None:
    """Give an `onnx.GraphProto` these nodes in place of its own; they may be some of its own."""
    kept = list(nodes)
    del proto.node[:]
    proto.node.extend(kept)


def set_constant(model: Any, name: str, value: NDArray[Any]) -> None:
    """Replace or add an initializer."""
    tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
    for existing in model.graph.initializer:
        if existing.name == name:
            existing.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)
