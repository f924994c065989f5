"""Looks: examples are read until the loss is decided, and the decision is valid however often one looks.

An interval of a fixed size may be computed once. Whoever looks after every block and stops when it decides is wrong
more often than it says: with twenty looks about five times as often. An e-process is what a bettor who starts with 1
owns after each example, in a game that is fair or worse if the loss is on the wrong side of the limit. Such a bettor
ever reaches 20 in at most one run out of 20 (Ville 1939), so the first time that this happens decides. Bounds of the
loss that hold at all times together (a confidence sequence) are the limits that this would not yet exclude.

Two games. Of right and wrong answers every example can lose at most one: there each example is bet on, which is exact
(Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"). Errors of recordings and bits
of passages are uneven: there it is the t-statistic, mixed over effect sizes (Lai 1976, "On confidence sequences"; Wang
& Ramdas 2025, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance"). That is exact
for normal differences. For skewed ones there is one further example, worse than those that were seen;
docs/results/measuring.md shows how far this goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import stdtr

from ..errors import BadData
from ..task import Scores
from ..units import Drop
from .evidence import Differences

ERROR = 0.05  # of each decision, over all looks together
# Shares of the largest bet, each with a part of the money. Even over all of them: examples that agree are decided by
# large bets, many small differences by small ones, and neither is known beforehand.
BETS = np.arange(1, 21) / 20
# Prior precision of the mean in deviations. Levels far from the limit (10 deviations) are decided by 6 passages; larger
# values need more there, smaller ones near the limit.
PRECISION = 1.0
FARTHER = 2.75  # the further example: so many times as far from the estimate as the farthest
FEWEST = 4  # uneven examples, before which nothing is decided
STEPS = 16  # halvings that find a bound
FARTHEST = 100.0  # times the reference: a bound beyond this is none

Decision = Literal["within", "exceeds"]
Side = Literal[-1, 1]  # evidence that the loss is below, or above, a value


@dataclass(frozen=True)
class Look:
    """What the examples read so far say about the loss.

    decision: None where neither side of the limit is excluded yet. change: the estimate, above 0 where the candidate
    is better, as in a Verdict. low, high: its 95 % interval, valid at all looks together; of a relative change -100
    (FARTHEST) and 1 where nothing is known yet.
    """

    decision: Decision | None
    change: float
    low: float
    high: float
    examples: int


def look(
    reference: Scores, candidate: Scores, limit: Drop, *, error: float = ERROR, longest: float | None = None
) -> Look:
    """Judge the examples read so far; the Scores hold them in one random order, which does not depend on their scores.

    Each of *within* and *exceeds* is decided falsely in at most `error` of runs in which one looks as often as one
    likes and stops at the first decision. longest: the largest denominator of all examples, also of those that are
    still unread (words of the longest recording); by default of those read.
    Raises BadData without an example, ValueError for scores that are no pair, InvalidOption for bits in points,
    BrokenModel for scores that are not finite.
    """
    differences = Differences.of(reference, candidate, limit.relative)
    if not differences.examples:
        raise BadData(f"there is no example to judge {reference.metric} on")
    evidence = _evidence(differences, longest)
    low, high = (_bound(evidence, differences, side, error / 2) for side in (1, -1))
    decision = _decision(evidence, limit.amount, error)
    return Look(decision, 0.0 - differences.estimate, max(-high, -FARTHEST), min(-low, 1.0), differences.examples)


def decide(
    differences: Differences, limit: float, *, error: float = ERROR, longest: float | None = None
) -> Decision | None:
    """The decision of `look` alone."""
    return _decision(_evidence(differences, longest), limit, error)


def _decision(evidence: _Evidence, limit: float, error: float) -> Decision | None:
    needed = math.log(1 / error)
    if evidence.log_e(limit, -1) >= needed:
        return "within"
    return "exceeds" if evidence.log_e(limit, 1) >= needed else None


def _evidence(differences: Differences, longest: float | None) -> _Evidence:
    return _Bets(differences) if differences.share else _Mixture(differences, longest)


class _Evidence(Protocol):
    def log_e(self, loss: float, side: Side) -> float:
        """Logarithm of what the bettor owns who bet that the true loss lies on this side of `loss`."""
        ...


class _Bets:
    """Right and wrong answers: what was bet on each example, by the four outcomes that there are."""

    def __init__(self, differences: Differences) -> None:
        outcomes = 4 * differences.loss + differences.base  # base is 0 or 1
        _, places, counts = np.unique(outcomes, return_index=True, return_counts=True)
        self._loss, self._base = differences.loss[places], differences.base[places]
        self._counts = counts.astype(np.float64)
        self._relative = differences.relative

    def log_e(self, loss: float, side: Side) -> float:
        """The largest bet loses everything where loss_i - loss * base_i is as large, or small, as it can be."""
        room = 1 + loss if side > 0 else 1 if self._relative else 1 - loss
        if room <= 0:  # there is no such loss to bet against
            return 0.0
        gains = side * (self._loss - loss * self._base) / room
        with np.errstate(divide="ignore"):
            logarithms = self._counts @ np.log(np.maximum(1 + gains[:, None] * BETS, 0))
        return float(np.logaddexp.reduce(logarithms) - math.log(len(BETS)))


class _Mixture:
    """Uneven examples: the t-statistic, mixed over the effect sizes of one side (half a normal prior)."""

    def __init__(self, differences: Differences, longest: float | None) -> None:
        self._loss, self._base = differences.loss, differences.base
        self._further = _further(differences, longest)

    def log_e(self, loss: float, side: Side) -> float:
        """The likelihood ratio against a mean of 0, with the scale integrated out (1 / sigma) above and below."""
        if len(self._loss) < FEWEST:
            return 0.0
        worse, base = self._further[side]
        x = side * (np.append(self._loss, worse) - loss * np.append(self._base, base))
        n, S, V = len(x), float(x.sum()), float(x @ x)
        if S <= 0:  # the ratio is at most 1
            return 0.0
        A = V - S * S / (n + PRECISION)
        t = S * math.sqrt(n / ((n + PRECISION) * A))
        return 0.5 * (math.log(PRECISION / (n + PRECISION)) + n * math.log(V / A)) + math.log(2 * float(stdtr(n, t)))


def _further(differences: Differences, longest: float | None) -> dict[Side, tuple[float, float]]:
    """Loss and base of the example that speaks against each side.

    A recording may lose all of its words, and gain at most what the reference has wrong in one; bits of a passage may
    lie farther from the estimate than any that were seen.
    """
    base = float(differences.base.mean())
    if differences.bounded:
        lost = max(longest or 0.0, float(differences.length.max()))
        gained = max(1.0, float(differences.gainable.max()))
        return {-1: (lost, float(differences.base.max())), 1: (-gained, base)}
    farther = FARTHER * float(np.abs(differences.residuals).max())
    middle = differences.estimate * base
    return {-1: (middle + farther, base), 1: (middle - farther, base)}


def _bound(evidence: _Evidence, differences: Differences, side: Side, error: float) -> float:
    """The value nearest to the estimate that the loss is shown to lie above (1) or below (-1); infinite without one."""
    estimate, needed = differences.estimate, math.log(1 / error)

    def excluded(distance: float) -> bool:
        return evidence.log_e(estimate - side * distance, side) >= needed

    if differences.bounded and not differences.relative:
        outside: float | None = 1 + side * estimate  # no loss is beyond 1
    else:
        outside = _first(excluded, 1e-4) if math.isfinite(estimate) else None
    if outside is None:
        return -side * math.inf
    inside = 0.0
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
    return estimate - side * outside


def _first(excluded: Callable[[float], bool], distance: float) -> float | None:
    """A distance that is excluded, found by doubling."""
    while distance <= FARTHEST:
        if excluded(distance):
            return distance
        distance *= 2
    return None
