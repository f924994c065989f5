"""The table of candidates: one row each, the reference first, every number as text."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MicrobudgetError
from ..runs.candidates import Candidate, pareto
from . import phrases
from .outcome import Outcome

SHOWN = {"within": "shown", "not shown": "not shown", "exceeds": "exceeded"}  # of a loss within the limit
AS_GIVEN = "the model as given"


@dataclass(frozen=True)
class Row:
    """One candidate in the table."""

    name: str  # "ref", or its number
    kind: str  # "reference", "best" or "other"
    steps: tuple[str, ...]  # the recipe with its main options
    recipe: str
    failure: str | None = None
    size: str = ""
    latency: str = ""
    latency_interval: str = ""
    speedup: str = ""
    speedup_interval: str = ""
    quality: str = ""
    quality_interval: str = ""
    change: str = ""
    change_interval: str = ""
    verdict: str = ""
    reason: str = ""
    memory: str = ""
    pareto: bool = False


def table(outcome: Outcome) -> tuple[Row, ...]:
    """All rows. A candidate is on the Pareto front when no other beats it in size, latency and quality at once."""
    front = {candidate.fingerprint for candidate in pareto(outcome.rows)}
    return tuple(_row(outcome, place, one, front) for place, one in enumerate(outcome.rows))


def name(place: int) -> str:
    """What a row is called in table and plots, by its place."""
    return str(place) if place else "ref"


def label(candidate: Candidate) -> str | None:
    """The level of a language model in GGUF, "Q4_K_M"; None for other models."""
    from ..kinds.language_modelling.search_space import level
    from ..recipes.recipe import Recipe

    if not candidate.recipe or candidate.measurement is None or candidate.measurement.format != "gguf":
        return None
    try:
        return level(Recipe.parse(candidate.recipe))
    except MicrobudgetError:  # made by a version with other methods
        return None


def _steps(recipe: str) -> tuple[str, ...]:
    """The recipe's steps in short, where this version can read it."""
    from ..recipes.recipe import Recipe

    if not recipe:
        return (AS_GIVEN,)
    try:
        return tuple(step.short() for step in Recipe.parse(recipe).steps)
    except MicrobudgetError:  # made by a version with other methods
        return (recipe,)


def _row(outcome: Outcome, place: int, candidate: Candidate, front: set[str]) -> Row:
    best = outcome.best is not None and candidate.fingerprint == outcome.best.fingerprint
    kind = "best" if best else "other" if place else "reference"
    short, recipe = _steps(candidate.recipe), candidate.recipe or AS_GIVEN
    measurement, verdict = candidate.measurement, candidate.verdict
    if measurement is None:
        return Row(name(place), kind, short, recipe, failure=candidate.failure or "was not measured")
    return Row(
        name=name(place),
        kind=kind,
        steps=short,
        recipe=recipe,
        size=phrases.size(measurement),
        latency=phrases.latency(measurement),
        latency_interval=phrases.latency_interval(measurement),
        speedup=phrases.speedup(candidate.speed),
        speedup_interval=phrases.speedup_interval(candidate.speed),
        quality=phrases.quality(measurement),
        quality_interval=phrases.quality_interval(measurement),
        change=phrases.MISSING if verdict is None else phrases.change(verdict),
        change_interval="" if verdict is None else phrases.change_interval(verdict),
        verdict="" if verdict is None or not verdict.limit else SHOWN[verdict.decision],
        reason="; ".join(filter(None, ("" if verdict is None else verdict.reason, phrases.against_float(candidate)))),
        memory=phrases.memory(measurement),
        pareto=candidate.fingerprint in front,
    )
