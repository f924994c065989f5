"""Abridged: recipes for a table of the terminal, short enough for a column and still different from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from ..methods import Method
from ..recipes.recipe import Recipe
from ..runs.candidates import AS_GIVEN

LONGEST = 28  # characters of a step that is shown with all its options
MORE = "…"


def abridged(recipes: Sequence[str]) -> list[str]:
    """The recipes of a table's rows. A long step has the options by which it differs from the same step of other rows.

    What this version cannot read stays as it is.
    """
    parsed = [Recipe.kept(text) for text in recipes]
    differing = _differing([step for recipe in parsed if recipe is not None for step in recipe.steps])
    return [
        text if recipe is None else " > ".join(_step(step, differing) for step in recipe.steps) or AS_GIVEN
        for text, recipe in zip(recipes, parsed, strict=True)
    ]


def _differing(steps: Sequence[Method]) -> set[tuple[str, str]]:
    """Method and option, of the options that have several values."""
    values: dict[tuple[str, str], set[str]] = {}
    for step in steps:
        for spec in fields(step):
            values.setdefault((step.name(), spec.name), set()).add(repr(getattr(step, spec.name)))
    return {option for option, found in values.items() if len(found) > 1}


def _step(step: Method, differing: set[tuple[str, str]]) -> str:
    whole = step.short()
    if len(whole) <= LONGEST:
        return whole
    shown = [
        f"{spec.name}={getattr(step, spec.name)!r}"
        for spec in fields(step)
        if (step.name(), spec.name) in differing and getattr(step, spec.name) != spec.default
    ]
    return f"{step.name()}({', '.join([*shown, MORE])})"
