"""Opening: a run's data, cut by what its recipes learn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..data.saved import is_saved
from ..errors import BadData, InvalidOption
from ..methods import Method
from ..model import Model
from ..progress import Progress
from ..recipes.recipe import Recipe
from ..runs.run import kept_use
from ..task import USES, Data, DataOptions, Task, Use, open_data
from ..units import Drop
from .options import RunOptions
from .space import SearchSpace


@dataclass(frozen=True)
class Plan:
    """What is tried on a task: the search space, what makes the reference of the given model, the recipes."""

    space: SearchSpace
    first: tuple[Method, ...]
    recipes: tuple[Recipe, ...]

    @property
    def use(self) -> Use:
        """The most that one of the recipes learns from the data."""
        given = self.space.given.format
        found = [recipe.learns_from(given) for recipe in (Recipe(self.first), *self.recipes)]
        return max(found, key=USES.index)


@dataclass(frozen=True)
class Opened:
    """The data of a run. name: as `run.toml` has it. use: what is learnt from them, which decided the cut."""

    task: Task
    plan: Plan
    name: str
    use: Use


class RunData:
    """What `shrink` or `run` got as data, to be opened as the recipes need it."""

    def __init__(self, given: Model, data: Data, out: Path, how: RunOptions, limit: Drop | None = None) -> None:
        """limit: on the loss, as the user gave it."""
        self._given, self._data, self._out, self._how, self._limit = given, data, out, how, limit

    def opened(self, plan: Callable[[Task], Plan], use: Use | None = None) -> Opened:
        """The data with the most evidence that the plan for them allows. plan: what is tried on a task.

        use: what the plan learns, where that is known beforehand. Else the plan is made on a first cut, because it may
        depend on the data. A run goes on with the cut that it has. Raises BadData.
        """
        if not self._to_open:
            if self._how.questions is not None:
                raise InvalidOption("questions are asked with data at a path, and not with a Task of your own")
            task = cast(Task, self._data)
            made = plan(task)
            return Opened(task, made, type(task).__name__, made.use)
        wanted = max(use or self._use_of(plan), self._kept(), key=USES.index)
        task = self._open(wanted, self._how.progress)
        made = plan(task)
        if USES.index(made.use) > USES.index(wanted):  # it depends on the cut
            wanted = "training"
            task = self._open(wanted, self._how.progress)
            made = plan(task)
        return Opened(task, made, str(Path(getattr(task, "root", str(self._data))).resolve()), wanted)

    def _use_of(self, plan: Callable[[Task], Plan]) -> Use:
        """What a plan for these data learns. Data that are too few to train on may do where nothing trains."""
        refusals = []
        for use in reversed(USES):
            try:
                return plan(self._open(use, self._how.progress.without_lines())).use
            except BadData as error:
                refusals.append(error)
        raise refusals[0]

    @property
    def _to_open(self) -> bool:
        return isinstance(self._data, (str, Path)) or is_saved(self._data)

    def _kept(self) -> Use:
        return "nothing" if self._how.force else kept_use(self._out)

    def _open(self, use: Use, progress: Progress) -> Task:
        how = self._how
        options = DataOptions(
            seed=how.seed,
            use=use,
            leave_out=frozenset(self._given.record.seen),
            cache=self._out / "cache",
            normalizer=how.normalizer,
            columns=how.columns,
            questions=None if how.questions is None else Path(how.questions),
            limit=self._limit,
            progress=progress,
        )
        return open_data(cast(str, self._data), self._given.task, options)
