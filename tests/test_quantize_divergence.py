"""The divergence of answers: by the naive equation of what the answers are, and the same however they are written."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from microbudget.errors import BrokenModel
from microbudget.methods.quantize.divergence import mean_kl
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.quantizing import quantize_graph
from toy_networks import Net, batches


def linear(*ends: str, outputs: int = 5, shift: float = 0.0, **attributes) -> onnx.ModelProto:
    """A Gemm whose weights are off by `shift`, and what turns its outputs into answers."""
    net = Net(0)
    W = net.random.normal(size=(6, outputs)) + shift * np.random.default_rng(1).normal(size=(6, outputs))
    y = net.op("Gemm", "x", net.const(W.astype("f")))
    for end in ends:
        y = net.op(end, y, **(attributes if end in ("Softmax", "LogSoftmax") else {}))
    return net.model(y, ["batch", 6])


def found(*ends: str, scale: float = 1.0, **options) -> float:
    x = (scale * np.random.default_rng(2).normal(size=(40, 6))).astype(np.float32)
    models = [prepared(linear(*ends, shift=shift, **options)).model for shift in (0.0, 0.3)]
    return mean_kl(models[0], models[1:], batches(x, 7), threads=1)[0]


@pytest.mark.parametrize("ends", [("Softmax",), ("LogSoftmax",), ("Softmax", "Identity")])
@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_a_model_that_ends_in_softmax_diverges_as_its_logits_do(ends, scale):
    assert found(*ends, scale=scale) == pytest.approx(found(scale=scale), rel=1e-3)


def test_probabilities_that_underflow_count_for_much_but_stay_finite():
    assert 10 < found("Softmax", scale=1000.0) < math.inf


def test_classes_lie_on_the_axis_of_the_softmax():
    models = []
    for shift in (0.0, 0.5):
        net = Net(0)
        W = net.random.normal(size=(4, 3, 1)) + shift * np.random.default_rng(1).normal(size=(4, 3, 1))
        y = net.op("Conv", "x", net.const(W.astype("f")))
        models.append((prepared(net.model(net.op("Softmax", y, axis=1), ["b", 3, 5])).model, W[..., 0]))
    x = np.random.default_rng(2).normal(size=(7, 3, 5)).astype(np.float32)
    naive = []
    for column in x.transpose(0, 2, 1).reshape(-1, 3):  # one answer for every place
        p, q = (np.exp(W @ column) / np.exp(W @ column).sum() for _, W in models)
        naive.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert mean_kl(models[0][0], [models[1][0]], batches(x, 3))[0] == pytest.approx(np.mean(naive), rel=1e-3)


def test_sigmoids_are_independent_answers():
    models = [prepared(linear("Sigmoid", outputs=3, shift=shift)) for shift in (0.0, 0.3)]
    x = np.random.default_rng(2).normal(size=(9, 6)).astype(np.float32)
    p, q = (1 / (1 + np.exp(-(x @ next(iter(graph.constants.values()))))) for graph in models)
    naive = [
        sum(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(*row, strict=True))
        for row in zip(p.astype(float), q.astype(float), strict=True)
    ]
    kl = mean_kl(models[0].model, [models[1].model], batches(x, 4))[0]
    assert kl == pytest.approx(np.mean(naive), rel=1e-3)
    assert found("Sigmoid", outputs=1) > 0


@pytest.mark.parametrize("size", [1, 7, 40])
def test_single_numbers_are_normal_distributions(size):
    """Softmax over one class is always 1: the divergence of any regression would be zero."""
    models = [prepared(linear(outputs=1, shift=shift)) for shift in (0.0, 0.3)]
    x = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    a, b = (x.astype(float) @ next(iter(graph.constants.values())) for graph in models)
    naive = np.mean((a - b) ** 2) / (2 * np.var(a))
    assert mean_kl(models[0].model, [models[1].model], batches(x, size))[0] == pytest.approx(naive, rel=1e-4)


@pytest.mark.parametrize("options", [{"bits": 2, "corrections": ()}, {"keep_float_activations": 1}, {"max_kl": 0.001}])
def test_what_is_decided_for_a_softmax_network_is_what_its_logits_would_decide(options, tmp_path):
    """The divergence, what `keep_float_activations` keeps, and the bits of mixed precision."""
    outcomes = []
    for ends in ((), ("Softmax",)):
        net = Net(0)
        y = net.gemm(net.op("Relu", net.gemm("x", 12, 32)), 32, 4)
        for end in ends:
            y = net.op(end, y)
        onnx.save(net.model(y, ["batch", 12]), str(tmp_path / "float.onnx"))
        data = batches(3 * np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32))
        outcome = quantize_graph(tmp_path / "float.onnx", data, tmp_path / "out.onnx", threads=1, **options)
        outcomes.append((outcome.kl, [(layer.bits, layer.scheme) for layer in outcome.layers]))
    assert outcomes[1][0] == pytest.approx(outcomes[0][0], rel=1e-2)
    assert outcomes[1][1] == outcomes[0][1]
    assert outcomes[0][0] > (0.01 if "bits" in options else 0)


def test_broken_answers_are_named_by_the_tensor_where_they_begin():
    net = Net(0)
    y = net.op("Log", net.op("Neg", net.op("Exp", "x")))
    model = net.model(net.gemm(y, 6, 3), ["batch", 6])
    with pytest.raises(BrokenModel, match=f"tensor '{y}' is NaN or infinite"):
        mean_kl(model, [model], [{"x": np.zeros((2, 6), np.float32)}])
    with pytest.raises(BrokenModel, match="tensor 'x' is NaN or infinite"):
        mean_kl(model, [model], [{"x": np.full((2, 6), np.inf, np.float32)}])
