"""The comparison of observers: the best loses least at the outputs of the reading layers, by naive equations."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from microbudget.methods.quantize.calibration import PartialSession
from microbudget.methods.quantize.graph import Graph, Layer
from microbudget.methods.quantize.mapping import affine, dequantize, quantize
from microbudget.methods.quantize.observers import OBSERVERS, range_by_name
from microbudget.methods.quantize.placement import place
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.ranges import (
    AT_MOST,
    AUTO,
    CLEARLY,
    COMPARED_EXAMPLES,
    DEFAULT,
    ObserverComparison,
    choose,
    observe,
)
from toy_networks import Net

IMAGE = ["batch", 3, 4, 4]  # no more places than are judged of an example


def network(seed: int) -> onnx.ModelProto:
    """A tensor that one layer reads, one that two read, and one in front of a Gemm.

    Some channels matter, others do not: who loses least on the tensor may lose much at the outputs.
    """
    net = Net(seed)
    a = net.op("Relu", net.conv("x", 3, 4))
    b = net.op("Relu", net.op("Add", net.conv(a, 4, 4), net.conv(a, 4, 4, 1)))
    output = net.gemm(net.op("Flatten", b), 64, 5)
    for W in net.constants.values():
        if W.ndim > 1:
            W *= (10 ** net.random.uniform(-1.5, 1.5, (1, W.shape[1], *[1] * (W.ndim - 2)))).astype("f")
    return net.model(output, IMAGE)


def inputs(seed: int) -> np.ndarray:
    """Heavy tails: sometimes it pays to cut them, sometimes not."""
    random = np.random.default_rng(seed)
    heavy = random.standard_t(random.uniform(1.5, 6), size=(COMPARED_EXAMPLES, 3, 4, 4))
    return (heavy * 10 ** random.uniform(-1, 1, (1, 3, 1, 1))).astype(np.float32)


def error_of(x: np.ndarray, limits: tuple[float, float], signed: bool) -> np.ndarray:
    S, Z = affine(np.float64(limits[0]), np.float64(limits[1]), 8, signed=signed)
    return dequantize(quantize(x, S, Z, signed=signed), S, Z).astype(np.float64) - x


def lost_at(layer: Layer, graph: Graph, error: np.ndarray) -> float:
    """The summed variance of what an error of the input does to every output; a constant is the bias's to mend."""
    W = graph.constants[layer.weight].astype(np.float64)
    if layer.op == "Gemm":
        out = error @ W.T
    else:
        reach = W.shape[2] // 2
        padded = np.pad(error, [(0, 0), (0, 0), (reach, reach), (reach, reach)])
        out = sum(
            np.einsum("bchw,oc->bohw", padded[:, :, i : i + 4, j : j + 4], W[:, :, i, j])
            for i in range(W.shape[2])
            for j in range(W.shape[3])
        )
        out = np.moveaxis(out, 1, -1).reshape(-1, len(W))
    return float(((out - out.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_winner_is_who_loses_least_by_the_naive_equation(seed, signed):
    graph, data = prepared(network(seed)), [{"x": inputs(seed)}]
    placement = place(graph, frozenset(layer.name for layer in graph.layers))
    observed = observe(graph, placement.tensors, data, AUTO, threads=1)
    choose(graph, placement, observed, data, AUTO, signed=signed, threads=1)
    for tensor in {placement.source.get(layer.input, layer.input) for layer in graph.layers}:
        readers = [layer for layer in graph.layers if placement.source.get(layer.input, layer.input) == tensor]
        seen = {layer.name: PartialSession(graph.model, [layer.input], 1)(data[0])[layer.input] for layer in readers}
        ranges = {name: range_by_name(name, observed[tensor].seen, 8, signed=signed) for name in OBSERVERS}
        losses = {
            name: [lost_at(layer, graph, error_of(seen[layer.name], ranges[name], signed)) for layer in readers]
            for name in OBSERVERS
        }
        least = [min(losses[name][i] for name in OBSERVERS) for i in range(len(readers))]
        relative = {
            name: sum(loss / best for loss, best in zip(losses[name], least, strict=True)) for name in OBSERVERS
        }
        whole = {name: (error_of(seen[readers[0].name], ranges[name], signed) ** 2).sum() for name in OBSERVERS}
        fair = [name for name in OBSERVERS if whole[name] <= AT_MOST * whole[DEFAULT]]
        best = min(fair, key=lambda name: relative[name])
        expected = best if relative[best] <= CLEARLY * relative[DEFAULT] else DEFAULT
        assert ranges[observed[tensor].observer] == ranges[expected], tensor


def test_the_contest_is_sometimes_won_by_another_than_the_default():
    won = set()
    for seed in range(12):
        graph, data = prepared(network(seed)), [{"x": inputs(seed)}]
        placement = place(graph, frozenset(layer.name for layer in graph.layers))
        observed = observe(graph, placement.tensors, data, AUTO, threads=1)
        choose(graph, placement, observed, data, AUTO, signed=False, threads=1)
        won |= {one.observer for one in observed.values()}
    assert DEFAULT in won
    assert len(won) > 1


def test_losses_of_the_contest_are_the_naive_ones():
    graph, data = prepared(network(3)), [{"x": inputs(3)}]
    placement = place(graph, frozenset(layer.name for layer in graph.layers))
    observed = observe(graph, placement.tensors, data, AUTO, threads=1)
    comparison = ObserverComparison(graph, placement, observed, signed=False)
    comparison.run(data, threads=1)
    layer = graph.layers[0]
    for name, limits in comparison.ranges["x"].items():
        naive = lost_at(layer, graph, error_of(data[0]["x"], limits, signed=False))
        assert comparison.losses["x"][0][name] == pytest.approx(naive, rel=1e-3)
