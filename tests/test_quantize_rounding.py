"""Scales, moments, error-compensated rounding and bias correction: against the papers' naive equations."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.methods.quantize import moments as moments_module
from microbudget.methods.quantize.bias import corrected_bias
from microbudget.methods.quantize.mapping import integer_range
from microbudget.methods.quantize.moments import Moments, damped, output_error
from microbudget.methods.quantize.patches import Geometry, patches, sampled_patches
from microbudget.methods.quantize.rounding import best_rounding, compensating_weights, descended, error_compensated
from microbudget.methods.quantize.scales import least_squares_scale, min_max_scale, refitted_scale, rounded

SETTINGS = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**31)


def problem(seed: int, outputs: int = 4, K: int = 7):
    """Random weights and the covariance of correlated inputs."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(K, K)) * 10 ** rng.uniform(-1, 1, K)
    return rng.normal(size=(outputs, K)), mixing @ mixing.T / K


def naive_gptq(W, H, S, bits, damping):
    """Algorithm 1 of Frantar et al. with blocks of one column and the inverse recomputed at every step (eq. 2)."""
    low, high = integer_range(bits)
    order = sorted(range(len(H)), key=lambda i: -H[i, i])
    regular, W = damped(H, damping), W.copy()
    Q, left = np.zeros_like(W), list(order)
    while left:
        i = left[0]
        inverse = np.linalg.inv(regular[np.ix_(left, left)])
        Q[:, i] = np.clip(np.rint(W[:, i] / S), low, high)
        error = (W[:, i] - Q[:, i] * S) / inverse[0, 0]
        for place, j in enumerate(left):
            W[:, j] -= error * inverse[0, place]
        left = left[1:]
    return Q


@SETTINGS
@given(SEEDS, st.integers(2, 4))
def test_gptq_is_the_papers_naive_algorithm(seed, bits):
    W, H = problem(seed)
    S = min_max_scale(W, bits)
    np.testing.assert_array_equal(error_compensated(W, H, S, bits), naive_gptq(W, H, S, bits, 0.01))


def test_a_stack_of_groups_is_each_group_alone():
    parts = [problem(seed) for seed in range(3)]
    W, H = np.stack([W for W, _ in parts]), np.stack([H for _, H in parts])
    Q, S = best_rounding(W, H, 3)
    shifted = compensating_weights(W, H, H[::-1])
    for g in range(3):
        alone, alone_S = best_rounding(W[g], H[g], 3)
        np.testing.assert_array_equal(Q[g], alone)
        np.testing.assert_array_equal(S[g], alone_S)
        np.testing.assert_allclose(shifted[g], compensating_weights(W[g], H[g], H[2 - g]))


def test_rounds_of_refitting_and_descent_only_help():
    for seed in range(10):
        W, H = problem(seed, outputs=6, K=12)
        regular = damped(H, 0.01)
        losses = []
        for rounds in range(3):
            Q, S = best_rounding(W, H, 3, rounds=rounds)
            losses.append(output_error(W, Q * S[:, None], regular))
        assert np.all(losses[1] <= losses[0] * (1 + 1e-6))
        assert np.all(losses[2] <= losses[1] * (1 + 1e-6))


def test_gptq_in_blocks_is_gptq(monkeypatch):
    from microbudget.methods.quantize import rounding

    W, H = problem(3, outputs=6, K=30)
    S = min_max_scale(W, 4)
    whole = error_compensated(W, H, S, 4)
    monkeypatch.setattr(rounding, "BLOCK", 7)
    np.testing.assert_array_equal(error_compensated(W, H, S, 4), whole)


@SETTINGS
@given(SEEDS, st.integers(2, 8))
def test_integers_stay_in_range(seed, bits):
    W, H = problem(seed)
    low, high = integer_range(bits)
    Q = error_compensated(W, H, least_squares_scale(W, bits, H), bits)
    Q = descended(W, Q, H, min_max_scale(W, bits), bits)
    assert low <= Q.min()
    assert Q.max() <= high
    assert np.array_equal(Q, np.rint(Q))


