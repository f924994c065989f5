"""The test of what ships: where it refuses the choice, a safer candidate is tested, with its part of the error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest

from microbudget.judge.budget import Budget, Measurement
from microbudget.judge.evidence import ERROR
from microbudget.judge.verdict import judge_pair
from microbudget.progress import SILENT
from microbudget.runs.candidates import Candidate
from microbudget.runs.choice import best
from microbudget.search.final_test import SHARES, final_test
from microbudget.task import Scores
from microbudget.units import Drop

LIMIT = Budget(max_drop=Drop(0.01))
TEST = 400  # examples


@cache  # of the same counts it is the same
def verdict_of(lost: int, examples: int, error: float = ERROR) -> object:
    right, wrong = np.ones(examples), np.where(np.arange(examples) < lost, 0.0, 1.0)
    pair = [Scores("accuracy", each, np.ones(examples)) for each in (right, wrong)]
    return judge_pair(*pair, Drop(0.01), error=error)


def row(name: str, size: int, kl: float) -> Candidate:
    """One that lost none of 12 validation examples."""
    measured = Measurement(
        name, "onnx", "", "image-classification", 12, "accuracy", 0.9, 0.8, 1.0, size, extra={"kl": kl}
    )
    return Candidate(
        "export()" if name == "float" else f"resize(pixels={name})", name, name, measured, verdict_of(0, 12)
    )


@dataclass
class Readings:
    """Stands for an Evaluation: how many of the test examples each candidate loses."""

    lost: dict[str, int]
    errors: list[float] = field(default_factory=list)
    time: bool = True

    def test_count(self, candidate: Candidate) -> int:
        return TEST if self.time or not self.errors else TEST // 2

    def on_test(self, candidate: Candidate, count: int, error: float = ERROR) -> Candidate:
        if candidate.fingerprint == "reference":
            return replace(candidate, test=candidate.measurement)
        self.errors.append(error)
        return replace(
            candidate,
            test=candidate.measurement,
            test_verdict=verdict_of(self.lost[candidate.fingerprint], count, error),
        )


ROWS = [row("8", 1000, 0.008), row("16", 2000, 0.004), row("24", 3000, 0.002), row("float", 8000, 1e-6)]
LOOSE = Budget(max_drop=Drop(0.01))
REFERENCE = replace(row("64", 9000, 0.0), fingerprint="reference", verdict=None)


def outcome_of(lost: dict[str, int], *, rows: list[Candidate] = ROWS, time: bool = True, budget: Budget = LOOSE):
    tests = Readings({"8": 0, "16": 0, "24": 0, "float": 0} | lost, time=time)
    found = final_test(tests, REFERENCE, rows, budget, SILENT)  # type: ignore[arg-type]
    assert found is not None
    return found, tests


def order(rows: list[Candidate] = ROWS) -> list[str]:
    """In which they would be chosen."""
    names, left = [], list(rows)
    while left:
        first = best(left, LOOSE)
        assert first is not None
        names.append(first.fingerprint)
        left = [each for each in left if each is not first]
    return names


def test_a_choice_that_the_test_accepts_is_the_only_one_that_reads_it() -> None:
    found, tests = outcome_of({})
    assert [each.fingerprint for each in found.tries] == order()[:1]
    assert found.chosen is found.tries[0]
    assert tests.errors == [SHARES[0] * ERROR]


def test_a_refused_choice_is_followed_by_a_safer_one() -> None:
    first = order()[0]
    found, tests = outcome_of({first: 40})
    names = [each.fingerprint for each in found.tries]
    assert len(names) == 2
    assert found.chosen.fingerprint == names[1]
    assert ROWS.index(next(each for each in ROWS if each.fingerprint == names[1])) > [
        each.fingerprint for each in ROWS
    ].index(first)
    assert tests.errors == [share * ERROR for share in SHARES[:2]]
    assert [each.test is not None for each in found.rows(ROWS)].count(True) == 2


def test_three_at_most_read_it_and_the_best_of_them_ships_where_all_are_refused() -> None:
    found, tests = outcome_of({"8": 40, "16": 20, "24": 30, "float": 30})
    assert len(found.tries) == len(SHARES) == len(tests.errors)
    assert sum(SHARES) == pytest.approx(1.0)
    changes = [each.test_verdict.change for each in found.tries if each.test_verdict]
    assert found.chosen.test_verdict is not None
    assert found.chosen.test_verdict.change == max(changes)


def test_without_time_for_another_reading_the_first_stays() -> None:
    first = order()[0]
    found, _ = outcome_of({first: 40}, time=False)
    assert [each.fingerprint for each in found.tries] == [first]
    assert found.chosen.broken_on_test(LOOSE)


def test_where_nothing_is_safer_the_first_has_all_of_the_error() -> None:
    found, tests = outcome_of({"float": 40}, rows=[ROWS[-1]])
    assert tests.errors == [ERROR]
    assert len(found.tries) == 1


def test_nothing_measured_is_not_tested() -> None:
    assert final_test(Readings({}), REFERENCE, [], LOOSE, SILENT) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "needed"), [(ERROR, 299), (SHARES[0] * ERROR, 321)])
def test_what_a_share_of_the_error_takes_to_show(error: float, needed: int) -> None:
    for examples, decision in ((needed - 1, "not shown"), (needed, "within")):
        found = verdict_of(0, examples, error)
        assert found.decision == decision  # type: ignore[attr-defined]
    assert f"show at {100 * (1 - error):g} %" in found.reason  # type: ignore[attr-defined]


def test_false_claims_stay_below_5_percent_over_all_tries() -> None:
    """Candidates that all lose twice the limit: how often one of them is said to be within."""
    random, claims = np.random.default_rng(0), 0
    names = [each.fingerprint for each in ROWS]
    for _ in range(400):
        found, _ = outcome_of(dict(zip(names, random.binomial(TEST, 0.012, 4).tolist(), strict=True)))
        claims += found.chosen.test_verdict is not None and found.chosen.test_verdict.decision == "within"
    assert claims / 400 <= 0.05
