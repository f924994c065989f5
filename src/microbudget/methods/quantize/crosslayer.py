"""Cross-layer equalization on a graph: pairs of layers with nothing but a ReLU between them (Nagel et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...runtimes.onnx.graph import set_constant
from .equalize import equalized
from .graph import Graph, Layer

SWEEPS = 3  # a layer is the second of one pair and the first of the next


def equalize(graph: Graph) -> tuple[Graph, int]:
    """The same function with even ranges from channel to channel, and the number of pairs found."""
    pairs = list(_pairs(graph))
    weights = {name: graph.constants[name].astype(np.float64) for pair in pairs for name in _constants(pair)}
    for _ in range(SWEEPS):
        for first, second in pairs:
            W1, b1, W2 = weights[first.weight], weights.get(first.bias or "", np.zeros(1)), weights[second.weight]
            axes = first.outputs_axis, second.outputs_axis
            W1, W2 = np.moveaxis(W1, axes[0], 0), np.moveaxis(W2, axes[1], 0)
            W1, b1, W2 = equalized(W1, np.broadcast_to(b1, len(W1)), W2, second.groups)
            weights[first.weight], weights[second.weight] = np.moveaxis(W1, 0, axes[0]), np.moveaxis(W2, 0, axes[1])
            if first.bias:
                weights[first.bias] = b1
    for name, value in weights.items():
        set_constant(graph.model, name, value.astype(np.float32))
    return (Graph(graph.model) if pairs else graph), len(pairs)


def _constants(pair: tuple[Layer, Layer]) -> Iterator[str]:
    first, second = pair
    yield from (name for name in (first.weight, first.bias, second.weight) if name)


def _pairs(graph: Graph) -> Iterator[tuple[Layer, Layer]]:
    """Pairs of layers that share no weights, the second the only reader of the first through at most a ReLU.

    A Conv's channels are axis 1 and a Gemm's or MatMul's the last: only layers of one type share an axis.
    """
    by_node = {layer.name: layer for layer in graph.layers}
    for first in graph.layers:
        tensor, reader = first.output, graph.only_consumer(first.output)
        if reader is not None and reader.op_type == "Relu":
            tensor, reader = reader.output[0], graph.only_consumer(reader.output[0])
        second = by_node.get(reader.name) if reader is not None else None
        if second is None or second.input != tensor or (first.op == "Conv") != (second.op == "Conv"):
            continue
        if _shares_nothing(graph, first) and _shares_nothing(graph, second):
            yield first, second


def _shares_nothing(graph: Graph, layer: Layer) -> bool:
    """Whether nothing else reads the layer's constants, the model's own answers included."""
    names = [name for name in (layer.weight, layer.bias) if name]
    return all(len(graph.consumers[name]) == 1 and name not in graph.outputs for name in names)
