"""Forecast: how long a run will take, from shapes and a timed trial before it starts, corrected by each candidate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import MicrobudgetError
from ..judge.judging import Judging
from ..methods.quantize import Quantize
from ..recipes.recipe import Recipe
from ..runtimes import default_runtime, module_of
from ..units import format_seconds
from .options import Durations
from .space import Pace, SearchSpace


@dataclass
class Forecast:
    """Seconds that each recipe is expected to take; `note` what one took, and the rest is corrected by it.

    test_s: of the test of what ships. expected: by recipe, in the order in which they are tried. expect: what a further
    recipe will take.
    """

    expected: dict[Recipe, float]
    test_s: float
    expect: Callable[[Recipe], float] = lambda _: 0.0
    _took: list[tuple[float, float]] = field(default_factory=list)  # expected, and measured

    @classmethod
    def of(
        cls, recipes: Sequence[Recipe], space: SearchSpace, pace: Pace, durations: Durations, test_s: float
    ) -> Forecast:
        """Of each: to build it, to open it and the model before `quantize`, to time them and to read it."""

        def expect(recipe: Recipe) -> float:
            with_float = _is_timed_with_float(recipe) and durations.float_s > 0
            timed = durations.pair_s + (durations.float_s if with_float else 0.0) + space.further_s
            opened = (2 if with_float else 1) * pace.opening_s(recipe, space)
            return space.build_s(pace.left_of(recipe), pace) + opened + timed + pace.block * pace.example_s

        return cls({recipe: expect(recipe) for recipe in recipes}, test_s, expect)

    def add(self, recipes: Iterable[Recipe]) -> None:
        """Recipes that are tried as well, for what the others have shown."""
        self.expected |= {recipe: self.expect(recipe) for recipe in recipes}

    def note(self, recipe: Recipe, seconds: float | None) -> None:
        """A recipe was built and measured in so many seconds; None: the run had its row already."""
        expected = self.expected.pop(recipe, seconds)
        if seconds is not None and expected is not None:
            self._took.append((expected, seconds))

    @property
    def correction(self) -> float:
        """What the recipes so far took, relative to what was expected of them."""
        expected = sum(one for one, _ in self._took)
        return sum(took for _, took in self._took) / expected if expected else 1.0

    @property
    def left_s(self) -> float:
        """To the end, the test included."""
        return self.correction * sum(self.expected.values()) + self.test_s

    def __str__(self) -> str:
        count = len(self.expected)
        recipes = "1 recipe" if count == 1 else f"{count} recipes"
        first = next(iter(self.expected.values()), 0.0)
        return (
            f"{recipes} to try: a first result in about {format_seconds(first)}, all with the test in about"
            f" {format_seconds(self.left_s)}"
        )


def _is_timed_with_float(recipe: Recipe) -> bool:
    """Whether the model is timed with its own model before `quantize` too; a level of a GGUF file is not."""
    last = recipe.steps[-1] if recipe.steps else None
    return isinstance(last, Quantize) and last.type is None


def starts_s(judging: Judging, recipes: Sequence[Recipe], given: str, reference: str) -> dict[str, float]:
    """Seconds to start a process and load the runtime, by format, for those of the recipes: each is tried once.

    given, reference: the formats of the two; the reference's is left out, as it is open already.
    """
    found = {}
    for each in sorted({recipe.formats(given)[-1] for recipe in recipes} - {reference}):
        started = time.monotonic()
        with contextlib.suppress(MicrobudgetError), judging.start_worker() as worker:  # what does not start fails later
            worker.ask("load_runtime", module=module_of(default_runtime(each), judging.task.kind))
            found[each] = time.monotonic() - started
    return found
