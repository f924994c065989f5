"""Statistics against naive enumeration, direct maximization of likelihoods, SciPy and published values."""

import math
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import beta, binom, binomtest, multinomial, norm

from microbudget.judge import statistics as stats

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300)).map(lambda c: (c[0], c[1], sum(c) + 1))


@pytest.mark.parametrize(("successes", "examples"), [(0, 9), (9, 9), (3, 17), (290, 300)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_a_share_agree_with_scipy(successes, examples, level):
    test = binomtest(successes, examples)
    for ours, method in ((stats.wilson, "wilson"), (stats.clopper_pearson, "exact")):
        theirs = test.proportion_ci(level, method)
        assert ours(successes, examples, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_takes_fractions_and_nothing():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    low, high = stats.wilson(2.5, 10)
    assert stats.wilson(2, 10)[0] < low < 0.25 < high < stats.wilson(3, 10)[1]


def test_unlabelled_bound_is_one_sided():
    bound = stats.unlabelled_bound(3, 200)
    assert binom.cdf(3, 200, bound) == pytest.approx(0.05)
    assert stats.unlabelled_bound(0, 299) < 0.01 < stats.unlabelled_bound(0, 298)


def naive_score(gained, lost, examples, change):
    """Tango's statistic with the restricted likelihood maximized numerically."""

    def cost(q21):
        rest = max(1 - 2 * q21 - change, 1e-300)
        cells = ((gained, q21 + change), (lost, q21), (examples - gained - lost, rest))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -change), (1 - change) / 2
    q21 = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (gained - lost - examples * change) / math.sqrt(examples * (2 * q21 + change - change**2))


@pytest.mark.parametrize("change", [-0.3, -0.01, 0.02, 0.4])
@pytest.mark.parametrize("cell", [(5, 3, 40), (0, 4, 30), (6, 0, 25), (10, 12, 22), (100, 90, 1000)])
def test_tango_score_agrees_with_maximized_likelihood(cell, change):
    assert stats.tango_score(*cell, change) == pytest.approx(naive_score(*cell, change), rel=1e-4)


@pytest.mark.parametrize("cell", [(5, 3, 40), (10, 12, 30), (100, 90, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_tango_interval_inverts_the_naive_score(cell, level):
    z, estimate = norm.ppf(0.5 + level / 2), (cell[0] - cell[1]) / cell[2]
    low = brentq(lambda D: naive_score(*cell, D) - z, -0.95, estimate - 1e-6)
    high = brentq(lambda D: naive_score(*cell, D) + z, estimate + 1e-6, 0.95)
    assert stats.tango(*cell, level) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(
    ("cell", "level", "low", "high"),
    [
        ((28, 25, 618), 0.90, -0.0148, 0.0247),  # the R package PropCIs, scoreci.mp(25, 28, 618, 0.9)
        ((1, 7, 21), 0.95, -0.517, -0.026),  # Fagerland, Lydersen & Laake 2014, airway hyper-responsiveness
    ],
)
def test_tango_gives_published_values(cell, level, low, high):
    decimals = len(str(low).split(".")[1])
    assert tuple(round(end, decimals) for end in stats.tango(*cell, level)) == (low, high)


@pytest.mark.parametrize("examples", [1, 30, 5000])
def test_tango_at_its_edges(examples):
    z2 = norm.ppf(0.975) ** 2
    end = z2 / (examples + z2)
    assert stats.tango(0, 0, examples) == pytest.approx((-end, end), abs=1e-6)
    assert stats.tango(examples, 0, examples)[1] == 1
    assert stats.tango(0, examples, examples)[0] == -1
    assert stats.tango(0, 0, 0) == (-1, 1)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_tango_is_symmetric_contains_the_estimate_and_widens_with_the_level(cell):
    gained, lost, examples = cell
    low, high = stats.tango(gained, lost, examples)
    mirrored = stats.tango(lost, gained, examples)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high), abs=1e-6)
    assert -1 <= low <= (gained - lost) / examples <= high <= 1
    narrower = stats.tango(gained, lost, examples, 0.8)
    assert low <= narrower[0] + 1e-6
    assert narrower[1] <= high + 1e-6


@settings(max_examples=200, deadline=None)
@given(counts, st.floats(-0.3, 0.3))
def test_score_rises_with_gained_and_falls_with_lost(cell, change):
    """Barnard's condition, on which the exact test rests."""
    gained, lost, examples = cell
    score = stats.tango_score(gained, lost, examples, change)
    assert stats.tango_score(gained + 1, lost, examples, change) >= score - 1e-9
    if lost:
        assert stats.tango_score(gained, lost - 1, examples, change) >= score - 1e-9


@cache
def outcomes(examples):
    """All (gained, lost) of that many examples, (k, 2)."""
    return np.array([(b, c) for b in range(examples + 1) for c in range(examples + 1 - b)])


def probabilities(examples, gained, lost):
    cells = outcomes(examples)
    rest = examples - cells.sum(axis=1)
    return multinomial.pmf(np.column_stack([cells, rest]), examples, [gained, lost, max(0.0, 1 - gained - lost)])


def null_points(change, step=0.02):
    """(gained, lost) with a true change of at most `change`, on its edge and inside."""
    for lost in np.arange(0, 1 + 1e-9, step):
        for change_here in (change, change - 0.05, change - 0.2):
            gained = lost + change_here
            if gained >= 0 and gained + lost <= 1:
                yield gained, lost


@pytest.mark.parametrize("cell", [(0, 0, 12), (3, 0, 14), (4, 1, 20), (1, 3, 9)])
@pytest.mark.parametrize("change", [-0.3, -0.1, 0.0, 0.15])
def test_exact_p_agrees_with_enumeration(cell, change):
    """Within what Berger and Boos's bound leaves out, the largest tail over a fine grid of nuisance values."""
    gained, lost, examples = cell
    scores = stats.tango_score(*outcomes(examples).T, examples, change)
    reached = scores >= stats.tango_score(gained, lost, examples, change) - 1e-9
    low, high = stats.clopper_pearson(gained + lost, examples, 1 - 1e-6)
    tails = [
        probabilities(examples, (rate + change) / 2, (rate - change) / 2)[reached].sum()
        for rate in np.linspace(max(low, abs(change)), high, 400)
    ]
    assert stats.paired_p(*cell, change) == pytest.approx(max(tails), abs=2e-4)


@pytest.mark.parametrize("examples", [7, 12, 30])
@pytest.mark.parametrize("change", [-0.2, -0.05, 0.0, 0.1])
def test_exact_test_rejects_a_true_null_in_at_most_5_percent(examples, change):
    rejected = np.array([stats.paired_p(*cell, examples, change) <= 0.05 for cell in outcomes(examples)])
    assert rejected.any()
    for gained, lost in null_points(change):
        assert probabilities(examples, gained, lost)[rejected].sum() <= 0.05


def test_tango_alone_would_not_keep_that_promise():
    """Why the exact test exists: 268 untouched examples pass Tango's bound, though (1 - 0.01)^268 is above 5 %."""
    assert stats.tango(0, 0, 269, 0.9)[0] > -0.01
    assert 0.99**269 > 0.066
    assert stats.paired_p(0, 0, 269, -0.01) == pytest.approx(0.99**269, abs=1e-5)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(0, 14), (8, 7)])
def test_unlabelled_examples_keep_the_promise(labelled, unlabelled):
    """Enumerated, with disagreements among the unlabelled that are losses, gains, or wrong both ways."""
    change = -0.2
    rejected = {
        (b, c, x): stats.paired_p(b, c, labelled, change, (x, unlabelled)) <= 0.05
        for b, c in outcomes(labelled)
        for x in range(unlabelled + 1)
    }
    assert any(rejected.values())
    for gained, lost in null_points(change, step=0.05):
        for neither in (0.0, (1 - gained - lost) / 2):
            cells = probabilities(labelled, gained, lost)
            disagree = binom.pmf(range(unlabelled + 1), unlabelled, gained + lost + neither)
            mass = {(b, c, x): p * q for (b, c), p in zip(outcomes(labelled), cells, strict=True)
                    for x, q in enumerate(disagree)}  # fmt: skip
            assert sum(p for key, p in mass.items() if rejected[key]) <= 0.05


def test_exact_p_without_labels_is_the_binomial_tail():
    for disagreements, examples in ((0, 299), (1, 473), (4, 1200)):
        p = stats.paired_p(0, 0, 0, -0.01, (disagreements, examples))
        assert p == pytest.approx(binom.cdf(disagreements, examples, 0.01), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(counts, st.integers(0, 40), st.floats(-0.1, 0.1))
def test_an_unlabelled_disagreement_counts_no_less_than_a_loss(cell, disagreements, change):
    gained, lost, examples = cell
    p = stats.paired_p(gained, lost, examples, change, (disagreements, 40))
    assert p >= stats.paired_p(gained, lost + disagreements, examples + 40, change) - 1e-5


def test_exact_p_has_no_opinion_without_examples():
    assert stats.paired_p(0, 0, 0, -0.01) == 1
    assert stats.paired_bounds(0, 0, 0, 0.05) == (-1, 1)


def test_exact_p_tends_to_tango_in_large_samples():
    p = stats.paired_p(4000, 4100, 100_000, -0.002)
    assert p == pytest.approx(norm.sf(stats.tango_score(4000, 4100, 100_000, -0.002)), rel=0.03)


def test_exact_bounds_cover_by_enumeration():
    examples, tail = 9, 0.05
    bounds = np.array([stats.paired_bounds(*cell, examples, tail) for cell in outcomes(examples)])
    for lost in (0.0, 0.1, 0.3, 0.5):
        for gained in (0.0, 0.05, 0.2, 0.45):
            p = probabilities(examples, gained, lost)
            assert p[bounds[:, 0] > gained - lost].sum() <= tail + 1e-9
            assert p[bounds[:, 1] < gained - lost].sum() <= tail + 1e-9


@settings(max_examples=15, deadline=None)
@given(counts, st.integers(0, 30))
def test_exact_bounds_mirror_and_agree_with_the_test(cell, disagreements):
    gained, lost, examples = cell
    unlabelled = (disagreements, 30)
    low, high = stats.paired_bounds(gained, lost, examples, 0.05, unlabelled)
    mirrored = stats.paired_bounds(lost, gained, examples, 0.05, unlabelled)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=2e-5)
    assert low <= high
    assert stats.paired_p(gained, lost, examples, low, unlabelled) <= 0.05 or low == -1
    assert stats.paired_p(gained, lost, examples, low + stats.PRECISION, unlabelled) > 0.05 or low == 1


@pytest.mark.parametrize(("limit", "examples"), [(0.01, 299), (0.05, 59), (0.005, 598), (0.1, 29)])
def test_examples_to_show(limit, examples):
    assert stats.examples_to_show(limit) == examples
    assert (1 - limit) ** examples <= 0.05 < (1 - limit) ** (examples - 1)


def test_examples_to_show_no_loss_at_all_are_gained():
    assert stats.examples_to_show(0.0) == 5  # (1/2)^5 < 0.05


def test_bootstrap_of_zeros_and_ones_is_clopper_pearson():
    lost = np.array([1.0] * 3 + [0.0] * 57)
    draws = stats.paired_ratio_bootstrap(lost, np.ones(60), draws=40_000)
    assert np.quantile(draws.ratios((1, 1)), 0.95) == pytest.approx(stats.unlabelled_bound(3, 60), rel=0.01)
    assert np.quantile(draws.ratios((0, 1)), 0.05) == pytest.approx(beta.ppf(0.05, 3, 58), rel=0.03)


def test_bootstrap_without_a_difference_still_reckons_with_one():
    draws = stats.paired_ratio_bootstrap(np.zeros(299), np.ones(299), draws=40_000)
    assert np.quantile(draws.ratios((1, 1)), 0.95) == pytest.approx(1 - 0.05 ** (1 / 299), rel=0.02)


def test_bootstrap_spreads_as_the_delta_method_says():
    coin = np.random.default_rng(4)
    base = coin.lognormal(2, 0.5, 800)
    difference = base * coin.normal(0.01, 0.02, 800)
    draws = stats.paired_ratio_bootstrap(difference, base)
    ratio = difference.sum() / base.sum()
    error = (difference - ratio * base).std() / base.mean() / math.sqrt(800)
    seen = draws.ratios((0.0, 0.0))
    assert seen.mean() == pytest.approx(ratio, abs=error / 10)
    assert seen.std() == pytest.approx(error, rel=0.05)
    assert draws.ratios((0.0, 0.0), growth=4.0).std() == pytest.approx(error / 2, rel=0.05)
    assert draws.ratios((0.0, 0.0), growth=4.0).mean() == pytest.approx(ratio, abs=error / 10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 9)), min_size=1, max_size=30), st.randoms())
