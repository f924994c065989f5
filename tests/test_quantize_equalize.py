"""Batch-norm folding and cross-layer equalization: the function stays, the ranges meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.methods.quantize.equalize import equalized, equalizing_factors, fold_batch_norm
from microbudget.methods.quantize.patches import Geometry, patches

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


@settings(deadline=None, max_examples=40)
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
