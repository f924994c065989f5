"""Which candidate is chosen: by the goal, among those that hold the limits; and the Pareto front of a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.errors import BadInput, InvalidOption
from microbudget.judge.budget import GOALS, Budget, Goal, Measurement
from microbudget.judge.verdict import Verdict, judge_pair
from microbudget.recipes.recipe import Recipe
from microbudget.runs.candidates import Candidate, append, read
from microbudget.runs.choice import SAME_SIZE, best, pareto
from microbudget.runs.expected_loss import LOST_SHARE, expected_losses
from microbudget.search.options import read_keywords
from microbudget.task import Scores
from microbudget.units import Drop

SLOWER = {"over_float": {"speedup": 0.5, "low": 0.4, "high": 0.6, "verdict": "slower"}}


def row(
    name: str,
    size: int = 1000,
    latency: float | None = 0.001,
    change: float = 0.0,
    *,
    energy: float | None = None,
    decision: Any = "not shown",
    speed: dict[str, Any] | None = None,
    format: str = "onnx",
) -> Candidate:
    measurement = Measurement(
        model=name,
        format=format,
        runtime="",
        task="image-classification",
        examples=10,
        metric="accuracy",
        quality=0.9 + change,
        quality_low=0.0,
        quality_high=1.0,
        size_bytes=size,
        latency_s=latency,
        energy_j=energy,
    )
    verdict = Verdict(decision, "", change, change, change, 10, None, "")
    return Candidate(name, name, name, measurement, verdict, speed or {})


def failed(name: str) -> Candidate:
    return Candidate(name, name, name, failure="it diverged")


def chosen(rows: list[Candidate], budget: Budget | None = None, **limits: Any) -> str | None:
    """The name of the best; the order of the rows must not matter where no two are equal."""
    found, reverse = (best(order, budget or Budget(**limits)) for order in (rows, rows[::-1]))
    assert found == reverse
    return None if found is None else found.recipe


@pytest.mark.parametrize(
    ("goal", "expected"), [("size", "small"), ("latency", "fast"), ("energy", "frugal"), ("quality", "good")]
)
def test_each_goal_has_its_own_best(goal: Goal, expected: str) -> None:
    rows = [
        row("small", 1000, 0.004, -0.02, energy=4.0),
        row("fast", 2000, 0.001, -0.01, energy=3.0),
        row("frugal", 3000, 0.002, -0.01, energy=1.0),
        row("good", 4000, 0.003, 0.01, energy=2.0),
        failed("diverged"),
    ]
    assert chosen(rows, goal=goal) == expected


def test_every_goal_is_tested() -> None:
    assert set(GOALS) == {"size", "latency", "energy", "quality"}
    for goal in ("beauty", "size*quality", "size*", "size*size", ""):
        with pytest.raises(InvalidOption, match="goal must be one of"):
            Budget(goal=goal)


def test_a_product_of_costs_is_a_goal() -> None:
    rows = [
        row("small", 1000, 0.010, energy=9.0),
        row("fast", 9000, 0.001, energy=1.0),
        row("both", 2000, 0.002, energy=4.0),
    ]
    assert chosen(rows, goal="size*latency") == "both"
    assert chosen(rows, goal="latency * energy") == "fast"
    assert chosen([*rows, row("not timed", 10, None)], goal="size*latency") == "both"
    equal = row("as much, better", 1000, 0.004, change=0.01)
    assert chosen([*rows, equal], goal="size*latency") == "as much, better"


@pytest.mark.parametrize(("more", "expected"), [(0.0, "better"), (SAME_SIZE, "better"), (SAME_SIZE + 0.001, "smaller")])
def test_sizes_within_a_percent_are_one_size_and_quality_decides(more: float, expected: str) -> None:
    assert chosen([row("smaller", 100_000), row("better", round(100_000 * (1 + more)), change=0.01)]) == expected


def test_of_one_size_and_one_quality_the_faster_is_chosen() -> None:
    assert chosen([row("slow", latency=0.002), row("fast", latency=0.001), row("not timed", latency=None)]) == "fast"


@pytest.mark.parametrize(
    ("goal", "one", "other"),
    [
        ("latency", row("expected", 1000), row("larger", 1001)),
        ("latency", row("expected", 2000), row("not timed", 1000, None)),
        ("energy", row("expected", 1000, energy=1.0), row("larger", 1001, energy=1.0)),
        ("energy", row("expected", 2000, energy=1.0), row("not measured", 1000)),
        ("quality", row("expected", 1000, 0.002), row("larger", 1001, 0.001)),
        ("quality", row("expected", 1000, 0.001), row("slower", 1000, 0.002)),
        ("quality", row("expected", 1001), row("the same but for rounding", 1002, change=1e-12)),
    ],
)
def test_ties_of_a_goal(goal: Goal, one: Candidate, other: Candidate) -> None:
    assert chosen([one, other], goal=goal) == "expected"


@pytest.mark.parametrize("goal", GOALS)
def test_what_quantizing_made_slower_is_chosen_only_where_limits_leave_no_other(goal: Goal) -> None:
    """By every goal the slower one would win."""
    slower = row("slower", 1000, 0.001, 0.01, energy=1.0, speed=SLOWER)
    rows = [slower, row("float", 4000, 0.002, energy=2.0)]
    assert chosen(rows, goal=goal) == "float"
    assert chosen(rows, goal=goal, max_size_bytes=4000) == "float"
    assert chosen(rows, goal=goal, max_size_bytes=3999) == "slower"
    assert chosen([slower, failed("float")], goal=goal) == "slower"


@pytest.mark.parametrize(
    ("verdict", "format", "expected"),
    [("slower", "onnx", True), ("not shown", "onnx", False), ("faster", "onnx", False), ("slower", "gguf", False)],
)
def test_slower_than_float_is_what_was_shown_and_not_of_a_gguf_level(verdict: str, format: str, expected: bool) -> None:
    speed = {"over_float": {**SLOWER["over_float"], "verdict": verdict}}
    assert row("", speed=speed, format=format).slower_than_float is expected
    assert not row("").slower_than_float
    assert not replace(failed(""), speed={}).slower_than_float


@pytest.mark.parametrize("goal", GOALS)
def test_only_those_that_hold_the_limits_are_compared(goal: Goal) -> None:
    rows = [
        row("above the size", 3000, 0.001, 0.02, energy=0.1),
        row("too bad", 1000, 0.001, -0.02, energy=0.1),
        row("shown too bad", 1000, 0.001, 0.02, energy=0.1, decision="exceeds"),
        row("holds", 2000, 0.003, -0.01, energy=1.0),
    ]
    assert chosen(rows, goal=goal, max_size_bytes=2000, max_drop=Drop(0.01)) == "holds"


def test_to_prove_the_loss_must_be_shown_to_be_within() -> None:
    rows = [row("not shown", 1000), row("within", 2000, decision="within")]
    assert chosen(rows, max_drop=Drop(0.01)) == "not shown"
    assert chosen(rows, max_drop=Drop(0.01), prove=True) == "within"


@pytest.mark.parametrize(
    ("lost", "examples", "prove", "expected"),
    [
        (2, 60, False, "2 more of 60 examples are wrong, where 0 are allowed"),
        (2, 120, False, "2 more of 120 examples are wrong, where 1 is allowed"),  # by a single one
        (1, 60, False, "on test the loss is 1.67pt by the estimate (95 %: "),
        (60, 300, False, "19.00pt beyond 1pt: 60 more of 300"),
        (1, 100, False, None),  # at the limit
        (0, 60, False, None),
        (0, 60, True, "is not shown to be within 1pt"),
    ],
)
def test_the_test_split_has_the_last_word(lost: int, examples: int, prove: bool, expected: str | None) -> None:
    right = np.ones(examples)
    wrong = np.where(np.arange(examples) < lost, 0.0, 1.0)
    pair = [Scores("accuracy", each, np.ones(examples)) for each in (right, wrong)]
    tested = replace(row("one"), test_verdict=judge_pair(pair[0], pair[1], Drop(0.01)))
    broken = tested.broken_on_test(Budget(max_drop=Drop(0.01), prove=prove))
    assert (expected is None and broken == []) or (expected is not None and len(broken) == 1 and expected in broken[0])
    assert tested.broken_on_test(Budget()) == row("one").broken_on_test(Budget(max_drop=Drop(0.01))) == []


@pytest.mark.parametrize("goal", GOALS)
def test_where_none_holds_the_fewest_broken_limits_by_the_smallest_factor_then_quality(goal: Goal) -> None:
    tight = Budget(max_size_bytes=10, max_latency_s=0.001, goal=goal)
    both, one = row("two limits", 100, 0.002, 0.02), row("one limit", 1000, 0.001)
    assert chosen([both, row("one limit, far", 2000, 0.001, 0.01), one], tight) == "one limit"
    assert chosen([both, one, row("one limit, as far, good", 1000, 0.001, 0.01)], tight) == "one limit, as far, good"


def test_a_model_that_is_a_little_beyond_one_limit_is_nearer_than_one_far_beyond_another() -> None:
    """A float network of nine times the size, and one in 4 bits that fits and loses a point more than allowed."""
    rows = [row("float", 9_000, 0.001), row("4 bits", 900, 0.001, -0.02), row("narrow", 800, 0.001, -0.2)]
    assert chosen(rows, max_size_bytes=1000, max_drop=Drop(0.01)) == "4 bits"


def test_a_limit_on_what_was_not_measured_is_broken() -> None:
    assert row("", latency=None).broken_limits(Budget(max_latency_s=1.0)) == ["latency was not measured, limit 1.00 s"]
    assert failed("").broken_limits(Budget()) == ["it diverged"]


def test_of_nothing_measured_none_is_the_best() -> None:
    assert best([], Budget()) is None
    assert best([failed("one"), failed("other")], Budget()) is None
    assert pareto([failed("one")]) == []


def test_the_front_by_hand() -> None:
    rows = [
        row("good", 3000, 0.003, 0.01),
        row("small", 1000, 0.002, 0.0),
        row("fast", 2000, 0.001, 0.0),
        row("as fast, larger", 2001, 0.001, 0.0),
        row("worse in all", 3000, 0.004, -0.01),
        row("not timed", 1000, None, 0.0),
        failed("diverged"),
    ]
    assert [one.recipe for one in pareto(rows)] == ["small", "fast", "good"]
    twice = [row("one", 1000), row("its equal", 1000)]
    assert pareto(twice) == twice


measured = st.builds(
    row,
    name=st.uuids().map(str),
    size=st.sampled_from([1000, 1005, 1010, 1011, 2000]),
    latency=st.sampled_from([None, 0.001, 0.002, 0.003]),
    change=st.sampled_from([-0.02, -0.01, 0.0, 0.01]),
    energy=st.sampled_from([None, 1.0, 2.0]),
    decision=st.sampled_from(["within", "not shown", "exceeds"]),
    speed=st.sampled_from([{}, SLOWER]),
)
rows_of_a_run = st.lists(st.one_of(measured, st.builds(failed, st.uuids().map(str))), max_size=12)
budgets = st.builds(
    Budget,
    goal=st.sampled_from(GOALS),
    max_size_bytes=st.sampled_from([None, 999, 1005, 1999]),
    max_latency_s=st.sampled_from([None, 0.002]),
    max_drop=st.sampled_from([None, Drop(0.01)]),
)


def costs(candidate: Candidate) -> tuple[float, float, float]:
    """Size, latency and loss; lower is better."""
    found, verdict = candidate.measurement, candidate.verdict
    assert found is not None
    assert verdict is not None
    return found.size_bytes, math.inf if found.latency_s is None else found.latency_s, -verdict.change


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether it is as good in all three and better in one."""
    return costs(one) != costs(other) and all(a <= b for a, b in zip(costs(one), costs(other), strict=True))


