"""shrink(), run_recipe(): from a model, data and a budget to the best candidate in OUT/best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack, cast

from ..data.saved import Source, is_saved
from ..errors import LabelsDisagree
from ..judge.budget import Budget
from ..judge.judging import judging_of
from ..methods import Method
from ..methods.finetune import Finetune
from ..model import Model
from ..recipes.recipe import Recipe
from ..runs.run import check_place, open_run, without_trace
from ..runtimes.labels import knows_labels
from ..runtimes.loading import load
from ..task import DataOptions, Task, open_data
from .options import RunKeywords, RunOptions
from .result import Shrunk
from .samples import read_prompts
from .search import Job, search
from .space import search_space

TRAINERS = ("finetune", "lora")  # the methods that teach a model the data's labels


def shrink(
    model: str | Path | Model,
    data: str | Path | Task,
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
        given, task, data_name = _open(model, data, Path(out), how)
        prompts = read_prompts(how.prompts, given)
        space = search_space(judging_of(task).resolved(given, how.output), task)
        budget = budget or Budget()
        if budget.max_drop is None:
            budget = replace(budget, max_drop=space.default_drop)
        first: tuple[Method, ...] = ()
        if not knows_labels(space.given, task.labels):
            how.progress.say("the model's labels are not the data's: it is finetuned first, and that is the reference")
            first = (Finetune(),)
        for line in space.forecast(how.fixed_threads):
            how.progress.say(line)
        job = Job(space, first, tuple(space.recipes(first)), budget, how, prompts, own_recipes=True)
        with open_run(Path(out), space.given, data_name, task, how.seed, force=how.force, progress=how.progress) as run:
            return search(run, job)


def run_recipe(
    model: str | Path | Model,
    recipe: str | Recipe,
    data: str | Path | Task,
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
        given, task, data_name = _open(model, data, Path(out), how)
        prompts = read_prompts(how.prompts, given)
        parsed.formats(given.format)
        space = search_space(judging_of(task).resolved(given, how.output), task)
        first: Sequence[Method] = ()
        if not knows_labels(space.given, task.labels):
            first = tuple(step for step in parsed.steps if step.name() in TRAINERS)[:1]
            if not first:
                raise LabelsDisagree(
                    f"the model does not know the data's labels ({', '.join(task.labels[:3])}, ...): let the recipe"
                    f" begin with finetune() or lora(), as in 'finetune() > {parsed}'"
                )
        job = Job(space, tuple(first), (parsed,), budget or Budget(), how, prompts, own_recipes=False)
        with open_run(Path(out), space.given, data_name, task, how.seed, force=how.force, progress=how.progress) as run:
            return search(run, job)


def _open(model: str | Path | Model, data: str | Path | Task, out: Path, how: RunOptions) -> tuple[Model, Task, str]:
    check_place(out, data=data.name if isinstance(data, Source) else data, model=model)
    given = load(model)
    if not isinstance(data, (str, Path)) and not is_saved(data):
        return given, data, type(data).__name__
    options = DataOptions(seed=how.seed, cache=out / "cache", normalizer=how.normalizer, progress=how.progress)
    task = open_data(cast(str, data), given.task, options)
    return given, task, str(Path(getattr(task, "root", str(data))).resolve())
