"""Deadline: long loops stop when the time is up, or as soon as their own steps show that it will not suffice."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import numpy as np

from ..errors import OutOfTime
from ..machine.waiting import WAITED, waited_ns
from ..units import format_seconds

FIRST_LOOK = 5  # steps after which it is estimated, and again after twice as many
BLOCKS = 9  # of steps, whose middle counts: other programs may slow down four of them
HOPELESS = 20.0  # times the time that is left: no burst of other work makes steps so much slower
QUIET_SHARE = 0.05  # of the time must have passed before a loop is given up, where its threads had the processor
BUSY_SHARE = 0.25  # the same, where they waited for it or nothing says whether they did


class Clock:
    """Watches a loop. deadline: a time of `time.monotonic`, or None: there is no end. what: the loop's name.

    Other programs can make a few steps ten times slower, which says nothing of those that follow. So a loop is judged
    by the middle of its latest steps, and on a busy machine only after a quarter of its time.
    waited: nanoseconds for which this process has waited for a processor so far, where that is known.
    """

    def __init__(self, deadline: float | None, what: str, waited: Callable[[], int | None] = waited_ns) -> None:
        self._deadline, self._what, self._waited = deadline, what, waited
        self._created = time.monotonic()
        self._look, self._next_share = FIRST_LOOK, BUSY_SHARE
        self._ends = array("d")  # of each step
        self._waited_before: int | None = None  # by the end of the first one

    @property
    def limited(self) -> bool:
        """Whether there is an end."""
        return self._deadline is not None

    @property
    def over(self) -> bool:
        """Whether the end has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def tick(self, left: int) -> None:
        """After each step: `left` more are to come. Raises OutOfTime when there is no time for them."""
        if self._deadline is None:
            return
        now = time.monotonic()
        self._ends.append(now)
        if len(self._ends) == 1:
            self._waited_before = self._waited()
        if not left:
            return
        left_s, needed_s = self._deadline - now, 0.0
        share = (now - self._created) / max(self._deadline - self._created, 1e-9)
        if self._is_time_to_look(share):
            needed_s = self._step_s() * left
            if needed_s <= HOPELESS * left_s and share < self._patience():
                needed_s = 0.0
        if needed_s > left_s:
            reason = f"{self._what} would take {format_seconds(needed_s)} more, and {format_seconds(left_s)} are left"
            raise OutOfTime(_advice(reason if left_s > 0 else f"the time is up in the middle of {self._what}"))

    def _is_time_to_look(self, share: float) -> bool:
        """After FIRST_LOOK steps, twice as many, and so on, and at each quarter of the time."""
        done = len(self._ends)
        if done < FIRST_LOOK or (done < self._look and share < self._next_share):
            return False
        while self._look <= done:
            self._look *= 2
        while self._next_share <= share:
            self._next_share += BUSY_SHARE
        return True

    def _step_s(self) -> float:
        """Seconds of a step, of the latest half of them: the median of the means of blocks, or the mean if it is less.

        The mean of a block has its part of what only some steps do, such as a validation. In a burst that takes most
        of the time few steps are done. The first step is no measure: memory is taken, files are read.
        """
        steps = np.diff(np.array(self._ends))
        steps = steps[-max(len(steps) // 2, FIRST_LOOK - 1) :]
        middle = np.median([block.mean() for block in np.array_split(steps, min(BLOCKS, len(steps)))])
        return float(min(middle, steps.mean()))

    def _patience(self) -> float:
        """The share of the time that must have passed before a loop is given up that may only be slow for now."""
        before, after = self._waited_before, self._waited()
        if before is None or after is None:
            return BUSY_SHARE
        return BUSY_SHARE if (after - before) * 1e-9 > WAITED * (self._ends[-1] - self._ends[0]) else QUIET_SHARE


def _advice(reason: str) -> str:
    return f"{reason}; what was done so far is kept: give the same command again with more --minutes"
