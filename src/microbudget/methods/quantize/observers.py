"""Observers: the range of a tensor from batches seen once, in memory that does not grow with their number.

`MinMax` keeps two numbers. `Histogram` keeps counts in bins whose width is a power of two, so that widening merges bins
exactly: what it knows depends only on the values counted, not on their order nor on how they came in batches. With
`every` not all are counted, and which ones are depends on the batches; the smallest and the largest value do not.
The ranges that are read from a histogram: min/max, percentile, least squared error, entropy (Kullback-Leibler).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData, BrokenModel
from .mapping import Real, affine, dequantize, quantize

Range = tuple[float, float]
Floats = NDArray[np.float64]
Cost = Callable[[float, float], float]

SMALLEST_EXPONENT = -125  # the width stays a normal float32
MUCH_WORSE = 20.0  # times the least cost: a still smaller threshold would clip even more
BINS = 4096  # on each side of zero: at least 8 bins for every level of 8 bits


class MinMax:
    """The smallest and the largest value of all batches; two numbers."""

    def __init__(self) -> None:
        self.low, self.high, self.count = math.inf, -math.inf, 0

    def update(self, x: Real) -> None:
        """See one batch, any shape. Raises BrokenModel on NaN or infinity."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BrokenModel("an activation is NaN or infinite on calibration data: is the model or an image broken?")
        self.low, self.high, self.count = min(self.low, low), max(self.high, high), self.count + x.size

    def range(self) -> Range:
        """(low, high) of everything seen; raises BadData when nothing was."""
        if not self.count:
            raise BadData("no calibration data were seen: give at least one batch")
        return self.low, self.high


