"""Votes: which of two answers people preferred without knowing whose they were, and what follows from it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Vote = Literal["left", "right", "same"]
ERROR = 0.05
MOST = 2000  # votes: beyond, nobody goes on


@dataclass(frozen=True)
class Tally:
    """The votes on two models."""

    names: tuple[str, str]
    first: int = 0
    second: int = 0
    same: int = 0

    @property
    def p(self) -> float:
        """Of the exact two-sided sign test: how often chance alone would prefer one as clearly. Same counts for none.

        Conover, Practical Nonparametric Statistics, 3.4.
        """
        return sign_test(max(self.first, self.second), self.first + self.second)

    @property
    def leader(self) -> str:
        """The name of the one with more votes; "" where there is none."""
        return "" if self.first == self.second else self.names[self.second > self.first]

    @property
    def decided(self) -> bool:
        """Whether the preference is shown at 95 % confidence."""
        return self.p < ERROR

    @property
    def more(self) -> int | None:
        """How many further votes would decide if their share stays as it is; None where none is preferred so far."""
        total, lead = self.first + self.second, max(self.first, self.second)
        if not self.leader:
            return None
        for count in range(total, MOST):
            if sign_test(round(lead / total * count), count) < ERROR:
                return count - total
        return None

    def __str__(self) -> str:
        """The verdict in one line."""
        a, b = self.names
        counts = f"{self.first} for {a}, {self.second} for {b}, {self.same} the same"
        if self.decided:
            return f"{counts}: people prefer {self.leader} (sign test, p = {self.p:.2g})"
        if self.more is None:
            return f"{counts}: no preference so far"
        return f"{counts}: not decided (sign test, p = {self.p:.2g}); {self.more} more votes at this share would decide"


def sign_test(successes: int, votes: int) -> float:
    """The two-sided p-value of so many of `votes` under even odds; 1 without a vote."""
    if votes == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(successes, votes, 0.5).pvalue)


class Votes:
    """The votes of everybody who has the page open, by pairs of models."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        self._lock = threading.Lock()

    def add(self, shown: tuple[str, str], vote: Vote) -> Tally:
        """Count a vote on the models that were shown on the left and on the right."""
        left, right = shown
        chosen = {"left": left, "right": right}.get(vote, "")
        with self._lock:
            self._counts.setdefault(_pair(shown), Counter())[chosen] += 1
        return self.tally(shown)

    def tally(self, shown: tuple[str, str]) -> Tally:
        """The votes on a pair, in either order."""
        names = _pair(shown)
        counts = self._counts.get(names, Counter())
        return Tally(names, counts[names[0]], counts[names[1]], counts[""])

    def tallies(self) -> list[Tally]:
        """Of all pairs that were voted on."""
        return [self.tally(pair) for pair in self._counts]


def _pair(names: tuple[str, str]) -> tuple[str, str]:
    first, second = sorted(names)
    return first, second
