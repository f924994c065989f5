"""Levels in the report: the name of each, and its file, memory and speed as predicted and as measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import MicrobudgetError
from ...recipes.recipe import Recipe
from ...report import phrases
from ...report.outcome import Outcome
from ...runs.candidates import Candidate
from ...units import format_bytes
from .search_space import level


@dataclass(frozen=True)
class Predicted:
    """A level's file, memory and speed: each as predicted from the model's shapes, and as measured."""

    name: str
    size: tuple[str, str]
    memory: tuple[str, str]
    speed: tuple[str, str]  # tokens per second: at most, and measured


def level_name(candidate: Candidate) -> str | None:
    """The level of a model in GGUF, "Q4_K_M"; None for other models."""
    if not candidate.recipe or candidate.measurement is None or candidate.measurement.format != "gguf":
        return None
    try:
        return level(Recipe.parse(candidate.recipe))
    except MicrobudgetError:  # made by a version with other methods
        return None


def by_size(outcome: Outcome) -> list[Candidate]:
    """The measured candidates without the reference, the largest file first."""
    measured = [row for row in outcome.candidates if row.measurement is not None]
    return sorted(measured, key=lambda row: -row.measurement.size_bytes if row.measurement else 0)


def predicted(outcome: Outcome) -> Iterator[Predicted]:
    """The levels for which there is a prediction, the largest file first."""
    for row in by_size(outcome):
        measurement = row.measurement
        if measurement is None or "predicted" not in measurement.extra:
            continue
        prediction, latency_s = measurement.extra["predicted"], measurement.latency_s
        rates = (prediction["decode_tokens_per_s"], 1 / latency_s if latency_s else None)
        at_most, measured = (phrases.MISSING if rate is None else f"{rate:,.0f}" for rate in rates)
        yield Predicted(
            level_name(row) or row.recipe,
            (f"{prediction['size_bytes']:,}", f"{measurement.size_bytes:,}"),
            (format_bytes(prediction["memory_bytes"]), phrases.memory(measurement)),
            (at_most, measured),
        )
