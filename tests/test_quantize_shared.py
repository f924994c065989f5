"""Weights that several layers read: stored once where one rounding serves all, else rounded for each kernel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from microbudget.methods.quantize.layer_rounding import real_matrix, round_layers
from microbudget.methods.quantize.mapping import dequantize
from microbudget.methods.quantize.plan import Plan, WeightFormat
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine
from microbudget.methods.quantize.write import write
from toy_networks import Net, batches, run

EXACT = Machine(arm=False, saturates=False)


def uneven(rows: int, columns: int) -> np.ndarray:
    """Weights whose rows and columns differ a hundredfold: the scales of one axis ruin the other."""
    random = np.random.default_rng(0)
    spread = 10 ** np.linspace(-1, 1, rows)[:, None] * 10 ** np.linspace(1, -1, columns)[None]
    return (random.normal(0, rows**-0.5, (rows, columns)) * spread).astype(np.float32)


def tied(inputs: int, hidden: int, *, copies: int = 1) -> onnx.ModelProto:
    """MatMul(x, W), then a Gemm by the same W (or a copy) along its other axis: an autoencoder with tied weights."""
    net = Net(0)
    W = [net.const(uneven(inputs, hidden), f"W{i}") for i in range(copies)]
    b = net.const(np.zeros(inputs, np.float32))
    y = net.op("Relu", net.op("MatMul", "x", W[0]))
    return net.model(net.op("Gemm", y, W[-1], b, transB=1), ["batch", inputs])


def data(width: int) -> list[dict[str, np.ndarray]]:
    return batches(np.random.default_rng(1).normal(size=(64, width)).astype(np.float32))


@pytest.mark.parametrize("shape", [(12, 12), (12, 20), (20, 12)])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"activation_bits": None}, {"activation_bits": None, "bits": 3}])
def test_weights_read_along_both_axes_answer_as_two_copies_would(shape, options, tmp_path):
    x, answers = data(shape[0]), []
    for copies in (1, 2):
        onnx.save(tied(*shape, copies=copies), str(tmp_path / "float.onnx"))
        asked = {"machine": EXACT, "threads": 1, "corrections": ("scales", "bias"), **options}
        quantize_graph(tmp_path / "float.onnx", x, tmp_path / "out.onnx", **asked)
        answers.append(run(tmp_path / "out.onnx", x[0]["x"]))
    np.testing.assert_array_equal(*answers)


def rounded(model: onnx.ModelProto, bits: dict[str, int], groups: dict[str, int], schemes: dict[str, str]):
    graph = prepared(model)
    plan = Plan({layer.name: schemes.get(layer.name, "weights") for layer in graph.layers})
    formats = {layer.name: WeightFormat(bits.get(layer.name, 8), groups.get(layer.name)) for layer in graph.layers}
    round_layers(graph, plan, formats, ())
    return graph, plan


def three() -> onnx.ModelProto:
    """Three MatMuls by one W."""
    net, x = Net(0), "x"
    W = net.const(net.random.normal(0, 0.25, (16, 16)).astype("f"), "W")
    for _ in range(3):
        x = net.op("MatMul", x, W)
    return net.model(x, ["batch", 16])


@pytest.mark.parametrize(
    ("bits", "groups", "schemes", "copies"),
    [
        ({}, {}, {}, 1),
        ({"MatMul2": 4}, {}, {}, 2),
        ({}, {"MatMul2": 16}, {}, 2),
        (dict.fromkeys(("MatMul0", "MatMul1", "MatMul2"), 7), {}, {"MatMul2": "dynamic"}, 2),  # 8 bits may saturate
        ({"MatMul1": 4, "MatMul2": 4}, {}, {}, 2),
    ],
)
def test_layers_share_what_bits_groups_and_kernels_allow(bits, groups, schemes, copies):
    graph, plan = rounded(three(), bits, groups, schemes)
    assert len({id(weights.q) for weights in plan.weights.values()}) == copies
    for layer in graph.layers:
        weights = plan.weights[layer.name]
        assert (weights.bits, weights.group) == (bits.get(layer.name, 8), groups.get(layer.name))
    x = np.eye(16, dtype=np.float32)
    expected = x
    for layer in graph.layers:
        expected = expected @ real_matrix(layer, plan.weights[layer.name])[0].T
    np.testing.assert_allclose(run(write(graph, plan), x), expected, atol=0.05 * np.abs(expected).max())


def test_a_twin_whose_bias_needs_coarser_scales_is_rounded_on_its_own(tmp_path):
    """A dead output has a tiny scale, at which the second layer's bias would not fit into int32."""
    net = Net(0)
    W = net.random.normal(0, 0.3, (8, 8)).astype("f")
    W[:, 3] = 1e-12
    shared, large = net.const(W, "W"), np.full(8, 5.0, np.float32)
    y = net.op("Relu", net.op("Gemm", "x", shared, net.const(np.zeros(8, np.float32))))
    model = net.model(net.op("Gemm", y, shared, net.const(large)), ["batch", 8])
    onnx.save(model, str(tmp_path / "float.onnx"))
    asked = {"machine": EXACT, "threads": 1, "corrections": ("scales",)}
    quantize_graph(tmp_path / "float.onnx", data(8), tmp_path / "out.onnx", **asked)
    x = data(8)[0]["x"]
    np.testing.assert_allclose(run(tmp_path / "out.onnx", x), run(model, x), atol=0.2)


def test_the_two_roundings_are_those_of_two_tensors():
    """Square weights, along both axes: as if each layer had a copy of its own."""
    graph, plan = rounded(tied(12, 12), {}, {}, {})
    first, second = graph.layers
    W = graph.constants["W0"]
    for layer, axis in ((first, 1), (second, 0)):
        weights = plan.weights[layer.name]
        expected = np.abs(W).max(axis=1 - axis) / 127
        np.testing.assert_allclose(weights.S, expected, rtol=1e-6)
        back = dequantize(weights.q, weights.S, axis=axis)
        assert np.all(np.abs(back - W) <= np.expand_dims(weights.S, 1 - axis) * 0.501)
