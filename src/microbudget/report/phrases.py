"""Phrases: numbers of a measurement as a reader wants them, with their interval where there is one."""

from __future__ import annotations

from typing import Any

from ..judge.budget import Measurement
from ..judge.verdict import Verdict
from ..runs.candidates import Candidate
from ..units import format_bytes, format_change, format_points, format_seconds, format_times

MISSING = "–"
SHARES = frozenset({"accuracy", "wer", "cer"})  # metrics that people read in per cent
ABOUT_THE_SAME = 0.005  # sizes whose ratio is closer to 1
TIMES_FROM = 1.5  # the ratio from which sizes differ by a factor, below by per cent
LOWER_IS_BETTER = frozenset({"wer", "cer", "bits per byte", "perplexity"})


def quality(measurement: Measurement, value: float | None = None) -> str:
    """The quality, or another value of its metric: "97.2 %"."""
    shown = measurement.quality if value is None else value
    return f"{shown * 100:.1f} %" if measurement.metric.lower() in SHARES else f"{shown:.4g}"


def quality_interval(measurement: Measurement) -> str:
    """The 95 % interval: "92.1 to 99.0 %"."""
    low, high = quality(measurement, measurement.quality_low), quality(measurement, measurement.quality_high)
    return f"{low.removesuffix(' %')} to {high}"


def secondary(found: dict[str, Any]) -> str:
    """The quality on secondary data, of `judge.secondary`, with its interval: "0.4120 (0.371..0.455)"."""
    return f"{found['quality']:.4f} ({found['quality_low']:.3f}..{found['quality_high']:.3f})"


def secondary_change(found: dict[str, Any]) -> str:
    """The change on other data: "accuracy is 0.41 against 0.43: -1.56 pt (95 %: ...); a loss within 1pt ..."."""
    metric = found["metric"]
    ends = _to(*(format_change(found[f"change_{end}"], metric) for end in ("low", "high")))
    change = format_change(found["change"], metric)
    said = {"within": "is shown", "exceeds": "is exceeded"}.get(found["verdict"], "is not shown")
    against = f"{metric} is {found['quality']:.4g} against {found['reference']:.4g}"
    return f"{against}: {change} (95 %: {ends}); a loss within {found['limit']} {said}"


def kl(measurement: Measurement) -> str:
    """The divergence from the reference in nats: "0.014"."""
    return MISSING if measurement.kl is None else f"{measurement.kl:.2g}"


def readings(models: int) -> str:
    """How many models of a run have read its test split, besides the reference: "read once"."""
    return "read once" if models < 2 else f"read by {models} models of this run"


def size(measurement: Measurement) -> str:
    """Size of the files that inference needs."""
    return format_bytes(measurement.size_bytes)


def latency(measurement: Measurement) -> str:
    """Median time of one example."""
    return MISSING if measurement.latency_s is None else format_seconds(measurement.latency_s)


def latency_interval(measurement: Measurement) -> str:
    """The median's 95 % interval."""
    if measurement.latency_low_s is None or measurement.latency_high_s is None:
        return ""
    return _to(format_seconds(measurement.latency_low_s), format_seconds(measurement.latency_high_s))


def memory(measurement: Measurement) -> str:
    """Peak memory of the model."""
    return MISSING if measurement.memory_bytes is None else format_bytes(measurement.memory_bytes)


def predicted_memory(measurement: Measurement) -> str:
    """What was predicted of it: "predicted 31 MB"."""
    size = measurement.extra.get("predicted", {}).get("memory_bytes")
    return f"predicted {format_bytes(size)}" if size else ""


def speedup(speed: dict[str, Any]) -> str:
    """How many times as fast as the reference: "6.4×"."""
    return f"{format_times(speed['speedup'])}×" if speed.get("speedup") else MISSING


def speedup_interval(speed: dict[str, Any]) -> str:
    """The 95 % interval of the speedup."""
    return (
        f"{format_times(speed['low'])} to {format_times(speed['high'])}×" if "low" in speed and "high" in speed else ""
    )


def busy(candidate: Candidate) -> str:
    """A sentence where its speed is that on a busy machine."""
    return f"timed on a busy machine: {candidate.busy}" if candidate.busy else ""


def timed_on(reference: Candidate) -> str:
    """On which machine the rows of a run were timed, where that is another one; "" otherwise."""
    if not reference.elsewhere:
        return ""
    stands_in = reference.elsewhere.get("stands_in")
    own = f"; the reference has the times of {stands_in} there" if stands_in else ""
    return f"timed on {reference.elsewhere['machine']}{own}; quality was measured where the run is"


def elsewhere(candidate: Candidate) -> str:
    """What is wrong with it on the machine that the run is chosen for, where that is another one."""
    return str(candidate.elsewhere.get("failure") or candidate.elsewhere.get("missing") or "")


def change(verdict: Verdict, value: float | None = None) -> str:
    """The paired change of quality, in points, or in per cent of the reference under a relative limit."""
    shown = verdict.change if value is None else value
    return f"{shown * 100:+.2f} %" if verdict.limit.endswith("%") else format_points(shown)


def change_interval(verdict: Verdict) -> str:
    """The 95 % interval of the change."""
    return _to(change(verdict, verdict.change_low), change(verdict, verdict.change_high))


def decision(verdict: Verdict) -> str:
    """The verdict with its limit: "A loss within 1pt is shown"."""
    if verdict.beyond and verdict.decision != "exceeds":
        return f"The estimate is beyond {verdict.limit}; whether the loss is, is not shown"
    return {
        "within": f"A loss within {verdict.limit} is shown",
        "exceeds": f"A loss beyond {verdict.limit} is shown",
        "not shown": f"A loss within {verdict.limit} is not shown",
    }[verdict.decision]


def size_change(before_bytes: float, after_bytes: float) -> str:
    """A change of size in words: "3.5 times smaller", "12 % larger", "about the same size"."""
    ratio, word = before_bytes / after_bytes, "smaller"
    if ratio < 1:
        ratio, word = 1 / ratio, "larger"
    if before_bytes == after_bytes:
        return "the same size"
    if ratio < 1 + ABOUT_THE_SAME:
        return "about the same size"
    if ratio >= TIMES_FROM:
        return f"{format_times(ratio)} times {word}"
    return f"{abs(before_bytes - after_bytes) / before_bytes * 100:.0f} % {word}"


def ratio(larger: float, smaller: float) -> str:
    """How many times: "3.5"."""
    return format_times(larger / smaller)


def share(fraction: float) -> str:
    """A fraction of one in per cent, with enough digits to distinguish it from all and none."""
    if 0.995 <= fraction < 1:
        return f"{fraction * 100:.2f} %"
    if fraction >= 0.1 or fraction == 0:
        return f"{fraction * 100:.0f} %"
    return f"{fraction * 100:.1f} %" if fraction >= 0.01 else f"{fraction * 100:.2g} %"


def _to(low: str, high: str) -> str:
    """Both ends of an interval with the unit once where it is the same."""
    number, _, unit = low.rpartition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def against_float(candidate: Candidate) -> str:
    """The effect of quantizing on the speed, where it was timed."""
    speed = candidate.speed.get("over_float")
    if not speed:
        return ""
    if speed["verdict"] == "no difference shown":
        return f"no difference in speed shown against the same model in float ({speedup_interval(speed)})"
    return f"{speedup(speed)} the speed of the same model in float ({speedup_interval(speed)})"