@given(rows_of_a_run)
def test_the_front_holds_what_no_row_dominates_and_nothing_else(rows: list[Candidate]) -> None:
    front = pareto(rows)
    names = {one.recipe for one in front}
    assert len(names) == len(front), "a row stands in it twice"
    assert [costs(one)[0] for one in front] == sorted(costs(one)[0] for one in front)
    done = [one for one in rows if one.failure is None]
    for one in done:
        if one.recipe in names:
            assert not any(dominates(other, one) for other in done)
        else:
            assert any(dominates(other, one) for other in front)
    assert all(one.failure is None for one in front)


@given(rows_of_a_run, budgets)
def test_no_row_that_may_be_chosen_is_better_by_the_goal(rows: list[Candidate], budget: Budget) -> None:
    found = best(rows, budget)
    done = [one for one in rows if one.failure is None]
    if found is None:
        assert not done
        return
    holding = [one for one in done if not one.broken_limits(budget)]
    if not holding:
        assert len(found.broken_limits(budget)) == min(len(one.broken_limits(budget)) for one in done)
        return
    assert found in holding
    eligible = [one for one in holding if not one.slower_than_float]
    assert found in eligible or not eligible
    size, latency, loss = costs(found)
    others = [costs(one) for one in eligible or holding]
    if budget.goal == "size":
        smallest = min(other[0] for other in others)
        assert size <= smallest * (1 + SAME_SIZE)
        assert loss == min(other[2] for other in others if other[0] <= smallest * (1 + SAME_SIZE))
    elif budget.goal == "latency":
        assert latency == min(other[1] for other in others)
    elif budget.goal == "quality":
        assert loss == min(other[2] for other in others)
    else:
        joules = [one.measurement.energy_j for one in eligible or holding if one.measurement]
        known = [value for value in joules if value is not None]
        assert found.measurement is not None
        assert found.measurement.energy_j == (min(known) if known else None)


