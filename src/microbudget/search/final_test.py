"""Final test: the choice reads the test split once; where that refuses it, the next safer candidate does, at most two.

A choice that the test refuses would end the run without a model that holds. Another candidate is another chance to be
wrong, so the error of 5 % is split over the tries before the first of them (Wiens 2003, "A fixed sequence Bonferroni
procedure for testing multiple endpoints").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..judge.budget import Budget
from ..judge.evidence import ERROR
from ..progress import Progress
from ..runs.candidates import Candidate
from ..runs.choice import best, safer
from .evaluation import Evaluation

SHARES = (0.8, 0.1, 0.1)  # of the error, for each try


@dataclass(frozen=True)
class Tested:
    """What the test split says: of the reference, and of each candidate that read it in this command, in order."""

    reference: Candidate
    tries: tuple[Candidate, ...]
    chosen: Candidate  # of the tries

    def rows(self, found: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, with their test where they have one."""
        tested = {each.fingerprint: each for each in self.tries}
        return [tested.get(each.fingerprint, each) for each in found]


def final_test(
    evaluation: Evaluation, reference: Candidate, found: Sequence[Candidate], budget: Budget, progress: Progress
) -> Tested | None:
    """Test the choice; None where there is none. The number of examples is fixed before any is read."""
    chosen = best(found, budget)
    if chosen is None:
        return None
    progress.doing("testing what ships")
    count = evaluation.test_count(chosen)
    reference = evaluation.on_test(reference, count)
    errors = errors_of_tries(1 + len(safer(chosen, found, budget)))
    tries: list[Candidate] = []
    for error in errors:
        tries.append(evaluation.on_test(chosen, count, error))
        broken = tries[-1].broken_on_test(budget)
        following = best(safer(chosen, found, budget), budget)
        if not broken or len(tries) == len(errors) or following is None or evaluation.test_count(following) < count:
            break
        progress.say(f"{chosen.short} is not the choice: {broken[0]}. {following.short} is tested in its place")
        chosen = following
    return Tested(reference, tuple(tries), _last_word(tries, budget))


def errors_of_tries(candidates: int) -> list[float]:
    """How often the verdict of each try may be wrong, where so many candidates could be tested."""
    return [share * ERROR for share in SHARES] if candidates > 1 else [ERROR]


def _last_word(tries: Sequence[Candidate], budget: Budget) -> Candidate:
    """The one that the test does not refuse; where it refuses all, the one that loses least on it."""
    if not tries[-1].broken_on_test(budget):
        return tries[-1]
    return max(tries, key=lambda each: each.test_verdict.change if each.test_verdict else 0.0)
