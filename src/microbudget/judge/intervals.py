"""Intervals of timings: how sure a median or a ratio of medians is, from blocks that disturb each other."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MOST = 1000  # differences whose Walsh averages are formed: half a million
FEWEST = 6  # pairs: with fewer no order statistic reaches 95 % (2 / 2^5 > 0.05)
GROUPS = 8  # of neighbours whose means are compared; Schmeiser 1982 for the number
ALIKE = 0.25  # level at which openings must differ to count as such


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def shift(
    differences: Floats, confidence: float = 0.95, openings: Integers | None = None
) -> tuple[float, float, float]:
    """Hodges-Lehmann estimate of the centre of symmetric differences in time order, and its interval.

    differences: (n,). openings: (n,), which opening of the two processes each is from, by default all from one. The
    interval holds the Walsh averages between the critical ranks of Wilcoxon's signed rank test: it needs no normal
    noise, only that the sign of each difference's noise is a coin's, which the random order inside each pair of blocks
    makes true. Hollander & Wolfe 1999, section 3.3, normal approximation; its variance is inflated where neighbours are
    alike, its width where the differences of one opening are. Below 6 differences the interval is infinite.
    """
    differences, openings = _thinned(differences, np.zeros(len(differences), int) if openings is None else openings)
    n = len(differences)
    if n < FEWEST:
        return float(np.median(differences)) if n else math.nan, -math.inf, math.inf
    averages = ((differences[:, None] + differences[None, :]) / 2)[np.tri(n, dtype=bool)]
    M = len(averages)  # n (n + 1) / 2
    several = openings[0] != openings[-1]
    spread = _z(confidence) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24 * (1 if several else inflation(differences)))
    rank = max(0, math.floor(M / 2 - spread))  # the rank-th smallest and largest bound the interval
    averages.partition(sorted({rank, (M - 1) // 2, M // 2, M - 1 - rank}))  # less than half the time of sorting
    low, high = float(averages[rank]), float(averages[M - 1 - rank])
    middle = float(averages[[(M - 1) // 2, M // 2]].mean())
    if several:  # by the width and not by the rank, which would soon be the first
        wider = math.sqrt(between(differences, openings, confidence))
        low, high = middle - wider * (middle - low), middle + wider * (high - middle)
    return middle, low, high


def _thinned(series: Floats, openings: Integers) -> tuple[Floats, Integers]:
    """At most MOST values: means of neighbours where there are more, the last incomplete group left out."""
    size = -(-len(series) // MOST)
    if size <= 1:
        return series, openings
    parts = [part[: len(part) // size * size].reshape(-1, size) for part in _split(series, openings)]
    labels = [np.full(len(part), number) for number, part in enumerate(parts)]
    return np.concatenate([part.mean(axis=1) for part in parts]), np.concatenate(labels)


def _split(series: Floats, openings: Integers) -> list[Floats]:
    return np.split(series, np.flatnonzero(np.diff(openings)) + 1)


def _clipped(differences: Floats) -> Floats:
    """Their distances from the median, at most three robust deviations."""
    centred = differences - np.median(differences)
    deviation = 1.4826 * float(np.median(np.abs(centred)))
    clipped: Floats = np.clip(centred, -3 * deviation, 3 * deviation)
    return clipped


def inflation(differences: Floats, groups: int = GROUPS) -> float:
    """By how much the variance of the mean exceeds that of independent values, at least 1: batch means.

    What lasts longer than a pair of blocks makes neighbours alike, and the interval too narrow if they counted in
    full. Values are clipped at three robust deviations first.
    """
    length = len(differences) // groups
    centred = _clipped(differences)
    whole = float(centred.var(ddof=1)) if len(centred) > 1 else 0.0
    if length < 2 or whole == 0:
        return 1.0
    means = centred[: groups * length].reshape(groups, length).mean(axis=1)
    return max(1.0, length * float(means.var(ddof=1)) / whole)


def between(differences: Floats, openings: Integers, confidence: float = 0.95) -> float:
    """The same where the groups are openings of the processes, and what they are worth is known only from themselves.

    What an opening brings for good (where its pages lie) no number of its blocks averages out: the means of the
    openings are the independent values then, and with so few of them Student's quantile takes the place of the normal
    one. Mean square across the groups of a one-way layout with random effects (Searle, Casella & McCulloch 1992,
    section 3.6) over the variance of all. Where the openings do not even differ at a level of 25 %, all differences
    count as one group: the level for such a preliminary test is Bancroft's (1964).
    """
    centred = _clipped(differences)
    parts = _split(centred, openings)
    sizes, means = np.array([len(part) for part in parts]), np.array([part.mean() for part in parts])
    freedom, rest = len(parts) - 1, len(differences) - len(parts)
    squares = sizes * (means - centred.mean()) ** 2
    whole, across = float(((centred - centred.mean()) ** 2).sum()), float(squares.sum())
    if rest == 0 or across / freedom <= fdtri(freedom, rest, 1 - ALIKE) * (whole - across) / rest:
        return 1.0
    widened: float = stdtrit(freedom, 0.5 + confidence / 2) / _z(confidence)
    return max(1.0, across / freedom * (len(differences) - 1) / whole * widened**2)


def widened(middle: float, low: float, high: float, deviation: float, confidence: float = 0.95) -> tuple[float, float]:
    """An interval around `middle` with a further, independent and normal deviation of the same unit."""
    further = _z(confidence) * deviation
    return middle - math.hypot(middle - low, further), middle + math.hypot(high - middle, further)


def independent(series: Floats) -> float:
    """How many independent values a series is worth: n (1 - r) / (1 + r) with the lag-one autocorrelation of its ranks.

    A processor hog that comes and goes makes neighbouring blocks alike; Priestley 1981, section 5.3, for an AR(1).
    """
    n = len(series)
    ordered = np.sort(series)
    ranks = (np.searchsorted(ordered, series, "left") + np.searchsorted(ordered, series, "right")) / 2
    ranks -= ranks.mean()
    variance = float(ranks @ ranks)
    if n < 3 or variance == 0:
        return float(n)
    r = min(max(float(ranks[1:] @ ranks[:-1]) / variance, 0.0), 0.95)
    return max(1.0, n * (1 - r) / (1 + r))


def median(series: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of a series in time order, and its interval from order statistics at the series' independent length."""
    half = _z(confidence) / (2 * math.sqrt(independent(series)))
    low, middle, high = np.quantile(series, (max(0.0, 0.5 - half), 0.5, min(1.0, 0.5 + half)))
    return float(middle), float(low), float(high)
