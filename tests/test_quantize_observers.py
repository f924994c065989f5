"""Observers: one pass, constant memory, independent of order and batching; ranges against brute force."""

from __future__ import annotations

import math
import random as random_module

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microbudget.errors import BadData, BrokenModel
from microbudget.methods.quantize.mapping import affine, dequantize, quantize
from microbudget.methods.quantize.observers import (
    BINS,
    OBSERVERS,
    Histogram,
    MinMax,
    divergence,
    entropy_range,
    least_squares_range,
    percentile_range,
    range_by_name,
    squared_error,
)

SETTINGS = settings(deadline=None, max_examples=60)
VALUES = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**60), 2.0**60, width=32))


def histogram_of(*batches) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(np.asarray(batch, np.float32))
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return (a.low, a.high, a.count, a.zeros, a.exponent) == (b.low, b.high, b.count, b.zeros, b.exponent) and bool(
        np.array_equal(a.counts, b.counts)
    )


@SETTINGS
@given(VALUES, st.randoms(use_true_random=False), st.integers(1, 5))
@example(np.array([0.25, 0.0], np.float32), random_module.Random(0), 2)  # a batch of zeros alone
@example(np.array([0.0, 0.25], np.float32), random_module.Random(0), 2)
def test_order_and_batches_do_not_matter(values, random, parts):
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert same(histogram_of(values), histogram_of(*np.array_split(shuffled, parts)))


def naive_counts(values: np.ndarray, width: float) -> np.ndarray:
    """Values by the bin that they fall into, 0 apart."""
    counts = np.zeros(2 * BINS, np.int64)
    for value in values.tolist():
        if value != 0:
            counts[math.floor(value / width) + BINS] += 1
    return counts


@SETTINGS
@given(VALUES)
@example(np.array([2.0**35, -(2.0**-126)], np.float32))  # their quotient is no float32
def test_counts_are_the_naive_ones(values):
    histogram = histogram_of(values)
    np.testing.assert_array_equal(histogram.counts, naive_counts(values, histogram.width))
    assert histogram.counts.sum() + histogram.zeros == len(values)


@SETTINGS
@given(VALUES, st.integers(1, 9), st.integers(1, 5))
def test_every_nth_value_of_a_batch_is_counted_and_the_extremes_are_of_all(values, every, parts):
    thinned, batches = Histogram(), np.array_split(values, parts)
    for batch in batches:
        thinned.update(batch, every=every)
    assert (thinned.low, thinned.high, thinned.count) == (values.min(), values.max(), len(values))
    taken = np.concatenate([batch[::every] for batch in batches])
    np.testing.assert_array_equal(thinned.counts, naive_counts(taken, thinned.width))
    assert thinned.counts.sum() + thinned.zeros == len(taken)


@SETTINGS
@given(VALUES)
def test_bins_are_as_fine_as_promised(values):
    histogram = histogram_of(values)
    largest = float(np.abs(values).max())
    assert largest < BINS * histogram.width
    if largest > 1e-30:
        assert BINS * histogram.width <= 2 * largest


@SETTINGS
@given(VALUES, st.sampled_from(OBSERVERS), st.integers(2, 8), st.booleans())
def test_every_range_lies_within_what_was_seen(values, name, bits, signed):
    histogram = histogram_of(values)
    low, high = range_by_name(name, histogram, bits, signed=signed)
    assert histogram.low <= low <= high <= histogram.high


def test_memory_does_not_grow_with_batches():
    histogram = Histogram()
    for seed in range(50):
        histogram.update(np.random.default_rng(seed).normal(size=1000).astype(np.float32) * np.float32(1.5) ** seed)
    assert histogram.counts.shape == (2 * BINS,)
    assert histogram.count == 50_000


@pytest.mark.parametrize("observer", [MinMax, Histogram])
def test_nothing_seen_is_an_error(observer):
    with pytest.raises(BadData, match="at least one batch"):
        observer().range()
    empty = observer()
    empty.update(np.zeros((0, 3), np.float32))
    with pytest.raises(BadData, match="at least one batch"):
        empty.range()


@pytest.mark.parametrize("observer", [MinMax, Histogram])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_activations_are_an_error(observer, bad):
    with pytest.raises(BrokenModel, match="NaN or infinite"):
        observer().update(np.float32([0, bad]))


