"""Schedule: how the minutes of a run are divided between what is tried, the reading of each, and the final test."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

FINAL_SHARE = 0.25  # of the whole time, at most, for what follows the search: the test of what ships
WRITING_S = 5.0  # to deliver a model and write the report
FIRST_SHARE = 0.25  # of the whole time, within which there must be something to deliver


@dataclass
class Schedule:
    """The time of a run. All points in time are of `time.monotonic`; without minutes there is no end (infinity).

    final_s: what is kept for the test and the report: FINAL_SHARE of all, or less when it is known what a reading takes
    (`keep_for_test`).
    """

    minutes: float | None = None
    started: float = field(default_factory=time.monotonic)
    final_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.final_s = 0.0 if self.minutes is None else FINAL_SHARE * self.total_s

    @property
    def total_s(self) -> float:
        """All of it."""
        return math.inf if self.minutes is None else self.minutes * 60

    @property
    def end(self) -> float:
        """When everything is over."""
        return self.started + self.total_s

    @property
    def deadline(self) -> float | None:
        """The end, as methods take it."""
        return None if self.minutes is None else self.end

    @property
    def search_end(self) -> float:
        """When the last candidate must be measured."""
        return self.end - self.final_s

    @property
    def left_s(self) -> float:
        """Until the end."""
        return self.end - time.monotonic()

    def reading_end(self, candidates: int, *, first: bool = False) -> float:
        """Until when the candidate that is read now may be read: so many, itself included, share what is left.

        first: nothing can be delivered yet, so that no more than a quarter of the whole may have passed.
        """
        now = time.monotonic()
        shared = now + max(0.0, self.search_end - now) / max(1, candidates)
        return min(shared, max(now, self.started + FIRST_SHARE * self.total_s)) if first else shared

    def training_end(self, trainings: int) -> float:
        """Until when the training that begins now may last: so many, itself included, share what is left."""
        now = time.monotonic()
        return now + max(0.0, self.search_end - now) / max(1, trainings)

    def keep_for_test(self, examples: int, example_s: float) -> None:
        """Keep the time for reading the test split. example_s: of one example by the two models that are compared."""
        self.final_s = min(FINAL_SHARE * self.total_s, examples * example_s + WRITING_S)

    def test_count(self, examples: int, example_s: float) -> int:
        """How many test examples there is time for, at least 1: a number that is fixed before any of them is read."""
        if math.isinf(self.total_s) or example_s <= 0:
            return examples
        room_s = max(self.left_s, self.final_s) - WRITING_S
        return max(1, min(examples, int(room_s / example_s)))