def with_signs(one: Candidate, kl: float | None, error: float) -> Candidate:
    """The row with a divergence, and with an interval of its change whose standard error is `error`."""
    assert one.measurement is not None
    assert one.verdict is not None
    low, high = (one.verdict.change + sign * 1.96 * error for sign in (-1, 1))
    extra = {} if kl is None else {"kl": kl}
    return replace(
        one,
        measurement=replace(one.measurement, extra=extra),
        verdict=replace(one.verdict, change_low=low, change_high=high),
    )


def test_models_of_one_size_that_tie_are_told_apart_by_divergence_and_not_by_speed() -> None:
    """96 pixels and 224 lost none of a dozen photos each; the faster one loses one of ten of all the others."""
    safe, fast = (with_signs(row(name, latency=time), kl, 0.1) for name, time, kl in
                  (("safe", 0.004, 0.003), ("fast", 0.001, 0.3)))  # fmt: skip
    assert chosen([safe, fast]) == chosen([safe, fast], goal="quality") == "safe"
    same = with_signs(row("as far", latency=0.001), 0.00301, 0.1)
    assert chosen([safe, same]) == "as far"  # the same loss, also by divergence: the faster one


def test_labels_outweigh_the_divergence_where_they_are_many() -> None:
    lucky, close = row("lucky", change=0.1), row("close", change=0.0)
    for error, expected in ((0.2, "close"), (0.001, "lucky")):
        assert chosen([with_signs(lucky, 0.5, error), with_signs(close, 0.002, error)]) == expected


