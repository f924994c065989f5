"""The integer forward pass: exact against loops over Python's integers, within one step of ONNX Runtime's kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.methods.quantize.integer import (
    Quantized,
    Target,
    accumulate,
    conv,
    linear,
    quantize_bias,
    requantize,
    scale_with_room,
    zero_point_terms,
)
from microbudget.methods.quantize.mapping import affine, dequantize, extremes, integer_range, quantize, symmetric
from microbudget.methods.quantize.patches import Geometry

SETTINGS = settings(deadline=None, max_examples=25)


def naive_linear(x: Quantized, w: Quantized, q_b, target: Target) -> np.ndarray:
    """The equation in the module's docstring, with Python's integers."""
    low, high = integer_range(target.bits, signed=target.signed)
    S_w, Z_w = np.broadcast_to(w.S, len(w.q)), np.broadcast_to(w.Z, len(w.q))
    out = np.zeros((len(x.q), len(w.q)), np.int64)
    for row in range(len(x.q)):
        for o in range(len(w.q)):
            pairs = zip(x.q[row], w.q[o], strict=True)
            total = sum((int(b) - int(Z_w[o])) * (int(a) - int(x.Z)) for a, b in pairs) + int(q_b[o])
            scaled = float(np.float64(x.S) * np.float64(S_w[o]) / target.S) * total
            out[row, o] = min(max(round(scaled) + target.Z, low), high)
    return out


def naive_conv(x: Quantized, w: Quantized, q_b, target: Target, g: Geometry) -> np.ndarray:
    """Output by output: gather the patch with plain loops, real zero outside, then `naive_linear`."""
    batch, channels, *space = x.q.shape
    ends = zip(g.kernel, g.dilations, g.strides, g.pads_before, g.pads_after, space, strict=True)
    sizes = [(n + before + after - (k - 1) * d - 1) // s + 1 for k, d, s, before, after, n in ends]
    per_in, per_out = channels // g.groups, len(w.q) // g.groups
    out = np.zeros((batch, len(w.q), *sizes), np.int64)
    for b, o in np.ndindex(batch, len(w.q)):
        for at in np.ndindex(*sizes):
            row = []
            for c, *tap in np.ndindex(per_in, *g.kernel):
                moves = zip(at, g.strides, tap, g.dilations, g.pads_before, strict=True)
                place = [p * s + t * d - before for p, s, t, d, before in moves]
                inside = all(0 <= p < n for p, n in zip(place, space, strict=True))
                row.append(int(x.q[(b, o // per_out * per_in + c, *place)]) if inside else int(x.Z))
            one = Quantized(np.array([row], x.q.dtype), x.S, x.Z)
            S_w, Z_w = np.broadcast_to(w.S, len(w.q))[o], np.broadcast_to(w.Z, len(w.q))[o]
            kernel = Quantized(w.q[o].reshape(1, -1), S_w[None], Z_w[None])
            out[(b, o, *at)] = naive_linear(one, kernel, q_b[o : o + 1], target)[0, 0]
    return out


def random_layer(rng, x_shape, w_shape, *, x_signed=False, w_affine=False, w_bits=8):
    x, w = rng.normal(0.3, 1, x_shape).astype(np.float32), rng.normal(size=w_shape).astype(np.float32)
    b = rng.normal(size=w_shape[0]).astype(np.float32)
    S_x, Z_x = affine(*extremes(x), 8, signed=x_signed)
    if w_affine:
        S_w, Z_w = affine(*extremes(w, axis=0), w_bits, signed=True)
    else:
        S_w, Z_w = symmetric(np.abs(w).max(axis=tuple(range(1, w.ndim))), w_bits), np.zeros(len(w), np.int32)
    q_x = Quantized(quantize(x, S_x, Z_x, signed=x_signed), S_x, Z_x)
    q_w = Quantized(quantize(w, S_w, Z_w, w_bits, axis=0), S_w, Z_w)
    return q_x, q_w, quantize_bias(b, S_w, float(S_x)), x, w, b


@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)),
    x_signed=st.booleans(),
    w_affine=st.booleans(),
    bits=st.integers(2, 8),
)
def test_linear_is_exactly_the_naive_integers(seed, shape, x_signed, w_affine, bits):
    rows, K, outputs = shape
    x, w, q_b, *_ = random_layer(
        np.random.default_rng(seed), (rows, K), (outputs, K), x_signed=x_signed, w_affine=w_affine, w_bits=bits
    )
    target = Target(S=0.05, Z=3, bits=bits, signed=x_signed)
    np.testing.assert_array_equal(linear(x, w, q_b, target), naive_linear(x, w, q_b, target))


@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    w_affine=st.booleans(),
)
def test_conv_is_exactly_the_naive_integers(seed, groups, stride, dilation, pads, w_affine):
    geometry = Geometry((3, 2), (stride, 1), (1, dilation), pads[:2], pads[2:], groups)
    shape = (2, 4, 5, 4)
    x, w, q_b, *_ = random_layer(np.random.default_rng(seed), shape, (4, 4 // groups, 3, 2), w_affine=w_affine)
    target = Target(S=0.07, Z=128)
    np.testing.assert_array_equal(conv(x, w, q_b, target, geometry), naive_conv(x, w, q_b, target, geometry))


def test_zero_point_terms_turn_raw_products_into_centred_ones():
    rng = np.random.default_rng(1)
    q_x, q_w = rng.integers(0, 256, (5, 7)).astype(np.uint8), rng.integers(-128, 128, (3, 7)).astype(np.int8)
    Z_w = np.array([-4, 0, 9], np.int32)
    raw = q_x.astype(np.int64) @ q_w.T.astype(np.int64)
    centred = (q_x.astype(np.int64) - 77) @ (q_w.astype(np.int64) - Z_w[:, None]).T
    np.testing.assert_array_equal(raw + zero_point_terms(q_x, 77, q_w, Z_w), centred)


def test_sums_wrap_like_int32():
    K = 2**17
    q_x, q_w = np.full((1, K), 255, np.uint8), np.full((1, K), 127, np.int8)
    true = 255 * 127 * K
    assert true > 2**31
    wrapped = (true + 2**31) % 2**32 - 2**31
    assert accumulate(q_x, 0, q_w, np.zeros(1, np.int32), np.zeros(1, np.int32))[0, 0] == wrapped


def test_requantize_rounds_half_to_even_and_saturates():
    sums = np.array([[1, 3, -1, 1000, -1000]], np.int32)
    target = Target(S=1.0, Z=10)
    assert requantize(sums, np.float64(0.5), target).tolist() == [[10, 12, 10, 255, 0]]


def test_bias_lies_at_the_products_scale_and_saturates():
    assert quantize_bias(np.float32([1.0, -1e9]), np.float32([0.5, 1e-3]), 0.1).tolist() == [20, -(2**31)]


@SETTINGS
@given(S_w=st.floats(1e-30, 1.0), b=st.floats(-100, 100))
def test_room_for_the_bias(S_w, b):
    S = scale_with_room(np.float32([S_w]), 0.02, np.array([b]))
    assert S[0] >= np.float32(S_w)
    q = quantize_bias(np.array([b]), S, 0.02)[0]
    assert abs(q) < 2**31 - 1
    assert abs(q * float(S[0]) * 0.02 - b) <= float(S[0]) * 0.0101


def run_in_onnxruntime(op: str, x, w, q_b, target: Target, **attributes) -> np.ndarray:
    import onnxruntime
    from onnx import helper, numpy_helper

    kind = np.int8 if target.signed else np.uint8
    w_q = w.q if op == "QLinearConv" else np.ascontiguousarray(w.q.T)
    constants = {
        "xs": np.float32(x.S), "xz": x.q.dtype.type(x.Z), "w": w_q, "ws": np.asarray(w.S, np.float32),
        "wz": w.Z.astype(w.q.dtype), "ys": np.float32(target.S), "yz": kind(target.Z),
    }  # fmt: skip
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    if op == "QLinearConv":
        constants["b"] = q_b
        inputs.append("b")
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.q.dtype), x.q.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.q})[0]


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("bits", [7, 4])
def test_conv_is_within_one_step_of_onnxruntime(groups, bits):
    # 7-bit weights: without VNNI onnxruntime's pairwise 16-bit sums saturate at 8
    rng = np.random.default_rng(groups)
    x, w, q_b, *_ = random_layer(rng, (2, 8, 12, 12), (16, 8 // groups, 3, 3), w_bits=bits)
    target = Target(S=0.06, Z=120)
    geometry = Geometry.plain((3, 3), stride=2, pad=1, groups=groups)
    ours = conv(x, w, q_b, target, geometry)
    theirs = run_in_onnxruntime("QLinearConv", x, w, q_b, target, strides=[2, 2], pads=[1, 1, 1, 1], group=groups)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.01


def test_matmul_is_within_one_step_of_onnxruntime():
    x, w, q_b, *_ = random_layer(np.random.default_rng(3), (9, 40), (12, 40), w_bits=7)
    target = Target(S=0.1, Z=99)
    ours = linear(x, w, np.zeros_like(q_b), target)
    theirs = run_in_onnxruntime("QLinearMatMul", x, w, q_b, target)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_integers_stand_for_the_float_layer():
    """The point of it all: dequantized, the integer layer is the float layer up to the rounding of its parts."""
    x, w, q_b, X, W, b = random_layer(np.random.default_rng(4), (50, 64), (10, 64))
    exact = X @ W.T + b
    S_y, Z_y = affine(*extremes(exact), 8)
    q_y = linear(x, w, q_b, Target(float(S_y), int(Z_y)))
    lost = dequantize(q_y, S_y, Z_y) - exact
    assert np.sqrt(np.mean(lost**2)) < 0.02 * exact.std()