@SETTINGS
@given(VALUES, st.floats(50, 100))
def test_percentile_is_numpys_up_to_a_bin(values, percent):
    histogram = histogram_of(values)
    low, high = percentile_range(histogram, percent)
    below = np.sort(values)  # between the neighbouring order statistics
    rank = percent / 100 * len(values)
    at = [min(max(math.floor(rank) - 1, 0), len(values) - 1), min(math.ceil(rank), len(values) - 1)]
    assert below[at[0]] - histogram.width <= high <= below[at[1]] + histogram.width
    assert low <= high


def test_percentile_drops_an_outlier_that_min_max_keeps():
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    values[0] = 1000
    histogram = histogram_of(values)
    assert histogram.range()[1] == 1000
    assert percentile_range(histogram)[1] < 5


@SETTINGS
@given(VALUES, st.integers(2, 8), st.booleans())
def test_squared_error_counts_what_rounding_really_loses(values, bits, signed):
    histogram = histogram_of(values)
    low, high = histogram.range()
    S, Z = affine(np.float64(low), np.float64(high), bits, signed=signed)
    exact = values.astype(np.float64)
    lost = dequantize(quantize(values, S, Z, bits, signed=signed), S, Z) - exact
    # each value was moved by at most half a bin; so does its error, up to a step at a rounding boundary
    slack = np.sum(2 * (float(S) + histogram.width) * histogram.width + 0 * exact) + float(S) ** 2 * len(values) / 4
    assert abs(squared_error(histogram, low, high, bits, signed=signed) - np.sum(lost**2)) <= slack


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy", "uniform"])
def test_least_squares_is_close_to_brute_force(bits, shape):
    rng = np.random.default_rng(bits)
    values = {
        "normal": lambda: rng.normal(size=20_000),
        "relu": lambda: np.maximum(rng.normal(size=20_000), 0),
        "heavy": lambda: rng.standard_t(2.5, size=20_000),
        "uniform": lambda: rng.uniform(-1, 3, 20_000),
    }[shape]().astype(np.float32)
    histogram = histogram_of(values)
    low, high = histogram.range()
    found = squared_error(histogram, *least_squares_range(histogram, bits), bits)
    grid = np.linspace(0.02, 1, 50)
    brute = min(squared_error(histogram, low * f, high * g, bits) for f in grid for g in grid)
    assert found <= squared_error(histogram, low, high, bits)
    assert found <= brute * 1.05


def naive_divergence(histogram: Histogram, low: float, high: float, bits: int) -> float:
    """KL(P || Q) with loops: P with outliers in its edge bins, Q each integer's inside counts spread over its bins."""
    S, Z = affine(np.float64(low), np.float64(high), bits)
    kept = [(x, int(n)) for x, n in zip(histogram.centres, histogram.counts, strict=True) if n]
    inside = [(x, n) for x, n in kept if low <= x <= high]
    P = [float(n) for _, n in inside]
    P[0] += sum(n for x, n in kept if x < inside[0][0])
    P[-1] += sum(n for x, n in kept if x > inside[-1][0])
    levels = [int(quantize(np.float32([x]), S, Z, bits, signed=False)[0]) for x, _ in inside]
    Q = []
    for level in levels:
        members = [n for (_, n), other in zip(inside, levels, strict=True) if other == level]
        Q.append(sum(members) / len(members))
    return sum(p / sum(P) * math.log(p / sum(P) / (q / sum(Q))) for p, q in zip(P, Q, strict=True))


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.2])
def test_divergence_is_the_naive_one(bits, fraction):
    values = np.random.default_rng(0).standard_t(3, size=400).astype(np.float32)
    histogram = histogram_of(values)
    low, high = histogram.low * fraction, histogram.high * fraction
    assert divergence(histogram, low, high, bits) == pytest.approx(naive_divergence(histogram, low, high, bits))


def test_entropy_is_no_worse_than_min_max_and_clips_outliers():
    values = np.random.default_rng(1).normal(size=50_000).astype(np.float32)
    values[:3] = 80
    histogram = histogram_of(values)
    low, high = entropy_range(histogram, 4)
    assert divergence(histogram, low, high, 4) <= divergence(histogram, *histogram.range(), 4)
    assert high < 20


def test_constant_and_zero_tensors_have_ranges():
    for values in ([0.0, 0.0], [2.5, 2.5], [-1e-42]):
        histogram = histogram_of(values)
        for name in OBSERVERS:
            low, high = range_by_name(name, histogram, 8, signed=False)
            S, Z = affine(np.float64(low), np.float64(high), 8)
            back = dequantize(quantize(np.float32(values), S, Z, signed=False), S, Z)
            np.testing.assert_allclose(back, values, atol=float(S), rtol=0)
