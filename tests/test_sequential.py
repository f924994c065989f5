"""Looks: decisions that hold however often one looks, against naive products and integrals, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from microbudget.errors import BadData, BrokenModel, InvalidOption
from microbudget.judge import sequential
from microbudget.judge.evidence import Differences
from microbudget.judge.sequential import decide, look
from microbudget.task import Scores
from microbudget.units import Drop

ONE_POINT, TWO_PERCENT = Drop(0.01), Drop(0.02, relative=True)


def answers(gained, lost, examples):
    """Scores of right and wrong answers; so many are right only in the candidate, or only in the reference."""
    before, after = np.ones(examples), np.ones(examples)
    before[:gained] = 0
    after[gained : gained + lost] = 0
    return [Scores("accuracy", each, np.ones(examples)) for each in (before, after)]


def passages(changes, seed=0):
    """Scores of bits per byte whose passages change so much, relative to the reference."""
    bits = 1000 * np.random.default_rng(seed).lognormal(0.8, 0.35, len(changes))
    sizes = np.full(len(changes), 1000.0)
    return [Scores("bits per byte", each, sizes, higher_is_better=False) for each in (bits, bits * (1 + changes))]


def recordings(words, before, after):
    return [Scores("wer", np.array(each, float), np.array(words, float), False) for each in (before, after)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 50), st.sampled_from([0.0, 0.01, 0.1]))
def test_bets_are_the_mean_of_what_each_bettor_owns(gained, lost, same, limit):
    pair = answers(gained, lost, gained + lost + same)
    for side, decision in ((-1, "within"), (1, "exceeds")):
        most = 1 / (1 - limit) if side < 0 else 1 / (1 + limit)
        owned = []
        for share in range(1, 21):
            money = 1.0
            for change in (pair[0].numerator - pair[1].numerator).tolist():
                money *= 1 + side * (share / 20) * most * (change - limit)
            owned.append(money)
        if abs(np.mean(owned) - 20) > 1e-6:
            assert (look(*pair, Drop(limit)).decision == decision) == (np.mean(owned) >= 20)


def test_the_mixture_is_the_integral_of_the_likelihoods():
    """Over the mean in deviations (half normal) and the scale (1 / sigma), as the papers have it."""
    x = np.array([0.4, 1.5, -0.2, 0.9, 1.1])
    found = Differences(x, np.ones(5), np.ones(5), np.zeros(5), True, False, False)
    mixture = sequential._Mixture(found, None)
    worse, base = mixture._further[1]
    y = np.append(x, worse)
    assert worse == pytest.approx(x.mean() - 2.75 * np.abs(x - x.mean()).max())
    assert base == 1

    effects, scales = np.linspace(0, 9, 901), np.exp(np.linspace(-4, 6, 1001))
    misses = ((y - effects[:, None, None] * scales[:, None]) ** 2).sum(axis=2)  # (effects, scales)
    likelihoods = np.trapezoid(np.exp(-misses / (2 * scales**2)) * scales ** (-len(y) - 1.0), scales, axis=1)
    prior = 2 / math.sqrt(2 * math.pi) * np.exp(-effects * effects / 2)
    ratio = np.trapezoid(prior * likelihoods, effects) / likelihoods[0]
    assert mixture.log_e(0.0, 1) == pytest.approx(math.log(ratio), abs=1e-3)
    assert mixture.log_e(5.0, 1) == 0  # the mean lies on the other side


def runs(draw, limit, block, examples=120, number=100):
    """Shares of runs that end within and beyond the limit, and after how many examples at the median."""
    coin, ends = np.random.default_rng(4), {"within": [], "exceeds": [], None: []}
    for _ in range(number):
        loss, base, gainable, bounded, share = draw(coin, examples)
        for read in range(block, examples + 1, block):
            found = Differences(loss[:read], base[:read], base[:read], gainable[:read], not bounded, bounded, share)
            if decision := decide(found, limit):
                ends[decision].append(read)
                break
    return {name: (len(all_) / number, float(np.median(all_ or [math.inf]))) for name, all_ in ends.items() if name}


def right_and_wrong(gained, lost):
    def draw(coin, examples):
        loss = coin.choice([-1.0, 0.0, 1.0], examples, p=[gained, 1 - gained - lost, lost])
        return loss, np.ones(examples), np.ones(examples), True, True

    return draw


def bits(change):
    def draw(coin, examples):
        base = coin.lognormal(0.8, 0.35, examples)
        return base * change(coin, examples), base, base, False, False

    return draw


def words(change):
    def draw(coin, examples):
        said = np.clip(np.round(coin.lognormal(2.5, 0.5, examples)), 1, 40)
        wrong = np.round(0.1 * said)
        return np.clip(change(coin, said), -wrong, said - wrong), said, wrong, True, False

    return draw


AT_THE_LIMIT = {
    "answers, 1 % lost": (right_and_wrong(0.0, 0.01), 0.01),
    "answers, 8 % differ": (right_and_wrong(0.03, 0.05), 0.02),
    "bits, normal": (bits(lambda coin, n: coin.normal(0.02, 0.02, n)), 0.02),
    "bits, Student's t": (bits(lambda coin, n: 0.02 + 0.012 * coin.standard_t(3, n)), 0.02),
    "bits, exponential": (bits(lambda coin, n: coin.exponential(0.02, n)), 0.02),
    "words, whole recordings lost": (words(lambda coin, said: np.where(coin.random(len(said)) < 0.011, said, 0)), 0.01),
}


@pytest.mark.parametrize("case", AT_THE_LIMIT)
def test_a_loss_at_the_limit_is_decided_in_at_most_one_run_of_twenty(case):
    ends = runs(*AT_THE_LIMIT[case], block=8)
    assert ends["within"][0] <= 0.05
    assert ends["exceeds"][0] <= 0.05


def test_looking_with_an_interval_of_fixed_size_would_be_wrong():
    """The same runs with a t interval at each look: why this module is there."""
    loss = np.random.default_rng(4).normal(0.0, 0.02, (400, 120))
    below = np.zeros(400, bool)
    for read in range(8, 121, 8):
        t = loss[:, :read].mean(axis=1) / loss[:, :read].std(axis=1, ddof=1) * math.sqrt(read)
        below |= t < stdtrit(read - 1, 0.05)
    assert below.mean() > 0.13


def test_levels_far_from_the_limit_take_few_examples():
    far = runs(bits(lambda coin, n: coin.normal(0.3, 0.02, n)), 0.02, 2, number=40)
    assert far["exceeds"][0] == 1
    assert far["exceeds"][1] <= 8
    lossless = runs(bits(lambda coin, n: coin.normal(0.0, 0.002, n)), 0.02, 2, number=40)
    assert lossless["within"][0] == 1
    assert lossless["within"][1] <= 12
    uneven = runs(bits(lambda coin, n: coin.normal(0.0, 0.02, n)), 0.02, 2, number=40)
    assert uneven["within"][0] >= 0.9
    assert uneven["within"][1] <= 40
    photos = runs(right_and_wrong(0.02, 0.4), 0.01, 4, number=40)
    assert photos["exceeds"][1] <= 24
    spoken = runs(words(lambda coin, said: np.round(0.6 * said)), 0.01, 2, number=40)
    assert spoken["exceeds"][1] <= 10


def test_the_interval_holds_the_estimate_and_shrinks():
    coin = np.random.default_rng(1)
    before, after = passages(coin.normal(0.05, 0.02, 400))
    widths = []
    for read in (4, 16, 64, 400):
        part = [Scores(s.metric, s.numerator[:read], s.denominator[:read], False) for s in (before, after)]
        found = look(*part, TWO_PERCENT)
        assert found.low < found.change < found.high
        assert found.examples == read
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert found.low < -0.05 < found.high
    assert found.high - found.low < 0.02


def test_where_nothing_is_known_the_interval_is_all_that_there_can_be():
    found = look(*passages(np.array([0.1, 0.2, 0.1])), TWO_PERCENT)
    assert (found.decision, found.low, found.high) == (None, -sequential.FARTHEST, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 200), st.sampled_from([0.01, 0.05]))
def test_a_decision_and_the_interval_agree(gained, lost, same, limit):
    """The interval's ends are wrong in 2.5 % each, so they lie beyond the limit only where it is decided."""
    if not gained + lost + same:
        return
    found = look(*answers(gained, lost, gained + lost + same), Drop(limit))
    assert -1 <= found.low <= found.change <= found.high <= 1
    if found.low > -limit:
        assert found.decision == "within"
    if found.high < -limit:
        assert found.decision == "exceeds"


