import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from microbudget.judge import intervals

sixtyfourths = st.integers(-640, 640).map(lambda number: number / 64)  # sums are exact: ties stay ties
numbers = st.lists(sixtyfourths, min_size=6, max_size=40).map(np.array)


def naive_walsh(values):
    return sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])


@settings(max_examples=60)
@given(numbers)
def test_the_estimate_is_the_median_of_the_walsh_averages(values):
    middle, low, high = intervals.shift(values)
    assert middle == pytest.approx(np.median(naive_walsh(values)))
    assert low <= middle <= high


@settings(max_examples=60)
@given(numbers, sixtyfourths)
def test_a_shift_of_the_values_shifts_the_interval(values, by):
    before, after = intervals.shift(values), intervals.shift(values + by)
    np.testing.assert_allclose(np.array(before) + by, after, atol=1e-9)


@settings(max_examples=60)
@given(numbers)
def test_the_interval_mirrors_when_the_twins_change_places(values):
    middle, low, high = intervals.shift(values)
    np.testing.assert_allclose(intervals.shift(-values), (-middle, -high, -low), atol=1e-9)


def test_the_interval_rejects_what_wilcoxons_test_rejects():
    values = np.random.default_rng(3).normal(0.1, 1, 30)  # independent: nothing is inflated
    _, low, high = intervals.shift(values)
    if intervals.inflation(values) == 1:
        for centre in (low - 0.02, high + 0.02):
            assert scipy_stats.wilcoxon(values - centre, method="asymptotic").pvalue < 0.06
        for centre in (low + 0.02, high - 0.02):
            assert scipy_stats.wilcoxon(values - centre, method="asymptotic").pvalue > 0.04


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "bimodal"])
@pytest.mark.parametrize("n", [8, 24, 80])
def test_it_covers_the_truth_in_95_of_100(noise, n):
    coin = np.random.default_rng(11)
    draw = {
        "normal": lambda: coin.normal(size=n),
        "heavy tails": lambda: coin.standard_t(2, n),
        "bimodal": lambda: coin.choice([-1.0, 0.0, 0.0, 1.0], n) + 0.01 * coin.normal(size=n),
    }[noise]
    covered = [low <= 0 <= high for _, low, high in (intervals.shift(draw()) for _ in range(400))]
    assert 0.92 <= np.mean(covered) <= 0.995


def autoregressive(coin, n, r):
    noise, series = coin.normal(size=n + 50), np.zeros(n + 50)
    for i in range(1, n + 50):
        series[i] = r * series[i - 1] + noise[i]
    return series[50:]


def test_neighbours_that_are_alike_widen_the_interval_of_the_ratio():
    coin = np.random.default_rng(5)
    covered = [
        low <= 0 <= high for _, low, high in (intervals.shift(autoregressive(coin, 80, 0.4)) for _ in range(400))
    ]
    assert np.mean(covered) > 0.88  # without inflation 0.81


def test_inflation_of_independent_values_is_near_one():
    coin = np.random.default_rng(6)
    assert np.median([intervals.inflation(coin.normal(size=80)) for _ in range(200)]) < 1.15


def test_too_few_pairs_show_nothing():
    middle, low, high = intervals.shift(np.array([0.1, 0.2, 0.3]))
    assert middle == pytest.approx(0.2)
    assert (low, high) == (-math.inf, math.inf)
    assert math.isnan(intervals.shift(np.array([]))[0])


def test_equal_differences_give_a_point():
    assert intervals.shift(np.full(20, 0.5)) == (0.5, 0.5, 0.5)


def test_the_median_of_independent_blocks_covers_and_of_alike_ones_too():
    coin = np.random.default_rng(8)
    for series in (lambda: coin.normal(size=60), lambda: autoregressive(coin, 60, 0.5)):
        covered = [low <= 0 <= high for _, low, high in (intervals.median(series()) for _ in range(300))]
        assert np.mean(covered) > 0.90


def test_independent_length():
    coin = np.random.default_rng(9)
    assert intervals.independent(coin.normal(size=200)) > 150
    assert intervals.independent(autoregressive(coin, 200, 0.8)) < 60
    assert intervals.independent(np.ones(10)) == 10


def test_very_long_series_are_thinned_and_lose_nothing():
    series = np.random.default_rng(10).normal(0.3, 1, 5500)
    middle, low, high = intervals.shift(series)
    assert low < 0.3 < high
    assert middle == pytest.approx(series.mean(), abs=0.01)
    normal = 2 * 1.96 / np.sqrt(5500)
    assert 0.9 * normal < high - low < 1.8 * normal  # inflation may widen it


def openings_with_effects(coin, count, each, effect, noise=lambda coin, n: coin.normal(size=n)):
    """Differences of `count` openings, each with an effect of its own, and which opening each is from."""
    openings = np.repeat(np.arange(count), each)
    return noise(coin, count * each) + effect * coin.normal(size=count)[openings], openings


@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [5, 8])
def test_what_differs_between_openings_is_in_the_interval(count, effect):
    coin = np.random.default_rng(12)
    covered, alone = [], []
    for _ in range(300):
        differences, openings = openings_with_effects(coin, count, 64 // count, effect)
        _, low, high = intervals.shift(differences, openings=openings)
        covered.append(low <= 0 <= high)
        _, low, high = intervals.shift(coin.permutation(differences))  # their order tells of no openings
        alone.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.93
    if effect == 1:
        assert np.mean(alone) < 0.7


def test_the_mean_square_across_openings_is_that_of_an_analysis_of_variance():
    coin = np.random.default_rng(13)
    sizes = [7, 9, 12, 8, 10]
    parts = [coin.normal(place, 0.1, size) for place, size in enumerate(sizes)]
    together = np.concatenate(parts)
    assert np.abs(together - np.median(together)).max() < 3 * 1.4826 * np.median(np.abs(together - np.median(together)))
    inside = sum(((part - part.mean()) ** 2).sum() for part in parts) / (sum(sizes) - 5)
    across = scipy_stats.f_oneway(*parts).statistic * inside
    widened = (scipy_stats.t.ppf(0.975, 4) / scipy_stats.norm.ppf(0.975)) ** 2
    found = intervals.between(together, np.repeat(np.arange(5), sizes))
    assert found == pytest.approx(across / together.var(ddof=1) * widened)


def test_openings_that_are_alike_widen_nothing_below_one_and_one_opening_is_as_before():
    coin = np.random.default_rng(14)
    values = coin.normal(size=40)
    assert intervals.between(np.tile(values[:5], 8), np.repeat(np.arange(8), 5)) == 1
    assert intervals.shift(values, openings=np.zeros(40, int)) == intervals.shift(values)
    assert intervals.between(np.ones(12), np.repeat(np.arange(6), 2)) == 1


def test_very_long_series_are_thinned_inside_their_openings():
    differences, openings = openings_with_effects(np.random.default_rng(15), 8, 700, 0.5)
    middle, low, high = intervals.shift(differences, openings=openings)
    whole = np.array([differences[openings == number].mean() for number in range(8)])
    half = scipy_stats.t.ppf(0.975, 7) * whole.std(ddof=1) / np.sqrt(8)
    assert middle == pytest.approx(whole.mean(), abs=0.1)
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)
