"""Packing: every width there and back, sizes, and the layout of ONNX's own narrow types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.methods.quantize.mapping import integer_range
from microbudget.methods.quantize.packing import FIELDS, pack, packed_size, split, unpack
from microbudget.methods.quantize.plan import Plan, Weights
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.weightonly import blobs
from microbudget.methods.quantize.write import write
from toy_networks import Net, run


@st.composite
def integers(draw):
    bits, signed = draw(st.integers(2, 8)), draw(st.booleans())
    low, high = integer_range(bits, signed=signed)
    values = draw(st.lists(st.integers(low, high), max_size=70))
    return np.array(values, np.int8 if signed else np.uint8), bits, signed


@settings(max_examples=300)
@given(integers())
def test_unpack_inverts_pack(case):
    q, bits, signed = case
    packed = pack(q, bits)
    assert packed.dtype == np.uint8
    assert packed.size == packed_size(q.size, bits)
    back = unpack(packed, bits, q.size, signed=signed)
    assert back.dtype == q.dtype
    np.testing.assert_array_equal(back, q)


@settings(max_examples=100)
@given(integers())
def test_layout_is_the_naive_one_bit_at_a_time(case):
    q, bits, _ = case
    codes, low = [int(value) & (2**bits - 1) for value in q], 0
    for width, plane in zip(FIELDS[bits], split(q, bits), strict=True):
        stream = [(code >> low + i) & 1 for code in codes for i in range(width)]
        stream += [0] * (-len(stream) % 8)
        naive = [sum(bit << i for i, bit in enumerate(stream[at : at + 8])) for at in range(0, len(stream), 8)]
        assert plane.tolist() == naive
        low += width


def test_sizes_are_exact_where_bits_divide():
    assert [packed_size(64, bits) for bits in (2, 3, 4, 8)] == [16, 24, 32, 64]


@pytest.mark.parametrize(("bits", "kind"), [(4, "INT4"), (4, "UINT4"), (2, "INT2")])
def test_4_and_2_bits_lie_as_in_onnx(bits, kind):
    from onnx import TensorProto, helper, numpy_helper

    if not hasattr(TensorProto, kind):
        pytest.skip(f"this onnx has no {kind}")
    signed = kind.startswith("I")
    low, high = integer_range(bits, signed=signed)
    q = np.random.default_rng(0).integers(low, high + 1, 13).astype(np.int8 if signed else np.uint8)
    tensor = helper.make_tensor("t", getattr(TensorProto, kind), q.shape, pack(q, bits).tobytes(), raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int64), q)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"-4\.\.3"):
        pack(np.array([4], np.int8), 3)


def test_wrong_count_is_refused():
    with pytest.raises(ValueError, match="take 2 bytes, not 1"):
        unpack(np.zeros(1, np.uint8), 4, 4)


KERNELS = (2, 4, 8)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    outputs=st.integers(1, 5),
    K=st.integers(1, 100),
    bits=st.sampled_from(KERNELS),
    group=st.sampled_from([16, 32, 64, 128]),
)
def test_blobs_are_the_naive_ones(seed, outputs, K, bits, group):
    """Value by value: offset binary, lowest bits first, a group's bytes together, the last group padded with zero."""
    half = 1 << (bits - 1)
    q = np.random.default_rng(seed).integers(-half, half, (outputs, K)).astype(np.int8)
    found = blobs(q, bits, group)
    assert found.shape == (outputs, -(-K // group), group * bits // 8)
    per_byte = 8 // bits
    for row in range(outputs):
        for k in range(found.shape[1] * group):
            byte = int(found[row, k // group, k % group // per_byte])
            value = (byte >> (bits * (k % per_byte))) % (1 << bits) - half
            assert value == (q[row, k] if k < K else 0)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    outputs=st.integers(1, 9),
    K=st.integers(1, 100),
    bits=st.sampled_from(KERNELS),
    group=st.sampled_from([16, 32, 64]),
)
def test_the_kernel_reads_blobs_of_any_length(seed, outputs, K, bits, group):
    random, half = np.random.default_rng(seed), 1 << (bits - 1)
    net = Net()
    graph = prepared(net.model(net.matmul("x", K, outputs, bias=False), ["b", K]))
    q = random.integers(-half, half, (K, outputs)).astype(np.int8)
    S = random.uniform(0.5, 2, (outputs, -(-K // group))).astype(np.float32)
    (layer,) = graph.layers
    plan = Plan({layer.name: "weights"}, weights={layer.name: Weights(q, S, bits, group)})
    expected = q * np.repeat(S, group, axis=1)[:, :K].T
    found = run(write(graph, plan), np.eye(K, dtype=np.float32))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * max(np.abs(expected).max(), 1))
