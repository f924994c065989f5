"""Verdicts: signs, units, thresholds, what few examples cannot show, and the promise of 5 %."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import BadData, BrokenModel, InvalidOption
from microbudget.judge import statistics as stats
from microbudget.judge.verdict import Verdict, can_show, judge_pair
from microbudget.task import Scores
from microbudget.units import Drop

ONE_POINT = Drop(0.01)
ONE_PERCENT = Drop(0.01, relative=True)


def accuracy(gained, lost, examples):
    """A pair of Scores with so many examples that only the candidate, or only the reference, has right."""
    reference, candidate = np.ones(examples), np.ones(examples)
    reference[:gained] = 0
    candidate[gained : gained + lost] = 0
    ones = np.ones(examples)
    return Scores("accuracy", reference, ones), Scores("accuracy", candidate, ones)


def word_errors(examples, differ, seed=0):
    """A pair of word error Scores; in a share `differ` of the utterances one word more or less is wrong."""
    coin = np.random.default_rng(seed)
    words = coin.integers(4, 11, examples).astype(float)
    errors = 1.0 + coin.integers(0, 3, examples)
    changed = errors + np.where(coin.random(examples) < differ, coin.choice([-1.0, 1.0], examples), 0.0)
    return tuple(Scores("wer", each, words, higher_is_better=False) for each in (errors, changed))


def bits(examples, loss=0.0, spread=0.02, seed=0):
    """A pair of bits-per-byte Scores; every chunk changes by about `spread` around `loss`, relative."""
    coin = np.random.default_rng(seed)
    reference = coin.lognormal(7.5, 0.3, examples)
    candidate = reference * (1 + loss + spread * coin.standard_normal(examples))
    sizes = np.full(examples, 1000.0)
    return tuple(Scores("bits_per_byte", each, sizes, higher_is_better=False) for each in (reference, candidate))


def test_299_untouched_examples_show_one_point_and_298_do_not():
    within, undecided = (judge_pair(*accuracy(0, 0, n), ONE_POINT) for n in (299, 298))
    assert (within.decision, within.more_examples) == ("within", None)
    assert within.reason == "299 examples with 0 disagreements show at 95 % a loss below 1pt"
    assert (undecided.decision, undecided.more_examples) == ("not shown", 1)


def test_a_large_loss_exceeds():
    verdict = judge_pair(*accuracy(2, 20, 300), ONE_POINT)
    assert verdict.decision == "exceeds"
    assert verdict.reason == "300 examples with 22 disagreements (2 gained, 20 lost) show at 95 % a loss above 1pt"
    assert verdict.change == pytest.approx(-0.06)
    assert verdict.change_low < verdict.change < verdict.change_high < 0


def test_an_undecided_verdict_says_what_would_decide():
    verdict = judge_pair(*accuracy(1, 1, 108), ONE_POINT)
    assert verdict.decision == "not shown"
    assert verdict.reason == (
        "108 examples with 2 disagreements (1 gained, 1 lost) cannot show a limit of 1pt;"
        f" about {verdict.more_examples} more like them would"
    )
    lossy = judge_pair(*accuracy(0, 3, 108), ONE_POINT)
    assert "cannot show that the loss, estimated at 2.78pt, exceeds 1pt; about" in lossy.reason


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 300), st.sampled_from([0.005, 0.01, 0.03]))
def test_decisions_are_those_of_the_exact_test(gained, lost, untouched, limit):
    examples = gained + lost + untouched
    verdict = judge_pair(*accuracy(gained, lost, examples), Drop(limit))
    if stats.paired_p(gained, lost, examples, -limit) <= 0.05:
        assert verdict.decision == "within"
    elif stats.paired_p(lost, gained, examples, limit) <= 0.05:
        assert verdict.decision == "exceeds"
    else:
        assert verdict.decision == "not shown"
    assert verdict.change_low <= verdict.change <= verdict.change_high
    assert verdict.examples == examples


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(20, 120))
def test_so_many_more_like_them_decide(gained, lost, untouched):
    examples = gained + lost + untouched
    verdict = judge_pair(*accuracy(gained, lost, examples), Drop(0.02))
    if verdict.more_examples is None or verdict.more_examples > 5000:
        return
    growth = 1 + 1.2 * verdict.more_examples / examples  # some more, since examples come whole
    cell = round(gained * growth), round(lost * growth), round(examples * growth)
    grown = judge_pair(*accuracy(*cell), Drop(0.02))
    if abs(grown.change - verdict.change) < 0.05 * abs(0.02 + verdict.change):  # else rounding tips it
        assert grown.decision == ("within" if lost - gained < 0.02 * examples else "exceeds")


def test_more_examples_are_none_when_the_estimate_is_the_limit():
    verdict = judge_pair(*accuracy(0, 3, 300), ONE_POINT)
    assert (verdict.decision, verdict.more_examples) == ("not shown", None)
    assert verdict.reason.endswith("nor would a million like them: the estimate is too near the limit")


def test_a_limit_of_zero_is_shown_by_gains_only():
    assert judge_pair(*accuracy(0, 0, 5000), Drop(0.0)).decision == "not shown"
    assert judge_pair(*accuracy(9, 0, 100), Drop(0.0)).decision == "within"


def test_shares_of_errors_have_the_other_sign():
    pair = [
        Scores("error", 1 - each.numerator, each.denominator, higher_is_better=False) for each in accuracy(2, 9, 99)
    ]
    ours, theirs = judge_pair(*pair, ONE_POINT), judge_pair(*accuracy(2, 9, 99), ONE_POINT)
    assert ours == theirs


def test_word_errors_change_by_the_difference_of_rates_above_zero_better():
    reference, candidate = word_errors(400, 0.2)
    verdict = judge_pair(reference, candidate, ONE_POINT)
    assert verdict.change == pytest.approx(reference.value - candidate.value)
    better = judge_pair(candidate, reference, ONE_POINT)
    assert better.change == pytest.approx(-verdict.change)
    for each in (verdict, better):  # a recording may lose all of its words, and gain what the reference has wrong
        assert 0 < each.change_high - each.change < each.change - each.change_low


def test_bits_per_byte_change_relative_to_the_reference():
    reference, candidate = bits(300, loss=0.03)
    verdict = judge_pair(reference, candidate, ONE_PERCENT)
    assert verdict.change == pytest.approx(1 - candidate.value / reference.value)
    assert (verdict.decision, verdict.limit) == ("exceeds", "1%")
    assert judge_pair(*bits(300), ONE_PERCENT).decision == "within"


def test_bits_per_byte_have_no_points():
    with pytest.raises(InvalidOption, match=r"cannot be in points \(1pt\): give a relative one, for example 1%"):
        judge_pair(*bits(30), ONE_POINT)


def test_a_relative_limit_on_accuracy_is_relative_to_the_reference():
    reference, candidate = accuracy(20, 60, 1000)
    verdict = judge_pair(reference, candidate, Drop(0.02, relative=True))
    assert verdict.change == pytest.approx(candidate.value / reference.value - 1)
    assert verdict.decision == "exceeds"
    nothing = Scores("wer", np.zeros(20), np.full(20, 5.0), higher_is_better=False)
    with pytest.raises(InvalidOption, match="the reference's wer is 0"):
        judge_pair(nothing, nothing, ONE_PERCENT)


@pytest.mark.parametrize("differ", [0.0, 0.05])
def test_few_utterances_that_differ_show_nothing(differ):
    """A bootstrap of what was seen would be sure: its interval has next to no width."""
    verdict = judge_pair(*word_errors(80, differ), ONE_POINT)
    assert verdict.decision == "not shown"
    assert verdict.change_low < -0.03


def words(counts, errors):
    return Scores("wer", np.array(errors, float), np.array(counts, float), higher_is_better=False)


SIX = (12, 20, 9, 25, 14, 17)  # 97 words
OURS = (1, 2, 1, 3, 2, 3)


def test_sixty_points_on_97_words_exceed():
    """A recording can gain no more than what the reference has wrong in it; it was taken to gain all of its words."""
    verdict = judge_pair(words(SIX, OURS), words(SIX, (8, 14, 6, 18, 11, 13)), ONE_POINT)
    assert verdict.decision == "exceeds"
    assert verdict.change == pytest.approx(-58 / 97)
    assert verdict.change_high < -0.1
    three = judge_pair(words(SIX, OURS), words(SIX, (12, 20, 9, 3, 2, 3)), ONE_POINT)  # half of them wholly wrong
    assert three.decision == "exceeds"


def test_few_recordings_cannot_say_within_and_the_number_that_could_is_named():
    verdict = judge_pair(words(SIX, OURS), words(SIX, OURS), ONE_POINT)
    assert verdict.decision == "not shown"
    assert verdict.change_low < -0.3
    copies = math.ceil(1.1 * (verdict.more_examples + 6) / 6)
    assert judge_pair(*[words(SIX * copies, OURS * copies)] * 2, ONE_POINT).decision == "within"
    assert f"about {verdict.more_examples} more like them would" in verdict.reason


def test_runaways_count_as_wholly_wrong_and_are_said_apart():
    away = judge_pair(words(SIX, OURS), words(SIX, (1, 92, 1, 3, 2, 3)), ONE_POINT)
    wrong = judge_pair(words(SIX, OURS), words(SIX, (1, 20, 1, 3, 2, 3)), ONE_POINT)
    assert away.change == wrong.change == pytest.approx(-18 / 97)
    assert (away.change_low, away.change_high) == (wrong.change_low, wrong.change_high)
    low, high = stats.clopper_pearson(1, 6)
    assert away.runaways == {"candidate": 1, "reference": 0, "examples": 6, "low": low, "high": high}
    assert "1 of 6 examples has more errors than words, which count as wholly wrong" in away.reason
    assert "(a share of 0.4 to 64.1 % at 95 %; 0 with the reference)" in away.reason
    assert wrong.runaways["candidate"] == 0
    assert "more errors than words" not in wrong.reason
    assert judge_pair(*bits(30), ONE_PERCENT).runaways is None


def test_what_is_beyond_the_limit_says_by_how_much():
    verdict = judge_pair(words(SIX, OURS), words(SIX, (3, 2, 1, 3, 2, 2)), Drop(0.01))
    assert verdict.beyond.startswith("the loss is 1.03pt by the estimate (95 %: ")
    assert verdict.beyond.endswith("0.03pt beyond 1pt: 1 of 6 examples is worse, 1 better")
    assert judge_pair(*accuracy(0, 3, 300), ONE_POINT).beyond == ""  # 1 point is not beyond 1 point
    assert judge_pair(*accuracy(0, 4, 300), ONE_POINT).beyond.endswith(
        "0.33pt beyond 1pt: 4 more of 300 examples are wrong, where 3 are allowed"
    )


def test_many_utterances_without_a_difference_show_the_limit():
    verdict = judge_pair(*word_errors(1000, 0.0), ONE_POINT)
    assert verdict.decision == "within"
    assert verdict.reason == "1000 examples of which 0 differ show at 95 % a loss below 1pt"


@pytest.mark.parametrize(("examples", "decision"), [(150, "not shown"), (400, "within")])
def test_few_chunks_show_nothing_however_alike(examples, decision):
    assert judge_pair(*bits(examples, spread=0.001), ONE_PERCENT).decision == decision


def test_more_utterances_like_these_would_decide():
    verdict = judge_pair(*word_errors(300, 0.1), ONE_POINT)
    assert verdict.decision == "not shown"
    needed = 300 + verdict.more_examples
    reference, candidate = word_errors(300, 0.1)
    copies = math.ceil(1.1 * needed / 300)
    grown = [
        Scores("wer", np.tile(each.numerator, copies), np.tile(each.denominator, copies), higher_is_better=False)
        for each in (reference, candidate)
    ]
    assert judge_pair(*grown, ONE_POINT).decision != "not shown"


def test_unlabelled_examples_prove_what_144_labelled_cannot():
    pair = accuracy(1, 1, 144)
    assert judge_pair(*pair, ONE_POINT).decision == "not shown"
    verdict = judge_pair(*pair, ONE_POINT, unlabelled=(2, 1500))
    assert (verdict.decision, verdict.examples) == ("within", 1644)
    assert verdict.change == 0
    assert verdict.reason.startswith("144 examples with 2 disagreements (1 gained, 1 lost) and 1500 unlabelled with 2")
    assert judge_pair(*pair, ONE_POINT, unlabelled=(60, 1500)).decision == "not shown"


def test_unlabelled_alone_are_enough():
    empty = Scores("accuracy", np.array([]), np.array([]))
    verdict = judge_pair(empty, empty, ONE_POINT, unlabelled=(0, 299))
    assert (verdict.decision, verdict.change) == ("within", 0)
    assert -0.013 < verdict.change_low < verdict.change_high < 0.013


@pytest.mark.parametrize("labelled", [50, 144])
def test_labelled_and_unlabelled_share_the_error_level(labelled):
    """Together they may fail in 5 % times their share, so they need a few more examples than 299."""
    together = next(n for n in range(labelled + 1, 600) if 0.99**n + 1e-6 <= 0.05 * (n - labelled) / n)
    for examples, decision in ((together, "within"), (together - 1, "not shown")):
        unlabelled = (0, examples - labelled)
        assert judge_pair(*accuracy(0, 0, labelled), ONE_POINT, unlabelled=unlabelled).decision == decision
    assert together > 299


def test_unlabelled_examples_tighten_the_interval():
    alone = judge_pair(*accuracy(2, 2, 100), ONE_POINT)
    helped = judge_pair(*accuracy(2, 2, 100), ONE_POINT, unlabelled=(1, 2000))
    assert alone.change_low < helped.change_low < 0 < helped.change_high < alone.change_high


def test_without_a_limit_there_is_a_change_and_no_decision():
    verdict = judge_pair(*accuracy(3, 5, 200), None)
    assert (verdict.decision, verdict.limit, verdict.more_examples) == ("not shown", "", None)
    assert verdict.change == pytest.approx(-0.01)
    assert judge_pair(*bits(40, loss=0.5), None).change == pytest.approx(-0.5, abs=0.02)  # relative


def test_scores_that_are_not_a_pair_are_refused():
    reference, candidate = accuracy(1, 2, 50)
    with pytest.raises(ValueError, match="same examples"):
        judge_pair(reference, accuracy(1, 2, 51)[1], ONE_POINT)
    with pytest.raises(ValueError, match="same metric"):
        judge_pair(reference, Scores("f1", candidate.numerator, candidate.denominator), ONE_POINT)


def test_scores_that_are_not_finite_are_a_broken_model():
    reference, candidate = bits(30)
    candidate.numerator[[3, 5]] = np.inf, np.nan
    with pytest.raises(BrokenModel, match="candidate's bits_per_byte is not finite on 2 of 30 examples"):
        judge_pair(reference, candidate, ONE_PERCENT)


def test_nothing_to_judge_on_is_bad_data():
    for metric in ("accuracy", "bits_per_byte"):
        empty = Scores(metric, np.array([]), np.array([]))
        with pytest.raises(BadData):
            judge_pair(empty, empty, ONE_PERCENT if metric == "bits_per_byte" else ONE_POINT)


def test_a_verdict_survives_json():
    verdict = judge_pair(*word_errors(100, 0.1), ONE_POINT, seed=5)
    row = json.loads(json.dumps(verdict.as_dict()))
    assert Verdict.from_dict({**row, "from_a_later_version": 1}) == verdict
    assert judge_pair(*word_errors(100, 0.1), ONE_POINT, seed=5) == verdict


def test_can_show():
    assert can_show(ONE_POINT, 298) == (False, 299)
    assert can_show(ONE_POINT, 299) == (True, 299)
    assert can_show(Drop(0.05), 100) == (True, 59)
    assert can_show(Drop(0.0), 4) == (False, 5)
    assert can_show(ONE_PERCENT, 148) == (False, 149)  # at half as much again a chunk
    assert can_show(Drop(0.9, relative=True), 5) == (True, 5)


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("limit", "make"), [(ONE_POINT, "wer"), (Drop(0.05), "wer"), (ONE_PERCENT, "bits per byte")])
def test_can_show_keeps_its_word_for_uneven_lengths(limit, make, spread):
    """As many examples as it says, of the same spread and with equal answers, show it, and a fifth fewer do not."""
    lengths = np.ceil(20 * np.exp(spread * np.random.default_rng(0).standard_normal(60)))
    _, needed = can_show(limit, 60, lengths)
    for examples, decision in ((needed * 1.2, "within"), (needed * 0.8, "not shown")):
        repeated = np.resize(lengths, round(examples))
        pair = Scores(make, repeated * 0.1, repeated, higher_is_better=False)
        assert judge_pair(pair, pair, limit).decision == decision


def test_can_show_takes_more_of_uneven_lengths():
    even, uneven = np.full(40, 12.0), np.repeat([4.0, 36.0], [30, 10])  # of the same mean
    assert can_show(ONE_POINT, 299, even) == can_show(ONE_POINT, 299) == (True, 299)
    possible, needed = can_show(ONE_POINT, 299, uneven)
    assert not possible
    assert 850 < needed < 950  # a long one counts three times
    assert can_show(Drop(0.0), 4, uneven) == (False, 5)


def lost_utterances(examples, coin):
    """Pairs whose true loss is one point: one utterance in 100 is lost wholly, as likely the longer it is."""
    words = np.clip(np.round(coin.lognormal(2, 0.5, examples)), 1, 40)
    long_words = np.exp(0.5 * 0.5**2) * np.exp(2)  # mean of the log-normal lengths
    lost = coin.random(examples) < 0.01 * long_words / (long_words * np.exp(0.5**2)) * words / long_words
    return words, np.where(lost, words, 0.0)


def test_losses_of_whole_utterances_are_not_overlooked():
    """A percentile bootstrap calls one point within one point here in a fifth of the samples."""
    coin = np.random.default_rng(1)
    accepted, trials = {"judge_pair": 0, "percentile": 0}, 120
    for trial in range(trials):
        words, lost = lost_utterances(500, coin)
        pair = [Scores("wer", each, words, higher_is_better=False) for each in (np.zeros(500), lost)]
        accepted["judge_pair"] += judge_pair(*pair, ONE_POINT, seed=trial).decision == "within"
        drawn = coin.integers(0, 500, (400, 500))
        ratios = lost[drawn].sum(axis=1) / words[drawn].sum(axis=1)
        accepted["percentile"] += np.quantile(ratios, 0.95) < 0.01
    assert accepted["judge_pair"] <= 0.05 * trials
    assert accepted["percentile"] > 0.1 * trials