def test_a_loss_that_is_expected_beyond_the_limit_is_chosen_only_where_there_is_no_other() -> None:
    risky, safe = with_signs(row("risky", 500), 0.5, 0.1), with_signs(row("safe", 1000), 0.002, 0.1)
    assert chosen([risky, safe], max_drop=Drop(0.01)) == "safe"
    assert chosen([risky, safe]) == "risky"  # no limit
    assert chosen([risky, safe], max_drop=Drop(0.01), max_size_bytes=600) == "risky"


def test_the_expected_loss_by_its_equations() -> None:
    """Precision-weighted means, with a slope by least squares under its prior."""
    rows = [with_signs(row(str(kl), change=change), kl, error)
            for kl, change, error in ((0.02, -0.01, 0.01), (0.18, -0.05, 0.02))]  # fmt: skip
    changed = [0.1, 0.3]
    products = 0.1 * 0.01 / 0.01**2 + 0.3 * 0.05 / 0.02**2 + 1 / LOST_SHARE
    slope = products / ((0.1 / 0.01) ** 2 + (0.3 / 0.02) ** 2 + 1 / LOST_SHARE**2)
    for found, loss, error, share in zip(expected_losses(rows), (0.01, 0.05), (0.01, 0.02), changed, strict=True):
        predicted = slope * share
        expected = (loss / error**2 + predicted / predicted**2) / (1 / error**2 + 1 / predicted**2)
        assert found == pytest.approx(expected)


def test_without_a_divergence_the_expected_loss_is_that_of_the_labels() -> None:
    rows = [with_signs(row("one", change=-0.03), None, 0.05), replace(row("the reference"), verdict=None)]
    assert expected_losses(rows) == [0.03, 0.0]


