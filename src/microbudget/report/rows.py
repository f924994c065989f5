"""The table of candidates: one row each, the reference first, every number as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..judge.budget import Measurement
from ..runs.candidates import AS_GIVEN, Candidate
from ..runs.choice import pareto
from ..runs.expected_loss import expected_losses
from . import phrases
from .outcome import Outcome, Role
from .part import Column

SHOWN = {"within": "shown", "not shown": "not shown", "exceeds": "exceeded"}  # of a loss within the limit


@dataclass(frozen=True)
class Row:
    """One candidate in the table."""

    name: str  # "ref", or its number
    role: Role
    steps: tuple[str, ...]  # the recipe with its main options
    recipe: str
    failure: str | None = None
    size: str = ""
    latency: str = ""
    latency_interval: str = ""
    speedup: str = ""
    speedup_interval: str = ""
    busy: str = ""  # why its speed is that on a busy machine
    quality: str = ""
    quality_interval: str = ""
    change: str = ""
    change_interval: str = ""
    expected: str = ""  # the change, by labels and divergence together
    verdict: str = ""
    reason: str = ""
    memory: str = ""
    predicted_memory: str = ""
    pareto: bool = False
    further: tuple[str, ...] = ()  # a cell for each column that the kind adds
    sort: Mapping[str, float] = field(default_factory=dict)  # the numbers that the table is sorted by


def table(outcome: Outcome, columns: Sequence[Column] = ()) -> tuple[Row, ...]:
    """All rows. A candidate is on the Pareto front when no other beats it in size, latency and quality at once."""
    front = {candidate.fingerprint for candidate in pareto(outcome.rows)}
    losses, rows = expected_losses(outcome.rows), []
    for place, candidate in enumerate(outcome.rows):
        further = tuple(column.cells.get(candidate.fingerprint, phrases.MISSING) for column in columns)
        row = _row(candidate, name(place), outcome.role(candidate))
        expected = _expected(candidate, losses[place])
        rows.append(replace(row, pareto=candidate.fingerprint in front, further=further, expected=expected))
    return tuple(rows)


def name(place: int) -> str:
    """The name of a row in the table and the plots, by its place."""
    return str(place) if place else "ref"


def _expected(candidate: Candidate, loss: float) -> str:
    """The change that is expected, where more than the labels says it."""
    if candidate.verdict is None or candidate.measurement is None or candidate.measurement.divergence is None:
        return ""
    return f"expected {phrases.change(candidate.verdict, -loss)}"


def _reasons(candidate: Candidate) -> tuple[str, ...]:
    verdict = candidate.verdict
    return (
        "" if verdict is None else verdict.reason,
        phrases.against_float(candidate),
        phrases.busy(candidate),
        phrases.elsewhere(candidate),
    )


def _row(candidate: Candidate, called: str, role: Role) -> Row:
    short, recipe = candidate.steps, candidate.recipe or AS_GIVEN
    measurement, verdict = candidate.measurement, candidate.verdict
    if measurement is None:
        return Row(called, role, short, recipe, failure=candidate.without_result)
    return Row(
        name=called,
        role=role,
        steps=short,
        recipe=recipe,
        size=phrases.size(measurement),
        latency=phrases.latency(measurement),
        latency_interval=phrases.latency_interval(measurement),
        speedup=phrases.speedup(candidate.speed),
        speedup_interval=phrases.speedup_interval(candidate.speed),
        busy=candidate.busy,
        quality=phrases.quality(measurement),
        quality_interval=phrases.quality_interval(measurement),
        change=phrases.MISSING if verdict is None else phrases.change(verdict),
        change_interval="" if verdict is None else phrases.change_interval(verdict),
        verdict="" if verdict is None or not verdict.limit else SHOWN[verdict.decision],
        reason="; ".join(filter(None, _reasons(candidate))),
        memory=phrases.memory(measurement),
        predicted_memory=phrases.predicted_memory(measurement),
        sort=_sort(candidate, measurement),
    )


def _sort(candidate: Candidate, measurement: Measurement) -> dict[str, float]:
    """The numbers that are known, by column."""
    numbers = {
        "size": measurement.size_bytes,
        "latency": measurement.latency_s,
        "speed": candidate.speed.get("speedup"),
        "quality": measurement.quality,
        "change": None if candidate.verdict is None else candidate.verdict.change,
        "memory": measurement.memory_bytes,
    }
    return {name: value for name, number in numbers.items() if (value := finite(number)) is not None}


def finite(number: float | None) -> float | None:
    """The number where it is one: JSON has no infinity."""
    return number if number is not None and math.isfinite(number) else None
