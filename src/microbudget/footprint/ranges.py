"""A number with its low, middle and high end, and where it comes from.

The ends are those of a 90 % range. Factors that are independent are multiplied by adding the squares of their widths
in logarithms (a product of log-normal factors): all of them at their extreme at once is not what happens. Terms of a
sum are added in the same way, without logarithms. Below and above the middle are reckoned apart, as many ranges lean to
one side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Range:
    """low <= middle <= high, all above zero, or all zero."""

    low: float
    middle: float
    high: float
    origin: str = ""

    def __mul__(self, other: Range | float) -> Range:
        if not isinstance(other, Range):
            return replace(self, low=self.low * other, middle=self.middle * other, high=self.high * other)
        middle = self.middle * other.middle
        if not middle:
            return Range(0.0, 0.0, 0.0, self.origin)
        below = math.hypot(_log(self.middle, self.low), _log(other.middle, other.low))
        above = math.hypot(_log(self.high, self.middle), _log(other.high, other.middle))
        return Range(middle * math.exp(-below), middle, middle * math.exp(above), self.origin)

    def __truediv__(self, other: Range | float) -> Range:
        if isinstance(other, Range):
            return self * Range(1 / other.high, 1 / other.middle, 1 / other.low)
        return self * (1 / other)

    def __add__(self, other: Range) -> Range:
        middle = self.middle + other.middle
        below = math.hypot(self.middle - self.low, other.middle - other.low)
        above = math.hypot(self.high - self.middle, other.high - other.middle)
        return Range(middle - below, middle, middle + above, self.origin)

    def of(self, origin: str) -> Range:
        """The same with another origin."""
        return replace(self, origin=origin)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"low": self.low, "middle": self.middle, "high": self.high, "origin": self.origin}


def exactly(value: float, origin: str) -> Range:
    """A number that is given or counted."""
    return Range(value, value, value, origin)


def _log(upper: float, lower: float) -> float:
    return math.log(upper / lower) if lower > 0 else 0.0