def test_compensation_beats_round_to_nearest_on_the_output():
    gains = []
    for seed in range(20):
        W, H = problem(seed, outputs=8, K=24)
        S = min_max_scale(W, 3)
        nearest = output_error(W, rounded(W, S, 3) * S[:, None], H).sum()
        gains.append(output_error(W, error_compensated(W, H, S, 3) * S[:, None], H).sum() / nearest)
    assert np.median(gains) < 0.6


@SETTINGS
@given(SEEDS, st.integers(2, 4))
def test_descent_never_makes_it_worse_and_ends_where_no_single_step_helps(seed, bits):
    W, H = problem(seed, outputs=2, K=5)
    S = least_squares_scale(W, bits)
    start = rounded(W, S, bits)
    Q = descended(W, start, H, S, bits, sweeps=100)
    before, after = output_error(W, start * S[:, None], H), output_error(W, Q * S[:, None], H)
    assert np.all(after <= before * (1 + 1e-9))
    low, high = integer_range(bits)
    for o, i in np.ndindex(*Q.shape):
        for value in range(low, high + 1):
            moved = Q.copy()
            moved[o, i] = value
            assert output_error(W, moved * S[:, None], H)[o] >= after[o] * (1 - 1e-9) - 1e-12


def test_descent_from_gptq_is_near_the_best_of_all_integers():
    W, H = problem(11, outputs=3, K=5)
    S = least_squares_scale(W, 2, H)
    best = np.full(3, np.inf)
    for q in itertools.product(range(-2, 2), repeat=5):
        best = np.minimum(best, output_error(W, np.array([q] * 3) * S[:, None], H))
    Q = descended(W, error_compensated(W, H, S, 2), H, S, 2)
    assert np.all(output_error(W, Q * S[:, None], H) <= 2 * best + 1e-12)


def test_dead_inputs_do_not_break_anything():
    W, H = problem(0)
    H[:, 2] = H[2, :] = 0
    for moments in (H, np.zeros_like(H)):
        Q = error_compensated(W, moments, min_max_scale(W, 4), 4)
        assert np.isfinite(descended(W, Q, moments, min_max_scale(W, 4), 4)).all()
        assert np.isfinite(compensating_weights(W, moments, moments)).all()


@SETTINGS
@given(SEEDS)
def test_compensating_weights_are_the_ridge_solution(seed):
    rng = np.random.default_rng(seed)
    W, x = rng.normal(size=(3, 5)), rng.normal(size=(200, 5))
    y = x + 0.3 * rng.normal(size=x.shape)
    H, C = y.T @ y / 200, x.T @ y / 200
    found = compensating_weights(W, H, C, damping=0.05)
    level = 0.05 * np.mean(np.diag(H))
    # the same as least squares with rows that pull towards W
    stacked = np.concatenate([y / np.sqrt(200), np.sqrt(level) * np.eye(5)])
    aims = np.concatenate([x @ W.T / np.sqrt(200), np.sqrt(level) * W.T])
    np.testing.assert_allclose(found, np.linalg.lstsq(stacked, aims, rcond=None)[0].T, atol=1e-8)


def test_compensating_weights_are_the_weights_where_inputs_agree():
    W, H = problem(5)
    np.testing.assert_allclose(compensating_weights(W, H, H), W, atol=1e-9)


def test_an_input_that_rounding_has_silenced_gets_no_huge_weights():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 1, 1)).astype(np.float32)
    y = np.where(np.arange(1000)[:, None, None] == 7, np.float32(0.001) * x, np.float32(6))  # a ReLU6 at its end
    moments = Moments(1, 1)
    moments.update(x, y)
    found = compensating_weights(np.ones((1, 1, 1)), moments.own, moments.cross, moments.float_variance)
    assert abs(found.item()) < 6  # the ridge solution without the float input's power: tens to thousands


@SETTINGS
@given(SEEDS, st.floats(1e-4, 1))
def test_compensating_weights_grow_at_most_tenfold_however_quiet_the_input(seed, loudness):
    x = np.random.default_rng(seed).normal(size=(300, 1, 3)).astype(np.float32)
    moments = Moments(1, 3)
    moments.update(x, np.float32(loudness) * x)
    W = np.ones((1, 2, 3))
    found = compensating_weights(W, moments.own, moments.cross, moments.float_variance)
    assert np.abs(found).max() < 10


