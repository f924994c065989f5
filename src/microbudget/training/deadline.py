"""Deadline: long loops stop when the time is up, or as soon as their own steps show that it will not suffice."""

from __future__ import annotations

import time

from ..errors import OutOfTime
from ..units import format_seconds

FIRST_LOOK = 5  # steps after which it is estimated, and again after twice as many


class Clock:
    """Watches a loop. deadline: a time of `time.monotonic`, or None: there is no end. what: the loop's name."""

    def __init__(self, deadline: float | None, what: str) -> None:
        self._deadline, self._what = deadline, what
        self._done, self._look, self._began = 0, FIRST_LOOK, 0.0

    @property
    def limited(self) -> bool:
        """Whether there is an end."""
        return self._deadline is not None

    def tick(self, left: int) -> None:
        """After each step: `left` more are to come. Raises OutOfTime when there is no time for them."""
        now = time.monotonic()
        self._done += 1
        if self._done == 1:  # the first one is no measure: memory is taken, files are read
            self._began = now
        if self._deadline is None or not left:
            return
        left_s, needed_s = self._deadline - now, 0.0
        if self._done == self._look:
            self._look *= 2
            needed_s = (now - self._began) / (self._done - 1) * left
        if needed_s > left_s:
            reason = f"{self._what} would take {format_seconds(needed_s)} more, and {format_seconds(left_s)} are left"
            raise OutOfTime(_advice(reason if left_s > 0 else f"the time is up in the middle of {self._what}"))


def _advice(reason: str) -> str:
    return f"{reason}; what was done so far is kept: give the same command again with more --minutes"