@example([(1, 2)], random.Random(0))
def test_bootstrap_depends_on_the_seed_but_not_on_the_order(rows, shuffler):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, other = (
        stats.paired_ratio_bootstrap(*np.array(order, float).T, draws=50, seed=3).ratios((1.0, 2.0))
        for order in (rows, shuffled)
    )
    assert (one == other).all()
    changed = stats.paired_ratio_bootstrap(*np.array(rows, float).T, draws=50, seed=4).ratios((1.0, 2.0))
    constant = all(2 * difference == base for difference, base in rows)  # as the unseen one: every draw is a half
    assert (one == 0.5).all() if constant else (one != changed).any()


def test_bootstrap_in_batches_has_every_draw():
    base = np.linspace(1, 2, 3000)
    draws = stats.paired_ratio_bootstrap(base * 0.1, base, draws=1001)
    assert draws.sums.shape == (1001, 2)
    np.testing.assert_allclose(draws.ratios((0.0, 0.0)), 0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40).filter(any), st.sampled_from([0.05, 0.5, 0.95]))
def test_weighted_quantile_is_the_quantile_over_words(sizes, share):
    words = sorted(size for size in sizes for _ in range(size))
    expected = words[math.ceil(share * len(words) - 1e-9) - 1]
    assert stats.weighted_quantile(np.array(sizes, float), share) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.integers(1, 2_000_000))
def test_examples_needed_finds_the_threshold(examples, more):
    needed = stats.examples_needed(lambda n: n >= examples + more, examples)
    if examples + more > stats.CEILING:
        assert needed is None
    else:
        assert needed is not None
        assert examples + more <= needed <= examples + more + max(1, more // 40)