@pytest.mark.parametrize("value", [6.0, 0.1, 1e-3, 12345.678])
def test_an_input_that_never_changes_has_a_variance_of_exactly_zero(value):
    rows = np.random.default_rng(0).normal(size=(500, 1, 3)).astype(np.float32)
    rows[:, :, 1] = value
    moments = Moments(1, 3)
    for part in np.array_split(rows, 7):
        moments.update(part, part.copy())
    assert moments.own[0, 1, 1] == moments.cross[0, 1, 1] == moments.float_variance[0, 1] == 0
    assert moments.own[0, 0, 0] > 0.5
    np.testing.assert_allclose(moments.mean[0, 1], value, rtol=1e-6)


@SETTINGS
@given(SEEDS, st.integers(2, 8))
def test_least_squares_scale_is_the_best_of_its_candidates_and_beats_min_max(seed, bits):
    W, H = problem(seed)
    for moments in (None, H):
        E = np.eye(W.shape[1]) if moments is None else moments
        found = output_error(W, (S := least_squares_scale(W, bits, moments))[:, None] * rounded(W, S, bits), E)
        widest = min_max_scale(W, bits)
        for fraction in (1.025, 1.0, 0.8) if bits > 6 else (1.05, 1.0, 0.8, 0.5, 0.3):
            S = (widest * fraction).astype(np.float32).astype(np.float64)
            assert np.all(found <= output_error(W, S[:, None] * rounded(W, S, bits), E) * (1 + 1e-9) + 1e-12)


@SETTINGS
@given(SEEDS)
def test_refitted_scale_is_the_minimum_over_scales(seed):
    W, H = problem(seed)
    S = min_max_scale(W, 4)
    Q = rounded(W, S, 4)
    fitted = refitted_scale(W, Q, H, S)
    least = output_error(W, Q * fitted[:, None], H)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        assert np.all(least <= output_error(W, Q * (fitted * factor)[:, None], H) * (1 + 1e-6) + 1e-12)


def test_refitted_scale_of_zero_integers_is_unchanged():
    W, H = problem(0)
    assert refitted_scale(W, np.zeros_like(W), H, np.full(4, 0.5)).tolist() == [0.5] * 4


def test_scales_of_zero_and_denormal_weights_are_usable():
    W = np.array([[0.0, 0.0], [1e-42, 0.0], [1e-300, -1e-300]])
    for S in (
        min_max_scale(W, 4),
        least_squares_scale(W, 4),
        refitted_scale(W, rounded(W, np.ones(3), 4), np.eye(2), np.ones(3)),
    ):
        assert not np.less(S, np.finfo(np.float32).tiny).any()


