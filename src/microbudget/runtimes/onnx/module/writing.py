"""Writing: what a module has learnt or lost goes back into the graph that it was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..graph import attribute, copied, needed_for, replace_nodes, set_constant
from .network import OnnxNetwork
from .norms import folded_state


def written(network: OnnxNetwork) -> Any:
    """The graph that the module was made of, with the module's tensors: the same nodes, or fewer channels.

    Constants that nodes computed of others (a Transpose of a stored weight) become initializers.
    """
    result = copied(network.proto)
    before = {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}
    state, done = folded_state(network), set[str]()
    for path, constant in network.stored_in.items():
        if constant not in done:
            done.add(constant)
            set_constant(result, constant, _array(state[path], path in network.transposed, before.get(constant)))
    computed = done - before.keys()
    replace_nodes(result.graph, [node for node in result.graph.node if not computed & set(node.output)])
    if _fit_groups(result, before):
        _forget_shapes(result)
    _drop_unread(result)
    return result


def _array(tensor: torch.Tensor, transposed: bool, shape: tuple[int, ...] | None) -> Any:
    array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    array = array.T if transposed else array
    if shape is not None and array.size == int(np.prod(shape)):
        array = array.reshape(shape)  # such as a bias of (1, outputs)
    return np.ascontiguousarray(array)


def _fit_groups(model: Any, before: dict[str, tuple[int, ...]]) -> bool:
    """The numbers of groups of convolutions that have lost channels. Whether any tensor has another shape."""
    after = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        groups = attribute(node, "group", 1)
        if node.op_type != "Conv" or groups == 1 or node.input[1] not in before:
            continue
        old, new = before[node.input[1]][0], after[node.input[1]][0]
        for item in node.attribute:
            if item.name == "group":
                item.i = groups * new // old
    return any(after.get(name, shape) != shape for name, shape in before.items())


def _forget_shapes(model: Any) -> None:
    del model.graph.value_info[:]


def _drop_unread(model: Any) -> None:
    """Nodes and constants that nothing needs now."""
    outputs = [value.name for value in model.graph.output]
    nodes, used = needed_for(outputs, model.graph.node)
    replace_nodes(model.graph, nodes)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used | set(outputs)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
