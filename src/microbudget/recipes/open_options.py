"""Open options: `prune(size=?)` stands for one recipe for each value that the option is searched over."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

from .. import methods
from ..errors import InvalidRecipe
from .recipe import Recipe

MOST = 24  # recipes
_STEP = re.compile(r"(\w+)\s*\(([^()]*)\)")
_OPEN = re.compile(r"(\w+)\s*=\s*\?")


def recipes_of(text: str) -> list[Recipe]:
    """The recipes that a text with open options stands for, the first values first; one without them is one recipe.

    Raises InvalidRecipe, for an option that has no values to search over too.
    """
    template, values = [], []
    end = 0
    for step in _STEP.finditer(text):
        for option in _OPEN.finditer(step[2]):
            start = step.start(2) + option.start()
            template.append(text[end : start + len(option[1])])
            values.append(_grid(step[1], option[1]))
            end = step.start(2) + option.end()
    template.append(text[end:])
    if "?" in "".join(template):
        raise InvalidRecipe(f"an open option is written method(option=?), as in prune(size=?): {text!r}")
    count = math.prod(map(len, values))
    if count > MOST:
        raise InvalidRecipe(
            f"{text!r} stands for {count} recipes, and at most {MOST} are tried: give some of its options"
        )
    return list(_filled(template, values))


def _filled(template: list[str], values: list[tuple[object, ...]]) -> Iterator[Recipe]:
    for chosen in itertools.product(*values):
        parts = [f"{text}={value!r}" for text, value in zip(template, chosen, strict=False)]
        yield Recipe.parse("".join([*parts, template[-1]]))


def _grid(method: str, name: str) -> tuple[object, ...]:
    known = methods.find(method)
    specs = {spec.name: spec for spec in dataclasses.fields(known)}
    if name not in specs:
        raise InvalidRecipe(f"{method} has no option {name!r}; it has {', '.join(specs) or 'none'}")
    found = methods.grid(known, name)
    if not found:
        others = ", ".join(each for each in specs if methods.grid(known, each))
        raise InvalidRecipe(f"{method}: {name} has no values to search over, give one; open may be {others or 'none'}")
    return found