def test_nothing_is_decided_by_recordings_that_are_few_and_equal():
    said, wrong = [12] * 100, [1] * 100
    assert look(*recordings(said, wrong, wrong), ONE_POINT).decision is None
    many = recordings(said * 8, wrong * 8, wrong * 8)
    assert look(*many, ONE_POINT).decision == "within"
    assert look(*many, ONE_POINT, longest=400).decision is None  # one that is still unread could lose that many


def test_errors_of_a_recording_count_up_to_its_length():
    said = [10] * 20
    runaway = recordings(said, [1] * 20, [90] + [1] * 19)
    lost = recordings(said, [1] * 20, [10] + [1] * 19)
    assert look(*runaway, ONE_POINT) == look(*lost, ONE_POINT)


def test_other_rates_and_relative_limits():
    coin = np.random.default_rng(2)
    error = coin.random(60)
    pair = [Scores("mse", 5 * each, np.ones(60), False) for each in (error, error + 0.5)]
    assert look(*pair, ONE_POINT).decision == "exceeds"
    assert look(*answers(10, 80, 200), Drop(0.1, relative=True)).decision == "exceeds"
    assert look(*recordings([9] * 40, [1] * 40, [5] * 40), Drop(0.5, relative=True)).decision == "exceeds"
    silent = look(*recordings([9] * 40, [0] * 40, [0] * 40), Drop(0.5, relative=True))
    assert silent.decision is None
    assert math.isnan(silent.change)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(BadData, match="no example to judge accuracy on"):
        look(*answers(0, 0, 0), ONE_POINT)
    with pytest.raises(InvalidOption, match="give a relative one"):
        look(*passages(np.zeros(9)), ONE_POINT)
    with pytest.raises(ValueError, match="same examples"):
        look(answers(0, 0, 5)[0], answers(0, 0, 6)[0], ONE_POINT)
    with pytest.raises(BrokenModel, match="not finite on 1 of 9"):
        look(*passages(np.array([math.nan] + [0.0] * 8)), TWO_PERCENT)