def given_rows(seed, groups, alike):
    """Rows of two models; of the first eight, both have the same if `alike`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 2, size=(24, groups, 4)).astype(np.float32)
    y = (x + rng.normal(size=x.shape)).astype(np.float32)
    if alike:
        y[:8] = x[:8]
    return x, y


@SETTINGS
@given(SEEDS, st.integers(1, 3), st.integers(1, 8), st.integers(0, 700), st.booleans(), st.booleans())
def test_moments_are_the_naive_covariances_however_batched(seed, groups, parts, together, alike, wide):
    x, y = given_rows(seed, groups, alike)
    moments = Moments(groups, 4)
    with mock.patch.object(moments_module, "TOGETHER_BYTES", together):  # from each alone to all rows at once
        for a, b in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
            own = a if np.array_equal(a, b) else b
            moments.update(a, own.astype(np.float64) if wide and own is not a else own)
            own[...] = 0  # the caller may use the memory again
    x, y = given_rows(seed, groups, alike)
    assert moments.rows == 24
    for g in range(groups):
        joint = np.cov(x[:, g].T.astype(float), y[:, g].T.astype(float), bias=True)
        np.testing.assert_allclose(moments.own[g], joint[4:, 4:], atol=1e-4)
        np.testing.assert_allclose(moments.cross[g], joint[:4, 4:], atol=1e-4)
    np.testing.assert_allclose(moments.mean, y.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.float_mean, x.mean(axis=0), atol=1e-5)


def test_output_error_is_the_variance_of_the_lost_output():
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(3, 5)), rng.normal(size=(100, 5))
    W_q = np.rint(W * 3) / 3
    moments = Moments(1, 5)
    moments.update(x[:, None], x[:, None])
    lost = x @ (W_q - W).T
    np.testing.assert_allclose(output_error(W, W_q, moments.own[0]), lost.var(axis=0), rtol=1e-4)


def test_corrected_bias_gives_back_the_mean_output():
    rng = np.random.default_rng(0)
    W, b, x = rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(2, 1, size=(100, 5))
    W_q, x_q = np.rint(W), np.rint(x)
    shifted = corrected_bias(b, W, W_q, x.mean(axis=0), x_q.mean(axis=0))
    np.testing.assert_allclose((x_q @ W_q.T + shifted).mean(axis=0), (x @ W.T + b).mean(axis=0))


def naive_patches(x, kernel, stride, pad, groups):
    rows = []
    for b in range(len(x)):
        padded = np.pad(x[b], ((0, 0), (pad, pad), (pad, pad)))
        for i in range(0, padded.shape[1] - kernel + 1, stride):
            for j in range(0, padded.shape[2] - kernel + 1, stride):
                rows.append(padded[:, i : i + kernel, j : j + kernel].reshape(groups, -1))
    return np.array(rows)


@pytest.mark.parametrize(("stride", "pad", "groups"), [(1, 1, 1), (2, 0, 2), (2, 1, 4), (3, 2, 1)])
def test_patches_are_the_naive_ones(stride, pad, groups):
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 7))
    geometry = Geometry.plain((3, 3), stride=stride, pad=pad, groups=groups)
    naive = naive_patches(x, 3, stride, pad, groups)
    np.testing.assert_array_equal(patches(x, geometry).reshape(naive.shape), naive)


@SETTINGS
@given(SEEDS, st.integers(1, 3), st.sampled_from([1, 2, 4]), st.data())
def test_sampled_patches_are_rows_of_all_patches_in_their_order(seed, axes, groups, data):
    sides = st.lists(st.integers(0, 2), min_size=axes, max_size=axes)
    drawn = [tuple(data.draw(sides)) for _ in range(5)]
    kernel, strides, dilations = (tuple(n + 1 for n in one) for one in drawn[:3])
    geometry = Geometry(kernel, strides, dilations, drawn[3], drawn[4], groups)
    x = np.random.default_rng(seed).normal(size=(2, 4, *(range(9, 9 - axes, -1)))).astype(np.float32)
    padding = data.draw(st.sampled_from([0.0, -3.5]))
    every = patches(x, geometry, padding)
    every = every.reshape(-1, *every.shape[-2:])
    limit = data.draw(st.integers(1, len(every)))
    found = sampled_patches(x, geometry, limit, np.random.default_rng(seed), padding)
    chosen = np.sort(np.random.default_rng(seed).choice(len(every), limit, replace=False))
    np.testing.assert_array_equal(found, every[chosen] if limit < len(every) else every)


def test_sampled_patches_are_patches_at_the_same_places_for_the_same_seed():
    x = np.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    geometry = Geometry.plain((3, 3), pad=1)
    every = {row.tobytes() for row in patches(x, geometry).reshape(-1, 27)}
    first = sampled_patches(x, geometry, 20, np.random.default_rng(1))
    assert first.shape == (20, 1, 27)
    assert len({row.tobytes() for row in first} & every) == 20
    np.testing.assert_array_equal(
        sampled_patches(x + 1, geometry, 20, np.random.default_rng(1))[:, 0, 13] - 1, first[:, 0, 13]
    )
    assert sampled_patches(x, geometry, 10**6, np.random.default_rng(1)).shape == (128, 1, 27)


def test_patches_of_one_dimension():
    x = np.arange(12.0).reshape(1, 2, 6)
    rows = patches(x, Geometry.plain((3,), stride=2))
    np.testing.assert_array_equal(rows[0, :, 0], [[0, 1, 2, 6, 7, 8], [2, 3, 4, 8, 9, 10]])
