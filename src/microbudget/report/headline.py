"""The headline: what ships, in one sentence, whether the budget is met, and how to use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..judge.budget import Budget, Measurement
from ..runs.candidates import Candidate
from ..units import format_bytes, format_joules, format_seconds
from . import phrases
from .outcome import Outcome
from .part import Usage, opening_of, usage_of, words_of


@dataclass(frozen=True)
class Bar:
    """One cost of both models, for a pair of bars; the widths are shares of the larger."""

    name: str
    reference: str
    small: str
    reference_width: float
    small_width: float
    gain: str


@dataclass(frozen=True)
class Headline:
    """The first thing on the page."""

    sentence: str
    loss: str  # the verdict with its reason, "" where nothing is compared
    speed: str  # the speedup's interval, "" likewise
    budget: str
    budget_state: str  # "met", "broken", "none" or "open"
    broken: tuple[str, ...]
    recipe: str
    bars: tuple[Bar, ...]
    usage: Usage | None  # of what ships, where it is there


def headline(outcome: Outcome, sentences: Sequence[str] = ()) -> Headline:
    """What ships, from the test split's numbers where they were read, else from validation's.

    sentences: what the kind adds on what ships.
    """
    best = outcome.best
    state, budget = _budget(outcome)
    there = best is not None and outcome.run.best.is_dir()
    written_as = "onnx" if best is None or best.measurement is None else best.measurement.format
    return Headline(
        sentence=" ".join(filter(None, (opening_of(outcome), _sentence(outcome)))),
        loss="" if outcome.smaller is None else " ".join(filter(None, (_loss(outcome, outcome.smaller), *sentences))),
        speed="" if outcome.smaller is None else _speed_interval(outcome.smaller),
        budget=budget,
        budget_state=state,
        broken=outcome.unmet,
        recipe="" if best is None else best.recipe,
        bars=_bars(outcome),
        usage=usage_of(outcome.kind, outcome.run.best, written_as) if there else None,
    )


def _sentence(outcome: Outcome) -> str:
    best, reference = outcome.best, outcome.reference
    if best is None or best.measurement is None:
        return "Nothing ships: no candidate could be built and measured."
    if outcome.smaller is None or reference.measurement is None:
        return f"{_alone(best, best.measurement)}; no smaller model is better within the limits."
    parts = [
        _size(reference.measurement, best.measurement),
        _speed(reference.measurement, best.measurement, best),
        _quality(reference, best),
    ]
    return ", ".join(part for part in parts if part) + "."


def _alone(best: Candidate, measurement: Measurement) -> str:
    judged = best.test or measurement
    text = f"The reference itself ships: {phrases.size(measurement)}"
    if measurement.latency_s is not None:
        text += f", {phrases.latency(measurement)} for {words_of(measurement.task).timed}"
    return f"{text}, {judged.metric} {phrases.quality(judged)}"


def _size(reference: Measurement, best: Measurement) -> str:
    change = phrases.size_change(reference.size_bytes, best.size_bytes)
    return f"{phrases.size(best)} instead of {phrases.size(reference)} ({change})"


def _speed(reference: Measurement, best: Measurement, candidate: Candidate) -> str:
    speed = candidate.speed
    if not speed.get("speedup") or best.latency_s is None or reference.latency_s is None:
        return ""
    times = f"{phrases.latency(best)} instead of {phrases.latency(reference)}"
    if speed.get("verdict") == "no difference shown":
        return f"no difference in speed shown ({times})"
    return f"{phrases.speedup(speed).removesuffix('×')} times as fast ({times})"


def _quality(reference: Candidate, best: Candidate) -> str:
    ours, theirs = best.test or best.measurement, reference.test or reference.measurement
    if ours is None or theirs is None:
        return ""
    split = f"on {ours.examples} test examples" if best.test else f"on {ours.examples} validation examples"
    return f"{ours.metric} {phrases.quality(ours)} against {phrases.quality(theirs)} {split}"


def _speed_interval(best: Candidate) -> str:
    interval = phrases.speedup_interval(best.speed)
    if not interval:
        return ""
    if machine := best.elsewhere.get("machine"):
        return (
            f"Timed on {machine}, it is {interval.removesuffix('×')} times as fast as what it took turns with (95 %)."
        )
    text = f"Timed interleaved with the reference, it is {interval.removesuffix('×')} times as fast (95 %)."
    return f"{text} The machine was busy then: {best.busy}." if best.busy else text


def _loss(outcome: Outcome, best: Candidate) -> str:
    verdict = best.test_verdict or best.verdict
    if verdict is None:
        return ""
    examples = (
        "" if best.measurement is None else f" {words_of(best.measurement.task, best.measurement.metric).examples}"
    )
    split = f"On {verdict.examples:,} {'test' if best.test_verdict else 'validation'}{examples}"
    split += f", {phrases.readings(outcome.test_readings)}" if best.test_verdict else ""
    text = f"{split}, quality changes by {phrases.change(verdict)} (95 %: {phrases.change_interval(verdict)})."
    if not verdict.limit:
        return text
    return f"{text} {phrases.decision(verdict)}: {verdict.reason}."


def _budget(outcome: Outcome) -> tuple[str, str]:
    """State and sentence."""
    limits = "" if outcome.budget is None else limits_text(outcome.budget)
    if not outcome.ended or outcome.budget is None:
        within = f" for the budget ({limits})" if limits else ""
        return "open", f"This run has not ended (it is running, or was killed): this is the best so far{within}."
    if not limits:
        return "none", "No limits were given."
    if outcome.best is None or outcome.unmet:
        return "broken", f"The budget ({limits}) is not met."
    tested = outcome.best.test_verdict is not None
    where = "" if outcome.budget.max_drop is None else f", the loss on {'the test split' if tested else 'validation'}"
    return "met", f"The budget ({limits}) is met{where}."


def limits_text(budget: Budget) -> str:
    """The limits of a budget in words."""
    limits = [
        (budget.max_size_bytes, "size at most", format_bytes),
        (budget.max_latency_s, "latency at most", format_seconds),
        (budget.max_memory_bytes, "memory at most", format_bytes),
        (budget.max_energy_j, "energy at most", format_joules),
    ]
    parts = [f"{name} {show(value)}" for value, name, show in limits if value is not None]
    if budget.max_drop is not None:
        parts.append(f"{'proven ' if budget.prove else ''}loss at most {budget.max_drop}")
    return ", ".join(parts)


def _bars(outcome: Outcome) -> tuple[Bar, ...]:
    if outcome.smaller is None or outcome.smaller.measurement is None or outcome.reference.measurement is None:
        return ()
    ours, theirs, speed = outcome.smaller.measurement, outcome.reference.measurement, outcome.smaller.speed
    bars = [
        _bar("size", theirs.size_bytes, ours.size_bytes, format_bytes),
        _bar("latency", theirs.latency_s, ours.latency_s, format_seconds, speed.get("speedup")),
        _bar("memory", theirs.memory_bytes, ours.memory_bytes, format_bytes),
    ]
    return tuple(bar for bar in bars if bar is not None)


def _bar(
    name: str, before: float | None, after: float | None, show: Callable[[float], str], times: float | None = None
) -> Bar | None:
    """times: how many times less, where it was measured in a better way than as the ratio of the two."""
    if not before or not after:
        return None
    times = times or before / after
    gain = f"÷ {phrases.ratio(times, 1)}" if times >= 1 else f"× {phrases.ratio(1, times)}"
    if abs(times - 1) < phrases.ABOUT_THE_SAME:
        gain = "the same"
    larger = max(before, after)
    return Bar(name, show(before), show(after), before / larger, after / larger, gain)