def test_the_expected_loss_is_nearer_to_the_truth_than_the_labels_alone() -> None:
    """Of 200 runs with eight candidates each, whose losses go with their divergence but for a factor of two."""
    random, by_labels, together = np.random.default_rng(0), 0.0, 0.0
    for _ in range(200):
        changed = random.uniform(0.02, 0.4, 8)
        truth = 0.15 * changed * random.uniform(0.5, 1.5, 8)
        losses = truth + random.normal(0, 0.03, 8)
        rows = [
            with_signs(row(str(n), change=-loss), 2 * share**2, 0.03)
            for n, (loss, share) in enumerate(zip(losses, changed, strict=True))
        ]
        by_labels += float(((losses - truth) ** 2).sum())
        together += float(((np.array(expected_losses(rows)) - truth) ** 2).sum())
    assert together < by_labels / 2


@given(st.lists(st.tuples(st.floats(-0.2, 0.2), st.floats(1e-4, 0.3), st.floats(0.0, 3.0)), min_size=1, max_size=8))
def test_the_expected_loss_lies_between_what_labels_and_divergence_say(signs: list[tuple[float, float, float]]) -> None:
    rows = [with_signs(row(str(n), change=-loss), kl, error) for n, (loss, error, kl) in enumerate(signs)]
    for found, (loss, _, kl) in zip(expected_losses(rows), signs, strict=True):
        assert min(loss, 0.0) - 1e-9 <= found <= max(loss, math.sqrt(kl / 2) * 25) + 1e-9


def test_a_row_may_hold_any_character(tmp_path: Path) -> None:
    """str.splitlines would cut it at U+2028, and the row be lost."""
    rows = [failed("a\u2028b\u0085c"), failed("d")]
    for row in rows:
        append(tmp_path / "candidates.jsonl", row)
    assert list(read(tmp_path / "candidates.jsonl")) == rows


def test_limits_are_given_as_on_the_command_line() -> None:
    found = Budget(max_size="2MB", max_latency="5ms", max_memory="1GB", max_energy="3mJ", max_drop="1pt")  # type: ignore[arg-type]
    assert found == Budget(2_000_000, 0.005, 1_000_000_000, 0.003, Drop(0.01))
    assert replace(found, minutes=3.0) == replace(
        Budget(2_000_000, 0.005, 1_000_000_000, 0.003, Drop(0.01)), minutes=3.0
    )
    assert Budget.from_dict(found.as_dict()) == found
    assert Budget(max_size=1000).max_size_bytes == 1000


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_size": "2XB"}, "size '2XB' cannot be read"),
        ({"max_size": "2MB", "max_size_bytes": 1}, "max_size_bytes is given twice"),
        ({"max_size_bytes": "2MB"}, "max_size_bytes must be above zero, not '2MB'"),
        ({"max_drop": 1}, "max_drop must be a text such as '1pt'"),
        ({"max_latency": -1}, "max_latency_s must be above zero, not -1"),
    ],
)
def test_limits_that_are_none_are_refused_at_once(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Budget(**limits)


def test_keywords_of_a_call_are_options_and_limits() -> None:
    how, budget = read_keywords(None, {"seed": 3, "max_size": "2MB", "max_drop": "1pt", "goal": "latency"})
    assert (how.seed, budget) == (3, Budget(2_000_000, max_drop=Drop(0.01), goal="latency"))
    assert read_keywords(Budget(goal="quality"), {"keep": True})[1].goal == "quality"
    for keywords, said in (
        ({"max_sizes": "2MB"}, "there is no option 'max_sizes': did you mean max_size?"),
        ({"thread": 2}, "did you mean threads?"),
        ({"xyz": 2}, "there are seed, threads"),
    ):
        with pytest.raises(InvalidOption, match=said):
            read_keywords(None, keywords)
    with pytest.raises(InvalidOption, match="give the limits in one of the two"):
        read_keywords(Budget(), {"max_size": "2MB"})


def test_a_recipe_is_made_of_its_text() -> None:
    assert Recipe("export() > quantize(bits=4)") == Recipe.parse("export() > quantize(bits=4)")  # type: ignore[arg-type]
