"""Affine and symmetric mappings: against the paper's equations, ONNX's reference, and properties for all inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microbudget.errors import BrokenModel, InvalidOption
from microbudget.methods.quantize.mapping import (
    SMALLEST_SCALE,
    affine,
    dequantize,
    extremes,
    integer_range,
    quantize,
    rounding_error,
    spread,
    symmetric,
)
from microbudget.methods.quantize.plan import Mapping

BITS = st.integers(2, 8)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
TENSORS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=FINITE)
SETTINGS = settings(deadline=None, max_examples=60)


def naive_quantize(x: float, S: float, Z: int, low: int, high: int) -> int:
    """Jacob et al. eq. 1 solved for q, in exact fractions, with round half to even."""
    return min(max(round(Fraction(x) / Fraction(S)) + Z, low), high)


def test_integer_range_is_twos_complement():
    assert integer_range(8) == (-128, 127)
    assert integer_range(8, signed=False) == (0, 255)
    assert integer_range(2) == (-2, 1)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_bits_outside_2_to_8_are_refused(bits):
    with pytest.raises(InvalidOption, match="from 2 to 8"):
        integer_range(bits)


@SETTINGS
@given(low=FINITE, high=FINITE, bits=BITS, signed=st.booleans())
def test_affine_covers_its_range_and_keeps_zero_exact(low, high, bits, signed):
    low, high = min(low, high), max(low, high)
    S, Z = affine(np.float64(low), np.float64(high), bits, signed=signed)
    smallest, largest = integer_range(bits, signed=signed)
    assert S > 0
    assert smallest <= Z <= largest
    assert dequantize(quantize(np.float32([0]), S, Z, bits, signed=signed), S, Z)[0] == 0
    ends = np.float32([low, high])
    lost = np.abs(dequantize(quantize(ends, S, Z, bits, signed=signed), S, Z).astype(np.float64) - ends)
    assert np.all(lost <= float(S) * 0.5001 + 1e-38)


@SETTINGS
@given(x=TENSORS, bits=BITS, signed=st.booleans(), axis=st.sampled_from([None, 0, 1, -1]))
def test_rounding_error_is_at_most_half_a_step_and_levels_stay_in_range(x, bits, signed, axis):
    low, high = extremes(x, axis=axis)
    S, Z = affine(low, high, bits, signed=signed)
    q = quantize(x, S, Z, bits, signed=signed, axis=axis)
    smallest, largest = integer_range(bits, signed=signed)
    assert q.dtype == (np.int8 if signed else np.uint8)
    assert smallest <= q.min()
    assert q.max() <= largest
    step = spread(S, x.shape, axis=axis, group=None).astype(np.float64)
    error = np.abs(dequantize(q, S, Z, axis=axis).astype(np.float64) - x)
    # half a step, or at the ends half a step of the rounded zero point; float32 adds its own rounding
    assert np.all(error <= step * 0.5001 + np.abs(x) * 1e-6)


@SETTINGS
@given(low=FINITE, high=FINITE, signed=st.booleans())
def test_the_mapping_of_an_activation_uses_all_integers_for_its_range(low, high, signed):
    """Signed or not, the same reals: 255 steps from about the lower end, or zero, to about the upper."""
    low, high = min(low, high), max(low, high)
    m = Mapping.of_range(low, high, signed=signed)
    smallest, largest = integer_range(8, signed=signed)
    low, high = min(low, 0.0), max(high, 0.0)
    assert smallest <= m.Z <= largest
    if high - low > 255 * SMALLEST_SCALE:
        assert abs(m.S * 255 - (high - low)) <= 1e-6 * (high - low)
        assert abs(m.ends[0] - low) <= 0.501 * m.S
        assert abs(m.ends[1] - high) <= 0.501 * m.S
    if low == 0:
        assert smallest == m.Z, "a ReLU's zero is the smallest integer"
    other = Mapping.of_range(low, high, signed=not signed)
    assert other.S == m.S
    assert abs((other.Z - m.Z) - (128 if signed else -128)) <= 1  # at a tie of the rounding the last bit decides
    assert m.integer_type == (np.int8 if signed else np.uint8)


SMALL = st.floats(-(2.0**40), 2.0**40, width=32)


@SETTINGS
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=SMALL),
    ends=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    signed=st.booleans(),
)
def test_what_is_lost_is_what_rounding_and_back_loses(x, ends, signed):
    m = Mapping.of_range(float(x.min()) * ends[0], float(x.max()) * ends[1], signed=signed)
    S, Z = np.float32(m.S), np.int32(m.Z)
    back = dequantize(quantize(x, S, Z, signed=signed), S, Z)
    given_ = x.copy()
    found = rounding_error(x, m.S, m.Z, signed=signed)
    np.testing.assert_array_equal(x, given_, "the values themselves are left alone")
    slack = 2.0**-22 * max(float(np.abs(x).max()), float(np.abs(back).max()))  # one product is float32's, one float64's
    np.testing.assert_allclose(found.astype(np.float64), back.astype(np.float64) - x, atol=slack, rtol=0)


@SETTINGS
@given(x=TENSORS, bits=BITS, group=st.integers(1, 7))
def test_groups_are_mapped_like_tensors_of_their_own(x, bits, group):
    low, high = extremes(x, group=group)
    S = symmetric(np.maximum(-low, high), bits)
    q = quantize(x, S, 0, bits, group=group)
    back = dequantize(q, S, group=group)
    for g, start in enumerate(range(0, x.shape[-1], group)):
        part = np.ascontiguousarray(x[..., start : start + group])
        for index in np.ndindex(x.shape[:-1]):
            alone = symmetric(np.abs(part[index]).max(), bits)
            assert S[(*index, g)] == alone
            np.testing.assert_array_equal(q[index][start : start + group], quantize(part[index], alone, 0, bits))
            np.testing.assert_array_equal(
                back[index][start : start + group], dequantize(q[index][start : start + group], alone)
            )


@SETTINGS
@given(x=st.floats(-1024, 1024, width=32), S=st.floats(0.0078125, 10, width=32), Z=st.integers(0, 15))
def test_quantize_is_the_papers_equation(x, S, Z):
    expected = naive_quantize(float(np.float32(x) / np.float32(S)), 1.0, Z, 0, 15)  # float32's own quotient
    assert quantize(np.float32([x]), np.float32(S), np.int32(Z), 4, signed=False)[0] == expected


@SETTINGS
@given(x=TENSORS, bits=BITS)
def test_quantizing_twice_changes_nothing(x, bits):
    S = symmetric(np.abs(x).max(), bits)
    q = quantize(x, S, 0, bits)
    again = quantize(dequantize(q, S), S, 0, bits)
    np.testing.assert_array_equal(q, again)


def test_agrees_with_onnx_reference_quantizelinear():
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    values = [
        helper.make_tensor_value_info(n, t, None)
        for n, t in (("x", 1), ("s", 1), ("z", TensorProto.UINT8), ("q", TensorProto.UINT8), ("y", 1))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:3], values[3:]), opset_imports=[helper.make_opsetid("", 19)]
    )
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    S, Z = affine(*extremes(x, axis=1), 8)
    q, y = ReferenceEvaluator(model).run(None, {"x": x, "s": S, "z": Z.astype(np.uint8)})
    np.testing.assert_array_equal(quantize(x, S, Z, signed=False, axis=1), q)
    np.testing.assert_allclose(dequantize(q, S, Z, axis=1), y, rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [[0.0, 0.0], [3.0, 3.0], [-3.0, -3.0], [1e-42, -1e-42], [3e38, -3e38]],
    ids=["zeros", "one", "-one", "denormal", "huge"],
)
def test_degenerate_tensors_get_a_usable_scale(x):
    values = np.float32(x)
    S, Z = affine(*extremes(values), 8)
    back = dequantize(quantize(values, S, Z, signed=False), S, Z)
    assert np.isfinite(S)
    assert not np.less(S, np.finfo(np.float32).tiny)
    np.testing.assert_allclose(back, values, atol=float(S), rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named(bad):
    x = np.float32([1, bad])
    with pytest.raises(BrokenModel, match="NaN or infinity"):
        extremes(x)
    with pytest.raises(BrokenModel, match="NaN or infinity"):
        affine(np.float64(0), np.float64(bad), 8)


def test_quantize_refuses_nan():
    with pytest.raises(BrokenModel, match="NaN"):
        quantize(np.float32([np.nan]), np.float32(1))


def test_infinity_saturates():
    assert quantize(np.float32([np.inf, -np.inf]), np.float32(1), 0, 4).tolist() == [7, -8]
