"""Latencies that agree: the reference has one for the whole run, every candidate's is that over its speedup.

Each candidate is timed interleaved with the reference, so the ratio of the two is known well. The reference's own time
differs from one timing to the next, with whatever else the machine does. Its latency is the median over the timings on
a quiet machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ..judge.latency import with_latency
from .candidates import Candidate

SLOW = 1.25  # times the reference's shortest quiet time, from which on a timing is one of a busy machine


@dataclass(frozen=True)
class Latency:
    """Seconds of the reference, with the ends of the intervals of all timings that count, and its shortest time."""

    seconds: float
    low_s: float
    high_s: float
    shortest_s: float


def agreeing(rows: Sequence[Candidate]) -> list[Candidate]:
    """The rows, with latencies of which those of the reference and a candidate have the candidate's speedup as ratio.

    A row whose timing found the reference much slower than another one did says so (`Candidate.busy`). Rows of a
    reference that was never timed with a candidate stay as they are.
    """
    sessions = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows:
        if "reference_s" in row.speed:
            sessions[row.speed["reference"]].append(row.speed)
    latencies = {reference: reference_latency(timings) for reference, timings in sessions.items()}
    return [_agreed(row, latencies) for row in rows]


def reference_latency(timings: Iterable[dict[str, Any]]) -> Latency:
    """The reference's, from the `speed` of the candidates that were timed with it: at least one."""
    timings = list(timings)
    quiet = [each for each in timings if not each["busy"]] or timings
    shortest = min(each["reference_s"] for each in quiet)
    steady = [each for each in quiet if each["reference_s"] <= SLOW * shortest]
    return Latency(
        median(each["reference_s"] for each in steady),
        min(each["reference_low_s"] for each in steady),
        max(each["reference_high_s"] for each in steady),
        shortest,
    )


def _agreed(row: Candidate, latencies: dict[str, Latency]) -> Candidate:
    if own := latencies.get(row.fingerprint):
        return _with(row, own.seconds, own.low_s, own.high_s)
    if "reference_s" not in row.speed:
        return row
    speed = dict(row.speed)
    reference = latencies[speed["reference"]]
    times = speed["reference_s"] / reference.shortest_s
    speed["slow"] = f"the reference took {times:.1f} times as long as at other times" if times > SLOW else ""
    seconds = reference.seconds
    row = replace(row, speed=speed)
    return _with(row, *(seconds / speed[name] for name in ("speedup", "high", "low")))


def _with(row: Candidate, seconds: float, low_s: float, high_s: float) -> Candidate:
    """The row with another latency, in the measurements of both splits."""
    validation, test = (
        None if each is None else with_latency(each, seconds, low_s, high_s) for each in (row.measurement, row.test)
    )
    return replace(row, measurement=validation, test=test)
