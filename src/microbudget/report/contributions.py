"""Contributions: what each step of the choice brings, by the rows that have the same recipe without it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..methods import Method
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from . import phrases
from .outcome import Outcome
from .rows import name


@dataclass(frozen=True)
class Contribution:
    """A row that differs from the choice in one step. without: the step, or the options that it lacks."""

    without: str
    row: str  # its number
    size: str
    latency: str
    change: str


def contributions(outcome: Outcome) -> tuple[Contribution, ...]:
    """Of the choice, for each of its steps that a row lacks or has with its default options; the steps in order.

    Only rows that were measured count: nothing is built for it.
    """
    best = outcome.smaller
    recipe = None if best is None else _parsed(best)
    if recipe is None:
        return ()
    rows = {other: (name(place), row) for place, row in enumerate(outcome.rows) if (other := _parsed(row)) is not None}
    found = []
    for place, step in enumerate(recipe.steps):
        for without, steps in _simpler(step):
            other = Recipe((*recipe.steps[:place], *steps, *recipe.steps[place + 1 :]))
            if other in rows and other != recipe:
                found.append(_contribution(without, *rows[other]))
    return tuple(found)


def _simpler(step: Method) -> tuple[tuple[str, tuple[Method, ...]], ...]:
    """The step left out, and with its default options where it has others."""
    plain = type(step)()
    ways: list[tuple[str, tuple[Method, ...]]] = [(step.short(), ())]
    if plain != step:
        own = [each.name for each in fields(step) if getattr(step, each.name) != getattr(plain, each.name)]
        changed = ", ".join(f"{each}={getattr(step, each)!r}" for each in own)
        ways.append((f"{changed} of {step.name()}", (plain,)))
    return tuple(ways)


def _contribution(without: str, number: str, row: Candidate) -> Contribution:
    measured = row.measurement
    assert measured is not None
    change = phrases.MISSING if row.verdict is None else phrases.change(row.verdict)
    return Contribution(without, number, phrases.size(measured), phrases.latency(measured), change)


def _parsed(row: Candidate) -> Recipe | None:
    """The recipe of a measured row; None where this version cannot read it."""
    return None if row.measurement is None else Recipe.kept(row.recipe)
