"""shrink(), run_recipe(): from a model, data and a budget to the best candidate in OUT/best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ..data.saved import Source
from ..errors import InvalidOption, LabelsDisagree
from ..judge.budget import Budget
from ..judge.judging import judging_of
from ..methods import Method
from ..model import Model
from ..recipes.open_options import recipes_of
from ..recipes.recipe import Recipe
from ..report.headline import limits_text
from ..runs.run import Run, check_place, open_run, without_trace
from ..runtimes.labels import knows_labels
from ..runtimes.loading import load
from ..task import Data, Task
from .elsewhere import check_timings, with_kept_timings
from .opening import Opened, Plan, RunData
from .options import RunKeywords, RunOptions, read_keywords
from .result import Shrunk
from .samples import read_prompts
from .search import Job, search
from .space import SearchSpace, allowed_methods, search_space


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
    Without `max_drop` a loss of 1 point is allowed, of 1 % for a language model. options: the fields of RunOptions, and
    limits in place of a budget: `shrink(model, data, out=run, max_size="2MB", max_drop="1pt")`. `methods` and
    `recipes` narrow what is tried, or say it. The same call again goes on where a killed one was.
    """
    with without_trace(Path(out)):
        how, limits = read_keywords(budget, options)
        check_place(Path(out), data=data.name if isinstance(data, Source) else data, model=model)
        check_timings(how, Path(out), limits)
        given = load(model)
        prompts = read_prompts(how.prompts, given)

        asked = () if how.recipes is None else tuple(recipes_of(how.recipes))
        methods = allowed_methods(how.methods)

        def plan(task: Task) -> Plan:
            space = search_space(judging_of(task).resolved(given, how.output), task, limits, methods)
            known = knows_labels(space.given, task.labels)
            if asked:
                return Plan(space, () if known else _teaching(asked[0], task), asked)
            first = () if known else tuple(space.teaching(limits.minutes))
            return Plan(space, first, _allowed(space, first))

        for each in asked:
            each.formats(given.format)
        opened = RunData(given, data, Path(out), how, limits.max_drop).opened(plan)
        space, first = opened.plan.space, opened.plan.first
        if limits.max_drop is None:
            limits = replace(limits, max_drop=space.default_drop)
        space.budget = limits
        if first:
            how.progress.say("the model's labels are not the data's: it is finetuned first, and that is the reference")
        for line in space.forecast(how.fixed_threads):
            how.progress.say(line)
        return _searched(opened, limits, Path(out), how, prompts, own_recipes=True)


def _allowed(space: SearchSpace, first: tuple[Method, ...]) -> tuple[Recipe, ...]:
    """The recipes of a space that consist of the methods which the user allows. Raises InvalidOption for none."""
    recipes = list(space.recipes(first))
    found = tuple(space.allowed(recipes, first))
    used = sorted({step.name() for recipe in recipes for step in recipe.steps} - {"export"})
    if not found or (space.methods is not None and not space.methods & set(used)):
        raise InvalidOption(f"no recipe for this model consists of {', '.join(sorted(space.methods or ()))} alone: the"
                            f" recipes have {', '.join(used)}")  # fmt: skip
    return found


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

    In a run that has candidates it is one more of them, against the same reference, and the best of all is chosen;
    without limits of its own those of the run's last command hold.

    Raises LabelsDisagree when nothing teaches the model the data's labels.
    """
    with without_trace(Path(out)):
        how, budget = read_keywords(budget, options)
        parsed = Recipe.read(recipe) if isinstance(recipe, str) else recipe
        check_place(Path(out), data=data.name if isinstance(data, Source) else data, model=model)
        given = load(model)
        prompts = read_prompts(how.prompts, given)
        parsed.formats(given.format)

        def plan(task: Task) -> Plan:
            space = search_space(judging_of(task).resolved(given, how.output), task)
            known = knows_labels(space.given, task.labels)
            return Plan(space, () if known else _kept_teaching(Path(out), how) or _teaching(parsed, task), (parsed,))

        budget, how = _with_kept_limits(budget, Path(out), how)
        check_timings(how, Path(out), budget)
        opened = RunData(given, data, Path(out), how, budget.max_drop).opened(plan, parsed.learns_from(given.format))
        return _searched(opened, budget, Path(out), how, prompts, own_recipes=False)


def _kept_teaching(out: Path, how: RunOptions) -> tuple[Method, ...]:
    """The steps that made the reference of the run that is gone on with: its candidates stay comparable."""
    rows = [] if how.force else Run(out).candidates()
    reference = next((row for row in rows if row.measurement is not None and row.verdict is None), None)
    return () if reference is None or not reference.recipe else Recipe.parse(reference.recipe).steps


def _with_kept_limits(budget: Budget, out: Path, how: RunOptions) -> tuple[Budget, RunOptions]:
    """A budget without limits gets those that the run's last command had: the recipe is one more of its candidates.

    And the timings of another machine that it chose by.
    """
    kept = None if how.force else Run(out).budget
    if kept is None or budget.limits:
        return budget, how
    earlier = replace(Budget.from_dict(kept), minutes=budget.minutes)
    if earlier.limits:
        how.progress.say(f"limits    as before: {limits_text(earlier)}")
    return earlier, with_kept_timings(how, out)


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
