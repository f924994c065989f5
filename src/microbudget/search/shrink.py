"""shrink(), run_recipe(): from a model, data and a budget to the best candidate in OUT/best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ..data.saved import Source
from ..errors import LabelsDisagree
from ..judge.budget import Budget
from ..judge.judging import judging_of
from ..methods import Method
from ..model import Model
from ..recipes.recipe import Recipe
from ..runs.run import check_place, open_run, without_trace
from ..runtimes.labels import knows_labels
from ..runtimes.loading import load
from ..task import Data, Task
from .opening import Opened, Plan, RunData
from .options import RunKeywords, RunOptions
from .result import Shrunk
from .samples import read_prompts
from .search import Job, search
from .space import search_space


def shrink(
    model: str | Path | Model,
    data: Data,
    budget: Budget | None = None,
    *,
    out: str | Path,
    **options: Unpack[RunKeywords],
) -> Shrunk:
    """Find the smallest model within the budget (or the best by its goal), and leave it in OUT/best.

    When the model's labels are not the data's it is finetuned first, and that float32 result is the reference.
    Without `max_drop` a loss of 1 point is allowed, of 1 % for a language model. options: the fields of RunOptions.
    The same call again goes on where a killed one was.
    """
    with without_trace(Path(out)):
        how = RunOptions(**options)
        check_place(Path(out), data=data.name if isinstance(data, Source) else data, model=model)
        given = load(model)
        prompts = read_prompts(how.prompts, given)

        def plan(task: Task) -> Plan:
            space = search_space(judging_of(task).resolved(given, how.output), task, minutes)
            first = () if knows_labels(space.given, task.labels) else space.teaching(minutes)
            return Plan(space, first, tuple(space.recipes(first)))

        budget = budget or Budget()
        minutes = budget.minutes
        opened = RunData(given, data, Path(out), how, budget.max_drop).opened(plan)
        space, first = opened.plan.space, opened.plan.first
        if budget.max_drop is None:
            budget = replace(budget, max_drop=space.default_drop)
        if first:
            how.progress.say("the model's labels are not the data's: it is finetuned first, and that is the reference")
        for line in space.forecast(how.fixed_threads):
            how.progress.say(line)
        return _searched(opened, budget, Path(out), how, prompts, own_recipes=True)


def run_recipe(
    model: str | Path | Model,
    recipe: str | Recipe,
    data: Data,
    budget: Budget | None = None,
    *,
    out: str | Path,
    **options: Unpack[RunKeywords],
) -> Shrunk:
    """Build and measure one recipe; its result is OUT/best. options: the fields of RunOptions.

    Raises LabelsDisagree when nothing teaches the model the data's labels.
    """
    with without_trace(Path(out)):
        how = RunOptions(**options)
        parsed = Recipe.read(recipe) if isinstance(recipe, str) else recipe
        check_place(Path(out), data=data.name if isinstance(data, Source) else data, model=model)
        given = load(model)
        prompts = read_prompts(how.prompts, given)
        parsed.formats(given.format)

        def plan(task: Task) -> Plan:
            space = search_space(judging_of(task).resolved(given, how.output), task)
            known = knows_labels(space.given, task.labels)
            return Plan(space, () if known else _teaching(parsed, task), (parsed,))

        limit = None if budget is None else budget.max_drop
        opened = RunData(given, data, Path(out), how, limit).opened(plan, parsed.learns_from(given.format))
        return _searched(opened, budget or Budget(), Path(out), how, prompts, own_recipes=False)


def _teaching(recipe: Recipe, task: Task) -> tuple[Method, ...]:
    """The step of a recipe that teaches the data's labels. Raises LabelsDisagree without one."""
    first = tuple(step for step in recipe.steps if step.teaches)[:1]
    if not first:
        raise LabelsDisagree(
            f"the model does not know the data's labels ({', '.join(task.labels[:3])}, ...): let the recipe begin with"
            f" finetune() or lora(), as in 'finetune() > {recipe}'"
        )
    return first


def _searched(
    opened: Opened, budget: Budget, out: Path, how: RunOptions, prompts: tuple[str, ...] | None, *, own_recipes: bool
) -> Shrunk:
    """The run's folder is opened, or gone on with, and the recipes are tried."""
    plan = opened.plan
    job = Job(plan.space, plan.first, plan.recipes, budget, how, prompts, own_recipes, opened.use)
    with open_run(
        out, plan.space.given, opened.name, opened.task, how.seed, force=how.force, progress=how.progress
    ) as run:
        return search(run, job)
