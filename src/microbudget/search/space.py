"""Search space: what `shrink` tries for a kind of model. Each kind has a subclass in its `search_space.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InvalidOption, UnsupportedModel
from ..judge.budget import Budget
from ..judge.footprint import predicted_memory
from ..judge.footprint.onnx import Weights
from ..kind import facet, find_facet, of_format
from ..methods import Method
from ..methods import names as method_names
from ..methods.finetune import Finetune
from ..model import Model
from ..progress import Progress
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..task import Inputs, Task
from ..units import Drop
from .predicted import exported_memory, float_weights


@dataclass(frozen=True)
class Pace:
    """What a timed trial shows before anything is built, all of the reference: what a forecast is made of."""

    example_s: float  # to read one example
    open_s: float  # to start a process and open the model
    parameters: int
    block: int = 1  # examples that every candidate reads
    calibration: int = 0  # examples to calibrate or train on
    starts_s: Mapping[str, float] = field(default_factory=dict)  # to start a process with the runtime of other formats
    built: tuple[Method, ...] = ()  # the steps that the reference was made by, with which recipes may begin

    def left_of(self, recipe: Recipe) -> Recipe:
        """The steps of a recipe that are still to build."""
        count = len(self.built)
        return Recipe(recipe.steps[count:]) if recipe.steps[:count] == self.built else recipe

    def opening_s(self, recipe: Recipe, space: SearchSpace) -> float:
        """To open a recipe's model: as long as the reference takes, or as the runtime of its own format."""
        if not self.starts_s:
            return self.open_s
        return self.starts_s.get(recipe.formats(space.given.format)[-1], self.open_s)


class SearchSpace:
    """The recipes for one model and its data, and what is known of them before they are built."""

    default_drop = Drop(0.01)  # the loss that is allowed where the user gives no limit
    budget = Budget(minutes=None)
    methods: frozenset[str] | None = None  # that the user allows; None: all
    size_margin = (
        1.1  # times the limit on size, beyond which a recipe is not built: how far predictions are to be trusted
    )
    further_s = 0.0  # that each candidate takes besides what all kinds measure

    def __init__(self, given: Model, task: Task) -> None:
        self.given, self.task = given, task

    def teaching(self, minutes: float | None = None) -> tuple[Method, ...]:
        """The steps that teach the model the data's labels, where it does not know them. minutes: of the whole run."""
        return (Finetune(),)

    def quicker_teaching(self, first: Sequence[Method]) -> tuple[Method, ...]:
        """Steps that teach the labels in less time, where there was not enough for `first`; none: there are none."""
        return ()

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """Recipes to try, the safest first. first: the steps that teach the model the data's labels."""
        raise NotImplementedError

    def without_reference(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Those that learn from the data alone and take seconds: they are delivered while the labels are taught."""
        return []

    @property
    def minutes(self) -> float | None:
        """Of the whole run, where it has an end."""
        return self.budget.minutes

    def allowed(self, recipes: Iterable[Recipe], first: Sequence[Method]) -> Iterator[Recipe]:
        """Those that consist of the methods which the user allows, besides export and what teaches the labels."""
        free = {"export", *(step.name() for step in first)}
        for recipe in recipes:
            if self.methods is None or {step.name() for step in recipe.steps} - free <= self.methods:
                yield recipe

    def further(self, recipe: Recipe, candidate: Candidate) -> Iterable[Recipe]:
        """What is tried as well, for what the candidate of this recipe has shown."""
        return self.fallbacks(recipe) if candidate.broken_limits(self.budget) else ()

    def about_limits(self, recipe: Recipe, candidate: Candidate) -> Iterator[str]:
        """A line for what the candidate of this recipe shows of the limits, before anything is trained."""
        yield from ()

    def fallbacks(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """What is tried in addition where the candidate of this recipe breaks a limit."""
        return ()

    def forecast(self, threads: int) -> Iterator[str]:
        """A line for each thing that is known before anything is built."""
        yield from ()

    def check(self, recipes: Sequence[Recipe], path_of: Callable[[Recipe], Path], folder: Path) -> None:
        """Raise InvalidOption, UnsupportedModel or DiskFull where a recipe cannot be built, before any work is done.

        path_of: where the run builds a recipe's model. folder: the run's.
        """

    def prepare(self, recipes: Sequence[Recipe], progress: Progress) -> None:
        """Compute once what all recipes need."""

    def settled(self, recipe: Recipe, found: Sequence[Candidate]) -> str:
        """Why a recipe need not be built after the candidates that were found: "" where it may be the choice."""
        return ""

    def promising_first(self, recipes: Sequence[Recipe], best_bytes: int) -> list[Recipe]:
        """The recipes that are still to try, those first that can be smaller than the best so far, of `best_bytes`."""
        return list(recipes)

    def build_s(self, recipe: Recipe, pace: Pace) -> float:
        """About how many seconds it takes to build a recipe; what it trains watches the clock itself."""
        return 5.0 * len(recipe.steps)

    def predicted(self, recipe: Recipe, model: Model, inputs: Inputs, threads: int) -> dict[str, Any]:
        """What was predicted of a model that is built now, for `extra` of its Measurement."""
        try:
            found = predicted_memory(model, inputs)
        except UnsupportedModel:
            found = None
        return {} if found is None else {"predicted": {"memory_bytes": found}}

    @cached_property
    def _float_weights(self) -> Weights | None:
        return float_weights(self.given)

    def size_bytes(self, recipe: Recipe) -> int | None:
        """About so many a recipe's model will have, before it is built; None where nothing says so."""
        return None

    def memory_bytes(self, recipe: Recipe) -> int | None:
        """At least about so many a recipe's model will take, before it is built; None where nothing says so."""
        if self._float_weights is None or recipe.formats(self.given.format)[-1] != "onnx":
            return None
        return exported_memory(self.given, self._float_weights, recipe)


def allowed_methods(names: Collection[str] | None) -> frozenset[str] | None:
    """The methods that recipes may have; None: all. Raises InvalidOption for a name that is no method."""
    if names is None:
        return None
    unknown = sorted(set(names) - set(method_names()))
    if unknown or not names:
        said = f"there is no method {', '.join(unknown)}" if unknown else "methods names none"
        raise InvalidOption(f"{said}; there are {', '.join(method_names())}")
    return frozenset(names)


def search_space(
    given: Model, task: Task, budget: Budget | None = None, methods: Collection[str] | None = None
) -> SearchSpace:
    """The SearchSpace of the model's kind; for a kind of the user's own, that of its file format.

    methods: those that recipes may have; None: all.
    """
    module = find_facet(given.task, "search_space") or facet(of_format(given.format) or given.task, "search_space")
    found: SearchSpace = module.SearchSpace(given, task)
    found.budget = budget or Budget(minutes=None)
    found.methods = None if methods is None else frozenset(methods)
    return found