class Histogram(MinMax):
    """Counts of values in 2 * BINS bins of width 2^exponent around zero. Exact zeros are counted separately."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = SMALLEST_EXPONENT
        self.counts = np.zeros(2 * BINS, np.int64)
        self.zeros = 0

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middles of the bins, (2 * BINS,)."""
        return np.asarray((np.arange(-BINS, BINS) + 0.5) * self.width, np.float64)

    @property
    def filled(self) -> tuple[Floats, Floats]:
        """The middles and the counts of the bins that are not empty."""
        some = self.counts > 0
        return self.centres[some], self.counts[some].astype(np.float64)

    def update(self, x: Real, every: int = 1) -> None:
        """See one batch, any shape; count every `every`-th value from its first, but take the extremes of all.

        Raises BrokenModel on NaN or infinity.
        """
        super().update(x)
        if not self.count:
            return
        self._widen(max(abs(self.low), abs(self.high)))
        x = x.reshape(-1)[::every]
        scaled = np.divide(x, self.width, dtype=np.float64)  # in float32 a tiny negative value would become -0
        bins = np.floor(scaled, out=scaled).astype(np.int32) + BINS
        zeros = x.size - int(np.count_nonzero(x))
        self.counts += np.bincount(bins, minlength=2 * BINS)
        self.counts[BINS] -= zeros
        self.zeros += zeros

    def _widen(self, magnitude: float) -> None:
        """Double the bins until `magnitude` lies strictly inside; two neighbours become one."""
        if not magnitude:  # zeros alone: no bin is needed, and frexp would take them for ones
            return
        needed = math.frexp(magnitude)[1] - BINS.bit_length() + 1
        if needed <= self.exponent:
            return
        doublings = min(needed - self.exponent, BINS.bit_length() - 1)
        merged = self.counts.reshape(-1, 1 << doublings).sum(axis=1)
        self.counts = np.zeros_like(self.counts)
        self.counts[BINS - merged.size // 2 : BINS + merged.size // 2] = merged
        self.exponent = needed


def min_max_range(histogram: MinMax) -> Range:
    """The smallest and the largest value: nothing is clipped."""
    return histogram.range()


def percentile_range(histogram: Histogram, percent: float = 99.99) -> Range:
    """The range between the (100 - percent)th and the percent-th percentile, interpolated within a bin."""
    low, high = histogram.range()
    counts = histogram.counts.copy()
    counts[BINS] += histogram.zeros
    edges = np.arange(-BINS, BINS + 1) * histogram.width
    reached = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    at = [float(np.interp(p / 100, reached, edges)) for p in (100 - percent, percent)]
    return min(max(at[0], low), high), max(min(at[1], high), low)


def least_squares_range(histogram: Histogram, bits: int = 8, *, signed: bool = False) -> Range:
    """The range whose rounding and clipping lose the least squared error over all values."""
    x, counts = histogram.filled
    return _search(lambda low, high: _lost(x, counts, low, high, bits, signed), *histogram.range())


def entropy_range(histogram: Histogram, bits: int = 8, *, signed: bool = False) -> Range:
    """The range whose integers keep most of the distribution: least KL divergence (Migacz 2017, TensorRT)."""
    x, counts = histogram.filled
    return _search(lambda low, high: _divergence(x, counts, low, high, bits, signed), *histogram.range())


def squared_error(histogram: Histogram, low: float, high: float, bits: int, *, signed: bool = False) -> float:
    """The sum of (x - S (q - Z))^2 over the values counted, each taken at its bin's middle."""
    return _lost(*histogram.filled, low, high, bits, signed)


def divergence(histogram: Histogram, low: float, high: float, bits: int, *, signed: bool = False) -> float:
    """KL(P || Q) in nats: P the counts with what is outside moved to the edge bins, Q the counts inside, each integer's
    share spread evenly over its filled bins.
    """
    return _divergence(*histogram.filled, low, high, bits, signed)


def _lost(x: Floats, counts: Floats, low: float, high: float, bits: int, signed: bool) -> float:
    S, Z = affine(np.asarray(low), np.asarray(high), bits, signed=signed)
    lost = x - dequantize(quantize(x, S, Z, bits, signed=signed), S, Z)
    return float(counts @ lost**2)


def _divergence(x: Floats, counts: Floats, low: float, high: float, bits: int, signed: bool) -> float:
    inside = (x >= low) & (x <= high)
    if not inside.any():
        return math.inf
    S, Z = affine(np.asarray(low), np.asarray(high), bits, signed=signed)
    level = quantize(x[inside], S, Z, bits, signed=signed).astype(np.int64)
    level -= level.min()
    clipped = np.clip(np.arange(x.size), *np.flatnonzero(inside)[[0, -1]])
    P = np.bincount(clipped, counts, x.size)[inside]
    Q = (np.bincount(level, counts[inside]) / np.maximum(np.bincount(level), 1))[level]
    P, Q = P / P.sum(), Q / Q.sum()
    return float(P @ np.log(P / Q))


def _search(cost: Cost, low: float, high: float) -> Range:
    """The (low, high) of least cost: first a threshold on the magnitude, then each end, in large and small steps."""
    best = low, high
    costs = {best: cost(low, high)}

    def consider(candidate: Range) -> float:
        nonlocal best
        if candidate not in costs:  # most are new, but an end at zero, such as ReLU's, does not move
            costs[candidate] = cost(*candidate)
        if costs[candidate] < costs[best]:
            best = candidate
        return costs[candidate]

    for threshold in np.geomspace(1, 0.02, 60).tolist():
        limit = max(-low, high) * threshold
        if consider((max(low, -limit), min(high, limit))) > MUCH_WORSE * costs[best]:
            break
    for spread in (0.3, 0.05):
        for end in (0, 1):
            centre = best
            for fraction in np.linspace(1 - spread, 1 + spread, 21).tolist():
                moved = [centre[0], centre[1]]
                moved[end] = max(moved[0] * fraction, low) if end == 0 else min(moved[1] * fraction, high)
                consider((moved[0], moved[1]))
    return best


def range_by_name(observer: str, histogram: MinMax, bits: int, *, signed: bool) -> Range:
    """The range of one of OBSERVERS; all but min_max need a Histogram."""
    if observer == "min_max" or not isinstance(histogram, Histogram):
        return min_max_range(histogram)
    if observer in ("entropy", "least_squares"):
        search = entropy_range if observer == "entropy" else least_squares_range
        return search(histogram, bits, signed=signed)
    return percentile_range(histogram)


OBSERVERS = ("min_max", "percentile", "least_squares", "entropy")
