"""Weights that a few nodes move or convert, such as a Transpose of an initializer, become initializers themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from ...runtimes.onnx.graph import OnnxGraph, is_standard, replace_nodes, set_constant
from .graph import FOLDABLE, Graph

LARGE = 1024  # numbers: a shared tensor above it is not copied


def fold_constants(model: Any) -> None:
    """Compute nodes of FOLDABLE types whose inputs are all constant, and drop the constants that nothing reads then.

    A large tensor that others read too (the table of tied embeddings) stays one: a second copy costs more than
    rounding it saves.
    """
    graph = Graph(model)
    constants, kept, read_before = dict(graph.constants), [], set[str]()
    for node in graph.nodes:
        inputs = [name for name in node.input if name]
        foldable = is_standard(node) and node.op_type in FOLDABLE and constants.keys() >= set(inputs)
        shared = any(constants[name].size > LARGE and len(graph.consumers[name]) > 1 for name in inputs if foldable)
        output = node.output[0]
        value = None if not foldable or shared or output in graph.outputs else _value(node, constants)
        if value is None:
            kept.append(node)
        else:
            constants[output] = value
            read_before |= set(inputs)
            set_constant(model, output, value)
    replace_nodes(model.graph, kept)
    unread = read_before - OnnxGraph(model.graph).consumers.keys() - set(graph.outputs)
    left = [tensor for tensor in model.graph.initializer if tensor.name not in unread]
    if len(left) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(left)


def _value(node: Any, constants: dict[str, Any]) -> Any:
    """The node's output; None where ONNX's reference does not compute it."""
    try:
        return np.asarray(ReferenceEvaluator(node).run(None, {name: constants[name] for name in node.input if name})[0])
    except Exception:  # of many kinds: the node then stays as it is
        return None
