"""Speeds: how a candidate's timing with the reference is kept, and which of two timings is of the quieter machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..judge.latency import with_latency
from ..judge.timing import PairTiming
from ..runs.candidates import Candidate
from ..runs.latencies import agreeing


def ratio_of(pair: PairTiming) -> dict[str, Any]:
    """A speedup, JSON-ready: above 1, the second of the pair is faster. busy: why it is that on a busy machine."""
    return {"speedup": pair.ratio, "low": pair.low, "high": pair.high, "verdict": pair.verdict, "busy": pair.busy}


def speed_of(pair: PairTiming, reference: str) -> dict[str, Any]:
    """The `speed` of a Candidate that was timed with the reference. reference: its fingerprint."""
    return {
        **ratio_of(pair),
        "reference": reference,
        "reference_s": pair.reference.median_s,
        "reference_low_s": pair.reference.low_s,
        "reference_high_s": pair.reference.high_s,
        "waited": pair.waited,
        "load_average": pair.load_average,
        "pairs": pair.pairs,
    }


def quieter(candidate: Candidate, speed: dict[str, Any]) -> Candidate:
    """The candidate with another timing where that is of a quieter machine, else as it is."""
    kept, measured = candidate.speed, candidate.measurement
    if measured is None or (_disturbance(kept) <= _disturbance(speed)):
        return candidate
    latency_s, low_s, high_s = (speed["reference_s"] / speed[name] for name in ("speedup", "high", "low"))
    over_float = {"over_float": kept["over_float"]} if "over_float" in kept else {}
    return replace(
        candidate,
        speed={**speed, **over_float},
        measurement=with_latency(measured, latency_s, low_s, high_s),
    )


def _disturbance(speed: dict[str, Any]) -> tuple[bool, float, float]:
    """Less is quieter: other programs had the processor, for how long, and how long the reference took."""
    return bool(speed["busy"]), (speed["waited"] or 0.0) if speed["busy"] else 0.0, speed["reference_s"]


def agreed(reference: Candidate, found: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """The reference and the candidates of a run with latencies that agree; see `runs.latencies`."""
    first, *others = agreeing([reference, *found])
    return first, others
