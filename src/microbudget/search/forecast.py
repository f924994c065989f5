"""Forecast: how long a run will take, from shapes and a timed trial before it starts, corrected by each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..recipes.recipe import Recipe
from ..units import format_seconds
from .options import Durations
from .space import Pace, SearchSpace


@dataclass
class Forecast:
    """Seconds that each recipe is expected to take; `note` what one took, and the rest is corrected by it.

    test_s: of the test of what ships. expected: by recipe, in the order in which they are tried.
    """

    expected: dict[Recipe, float]
    test_s: float
    _took: list[tuple[float, float]] = field(default_factory=list)  # expected, and measured

    @classmethod
    def of(
        cls, recipes: Sequence[Recipe], space: SearchSpace, pace: Pace, durations: Durations, test_s: float
    ) -> Forecast:
        """Of each: to build it, to open it (twice where the pair is opened again), to time and to read it."""
        judged = 2 * pace.open_s + durations.pair_s + durations.float_s + pace.block * pace.example_s
        return cls({recipe: space.build_s(recipe, pace) + judged for recipe in recipes}, test_s)

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
