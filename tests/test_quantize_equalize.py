"""Batch-norm folding and cross-layer equalization: the function stays, the ranges meet."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.methods.quantize.crosslayer import equalize
from microbudget.methods.quantize.equalize import equalized, equalizing_factors, fold_batch_norm
from microbudget.methods.quantize.patches import Geometry, patches
from microbudget.methods.quantize.prepare import prepared
from toy_networks import Net, run

RNG = np.random.default_rng(0)


def naive_conv(x, W, b, groups):
    columns = patches(x, Geometry.plain(W.shape[2:], groups=groups))
    kernels = W.reshape(groups, len(W) // groups, -1)
    out = np.einsum("bhwgk,gok->bhwgo", columns, kernels).reshape(*columns.shape[:3], len(W)) + b
    return np.moveaxis(out, -1, 1)


def test_folding_equals_the_convolution_and_its_batch_norm():
    x, W, b = RNG.normal(size=(2, 3, 6, 6)), RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=4)
    gamma, beta, mean, variance = RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=4), RNG.uniform(0.1, 2, 4)
    per_channel = (slice(None), None, None)
    y = naive_conv(x, W, b, 1) - mean[per_channel]
    expected = gamma[per_channel] * y / np.sqrt(variance + 1e-5)[per_channel] + beta[per_channel]
    folded_W, folded_b = fold_batch_norm(W, b, gamma, beta, mean, variance, 1e-5)
    np.testing.assert_allclose(naive_conv(x, folded_W, folded_b, 1), expected, atol=1e-10)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), groups=st.sampled_from([1, 2, 6]))
def test_equalization_keeps_the_function_and_evens_the_ranges(seed, groups):
    rng = np.random.default_rng(seed)
    W1, b1 = rng.normal(size=(6, 3, 1, 1)) * 10 ** rng.uniform(-2, 2, (6, 1, 1, 1)), rng.normal(size=6)
    W2, b2 = rng.normal(size=(12, 6 // groups, 3, 3)), rng.normal(size=12)
    x = rng.normal(size=(2, 3, 5, 5))

    def run(W1, b1, W2):
        return naive_conv(np.maximum(naive_conv(x, W1, b1, 1), 0), W2, b2, groups)

    E1, e1, E2 = equalized(W1, b1, W2, groups)
    np.testing.assert_allclose(run(E1, e1, E2), run(W1, b1, W2), rtol=1e-9, atol=1e-9)
    range_out = np.abs(E1).max(axis=(1, 2, 3))
    per_group = np.abs(E2).reshape(groups, 12 // groups, 6 // groups, 3, 3)
    range_in = per_group.max(axis=(1, 3, 4)).ravel()
    np.testing.assert_allclose(range_out, range_in, rtol=1e-9)  # eq. 9: the matched optimum


def test_linear_layers_equalize_too():
    W1, b1, W2, x = RNG.normal(size=(5, 4)), RNG.normal(size=5), RNG.normal(size=(3, 5)), RNG.normal(size=(7, 4))
    E1, e1, E2 = equalized(W1, b1, W2)
    np.testing.assert_allclose(np.maximum(x @ E1.T + e1, 0) @ E2.T, np.maximum(x @ W1.T + b1, 0) @ W2.T)


@pytest.mark.parametrize(("out", "into"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_dead_channels_are_left_alone(out, into):
    assert equalizing_factors(np.array([out]), np.array([into])).tolist() == [1.0]


def test_factors_stay_bounded():
    s = equalizing_factors(np.array([1e30, 1e-30]), np.array([1e-30, 1e30]))
    assert s.tolist() == [1e3, 1e-3]


def chain(seed: int) -> onnx.ModelProto:
    """A random chain of Conv1d, MatMul, Gemm and activations; every tensor is (2, 6, 6) or, reshaped, (12, 6)."""
    net, flat, x = Net(seed), False, "x"

    def weights(*shape: int) -> str:
        W = net.random.normal(0, 0.4, shape) * 10 ** net.random.uniform(-0.5, 0.5, (6,) + (1,) * (len(shape) - 1))
        return net.const((W if net.random.integers(2) else np.moveaxis(W, 0, -1).reshape(shape)).astype("f"))

    for _ in range(net.random.integers(3, 9)):
        kinds = ["Relu", "Relu", "MatMul", "MatMul", "Added", "Clip", "LeakyRelu", "Reshape"]
        kind = net.random.choice([*kinds, *(["Gemm"] * 3 if flat else ["Conv", "Conv", "Grouped", "Transpose"])])
        b = net.const(net.random.normal(0, 0.5, 6).astype("f"))
        if kind in ("Conv", "Grouped"):
            groups = 1 if kind == "Conv" else 3
            x = net.op("Conv", x, weights(6, 6 // groups, 3), b, pads=[1, 1], group=groups)
        elif kind in ("MatMul", "Added"):
            x = net.op("MatMul", x, weights(6, 6))
            x = net.op("Add", x, b) if kind == "Added" else x
        elif kind == "Gemm":
            x = net.op("Gemm", x, weights(6, 6), b, transB=int(net.random.integers(2)))
        elif kind == "Clip":
            x = net.op("Clip", x, net.const(np.float32(0)), net.const(np.float32(6)))
        elif kind == "Reshape":
            flat = not flat
            x = net.op("Reshape", x, net.const(np.int64([12, 6] if flat else [2, 6, 6])))
        else:
            x = net.op(kind, x, **({"perm": [0, 2, 1]} if kind == "Transpose" else {}))
    return net.model(x, [2, 6, 6])


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31))
def test_equalizing_never_changes_a_graphs_answers(seed):
    model = chain(seed)
    x = np.random.default_rng(seed).normal(size=(2, 6, 6)).astype(np.float32)
    before, after = run(model, x), run(equalize(prepared(model))[0].model, x)
    assert np.abs(after - before).max() <= 0.01 * max(np.abs(before).max(), 0.1)  # float32 after a chain of eight


@pytest.mark.parametrize(
    ("kinds", "pairs"),
    [
        (("Conv", "Relu", "MatMul"), 0),  # a Conv makes channels on axis 1, a MatMul contracts the last axis
        (("MatMul", "Relu", "Conv"), 0),
        (("Conv", "Relu", "Conv"), 1),
        (("MatMul", "Relu", "MatMul"), 1),
        (("MatMul", "MatMul"), 1),
        (("Conv", "Clip", "Conv"), 0),  # a channel that is scaled would be cut elsewhere
    ],
)
def test_pairs_share_the_axis_of_their_channels(kinds, pairs):
    net, x = Net(0), "x"
    for kind in kinds:
        uneven = 10 ** (np.arange(6) / 2)
        W = net.random.normal(size=(6, 6)) * (uneven[:, None] if kind == "Conv" else uneven)  # by output
        W = W.reshape(6, 6, 1) if kind == "Conv" else W
        limits = [net.const(np.float32(end)) for end in (0, 6)]
        operands = {"Relu": [], "Clip": limits}.get(kind)
        x = net.op(kind, x, *([net.const(W.astype("f"))] if operands is None else operands))
    model, data = net.model(x, [2, 6, 6]), np.random.default_rng(1).normal(size=(2, 6, 6)).astype(np.float32)
    graph, found = equalize(prepared(model))
    assert found == pairs
    before = run(model, data)
    assert np.abs(run(graph.model, data) - before).max() <= 1e-4 * np.abs(before).max()


def test_weights_that_are_answers_too_stay():
    net = Net(0)
    W = net.const(net.random.normal(size=(6, 6, 1)).astype("f") * 100, "W")
    y = net.op("Conv", net.op("Conv", "x", W), net.const(net.random.normal(size=(6, 6, 1)).astype("f")))
    assert equalize(prepared(net.model(y, [2, 6, 6], outputs=[y, "W"])))[1] == 0
