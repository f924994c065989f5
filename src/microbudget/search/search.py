"""The search: recipes to candidates to the best so far at any moment."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import BadData, BadInput, OutOfTime
from ..judge.budget import Budget
from ..judge.judging import Judging, judging_of
from ..judge.measuring import choose_threads
from ..judge.options import MeasureOptions
from ..judge.verdict import can_show
from ..machine.interrupts import deferred_interrupts, ignored_interrupts
from ..methods import DECISIONS, Context, Method
from ..methods.distill import Distill
from ..model import Model, Record
from ..progress import Progress
from ..recipes.build import build, clean, planned
from ..recipes.recipe import Recipe
from ..report import write_report
from ..runs.candidates import Candidate
from ..runs.choice import best
from ..runs.run import Run
from ..ship import deliver, ship
from ..ship.front import deliver_front
from ..ship.shipment import Shipment
from ..task import SPLITS, Split, Task, Use
from ..units import format_bytes, format_change, format_seconds, format_times
from .earlier import earlier_rows
from .early import deliver_early
from .evaluation import Evaluation, Setting
from .examples import about_splits, counts
from .final_test import Tested, errors_of_tries, final_test
from .forecast import Forecast, starts_s
from .options import RunOptions
from .predicted import left_out, too_large
from .result import Shrunk
from .retiming import time_busy_again
from .schedule import Schedule
from .space import SearchSpace
from .speeds import agreed


@dataclass(frozen=True)
class Job:
    """What is tried, and how.

    first: what makes the reference of the given model. prompts: see `Samples`. own_recipes: whether the recipes are of
    the search space and nobody chose them: one is tried without `quantize` where that made the model slower, and one
    that does not suit the data is a row. use: what the recipes learn from the data.
    """

    space: SearchSpace
    first: tuple[Method, ...]
    recipes: tuple[Recipe, ...]
    budget: Budget
    options: RunOptions
    prompts: tuple[str, ...] | None
    own_recipes: bool
    use: Use = "training"

    @property
    def given(self) -> Model:
        """The model to make smaller."""
        return self.space.given

    @property
    def task(self) -> Task:
        """The data."""
        return self.space.task


def search(run: Run, job: Job) -> Shrunk:
    """Try the job's recipes; choose on validation, judge the choice on test, deliver it, write the report.

    Ctrl-C ends it within seconds: the best so far is delivered, without any further evaluation, and the same job goes
    on from what the run has. Before the first candidate there is nothing to deliver: KeyboardInterrupt. Raises BadData
    where the data cannot serve, and what building the reference raises.
    """
    schedule = Schedule(job.budget.minutes)
    with job.options.progress.alive(lambda: None if math.isinf(schedule.left_s) else schedule.left_s):
        return _search(run, job, schedule)


def _search(run: Run, job: Job, schedule: Schedule) -> Shrunk:
    budget, options = job.budget, job.options
    context = Context(job.task, run.cache, options.seed, options.fixed_threads, progress=options.progress)
    judging = judging_of(job.task)
    _check_splits(judging, job)
    before = Record.read(run.best)
    run.save_budget(budget)
    run.save_data_options(options.reading)
    run.save_timings(options.timings)
    try:
        _deliver_first(run, job, context)
        job, reference = taught(run, job, context, schedule)
    except KeyboardInterrupt:
        if run.best.exists():
            options.progress.say(f"stopped: {run.best} has what was delivered so far")
        raise
    sample = judging.timing_input(reference, job.task.examples("validation"))
    threads = choose_threads(reference, sample, MeasureOptions(threads=options.threads, seed=options.seed))
    setting = Setting(
        context=replace(context, reference=reference, deadline=schedule.deadline),
        budget=budget,
        reference=reference,
        space=job.space,
        threads=threads,
        prompts=job.prompts,
        durations=options.durations,
        tolerant=job.own_recipes,
        schedule=schedule,
    )
    with Evaluation(run, setting) as evaluation:
        options.progress.doing("measuring the reference")
        row = evaluation.reference_candidate(str(Recipe(job.first)))
        options.progress.say(f"reference {summary_line(row)}")
        starts = starts_s(judging, job.recipes, job.given.format, reference.format)
        pace = replace(evaluation.reader.pace(row, evaluation.reference.open_s), starts_s=starts, built=job.first)
        forecast = Forecast.of(job.recipes, job.space, pace, options.durations, schedule.final_s)
        limit = f" (limit {budget.minutes:g} min)" if budget.minutes else ""
        options.progress.say(f"forecast  {forecast}{limit}")
        earlier = earlier_rows(evaluation, run, job.given, job.recipes)
        found, interrupted = _try_all(evaluation, run, job, (schedule, forecast), earlier)
        if not interrupted and found and len(evaluation.refused) == len(found):
            raise BadInput(_nothing_suits(job.given, evaluation.refused))
        found += [one for one in earlier if one.fingerprint not in {each.fingerprint for each in found}]
        row, found = agreed(evaluation.reference_so_far(row), [evaluation.on_common_examples(one) for one in found])
        tested = None
        try:
            if not interrupted:
                row, found = time_busy_again(evaluation, run, setting, row, found)
                tested = final_test(evaluation, evaluation.reference_so_far(row), found, budget, options.progress)
        except KeyboardInterrupt:
            interrupted = True
            options.progress.say("stopped before the test ended: the choice is delivered untested")
        with ignored_interrupts() if interrupted else deferred_interrupts():
            result = _finish(evaluation, run, (row, found), tested, budget, interrupted)
            result = replace(result, examples=counts(job.task, job.use))
            _say_choice(before, result, options.progress)
            _write(run, result, options.progress)
    if not interrupted and not options.keep and not evaluation.late:  # more minutes go on from what is there
        remove_unused_models(run, reference, found)
    return result


def _deliver_first(run: Run, job: Job, context: Context) -> None:
    """What needs no reference is delivered before the labels are taught, in a new run."""
    recipes = job.space.without_reference(job.recipes) if job.own_recipes and job.first else []
    if recipes and not run.best.exists():
        deliver_early(run, job.given, recipes, context, job.budget, job.options.durations.reference_s)


def taught(run: Run, job: Job, context: Context, schedule: Schedule) -> tuple[Job, Model]:
    """The job with its reference. Where the time does not suffice to teach the labels, a quicker way is taken.

    Raises what building the reference raises; OutOfTime where no way is quicker.
    """
    ends = math.inf if schedule.deadline is None else schedule.deadline
    for end in (schedule.search_end, ends):  # the quicker way may take from the time of the test
        _prepare(run, job, context)
        teaching = context if math.isinf(end) else replace(context, deadline=end)
        try:
            return job, build(job.given, Recipe(job.first), teaching, run.models)[-1] if job.first else job.given
        except OutOfTime as error:
            first = job.space.quicker_teaching(job.first) if job.own_recipes else ()
            if not first:
                raise
            job.options.progress.warn(f"{error}. The reference of this run is {Recipe(first)}, which takes less time")
            job = replace(job, first=first, recipes=tuple(job.space.allowed(job.space.recipes(first), first)))
    raise AssertionError("the quickest way is not followed by another one")


def _prepare(run: Run, job: Job, context: Context) -> None:
    """Before anything is built: check the recipes that have no row yet, and compute once what all of them need."""
    known = {row.fingerprint for row in run.candidates() if row.measurement is not None}
    teaching = replace(context, reference=planned(job.given, Recipe(job.first), context, run.models))

    def plan(recipe: Recipe) -> Model:
        return planned(job.given, recipe, teaching, run.models)

    new = [recipe for recipe in job.recipes if plan(recipe).fingerprint not in known]
    job.space.check(new, lambda recipe: plan(recipe).path, run.folder)
    job.space.prepare(new, context.progress)


def _check_splits(judging: Judging, job: Job) -> None:
    """Enough examples to choose and to judge by; with --prove, whether the test split could show the limit at all."""
    task, budget, use, progress = judging.task, job.budget, job.use, job.options.progress
    needed: tuple[Split, ...] = ("validation", "test") if use == "nothing" else SPLITS
    for split in needed:
        if not task.examples(split):
            raise BadData(f"the data have no {split} examples: add some")
    progress.say(about_splits(task, use))
    if budget.max_drop is None:
        return
    judging.check_limit(budget.max_drop)
    test = task.examples("test")
    examples = judging.evidence(test)
    error = errors_of_tries(len(job.recipes))[0]
    possible, least = can_show(budget.max_drop, examples, judging.lengths(test), error)
    if not possible:
        text = (
            f"{examples} test and unlabelled examples cannot show a loss within {budget.max_drop} at"
            f" {100 * (1 - error):g} %, even if no answer changes: that takes {least}"
        )
        if budget.prove:
            raise BadData(f"{text}. {judging.more_evidence}, or drop --prove")
        progress.say(f"note: {text}; without --prove the estimate decides")


def _try_all(
    evaluation: Evaluation,
    run: Run,
    job: Job,
    times: tuple[Schedule, Forecast],
    earlier: Sequence[Candidate],
) -> tuple[list[Candidate], bool]:
    """The candidates of the recipes for which there is time, and whether the user stopped it. The best is delivered.

    earlier: rows of other commands, among which the best may be.
    """
    found: list[Candidate] = []
    recipes, slowest, budget, progress = list(job.recipes), 0.0, job.budget, job.options.progress
    known = {row.fingerprint for row in run.candidates() if row.measurement is not None}
    schedule, forecast = times
    try:
        for index, recipe in enumerate(recipes):  # which grows where quantizing does not pay
            # A distillation watches the clock itself, and may take less than the one before: it has fewer layers.
            room = evaluation.measuring_s if _trains(recipe) else slowest
            if found and time.monotonic() + room > schedule.search_end:
                progress.say(f"time is up: {len(recipes) - index} of {len(recipes)} recipes were not tried")
                break
            started = time.monotonic()
            until = schedule.reading_end(len(recipes) - index, first=best([*earlier, *found], budget) is None)
            progress.doing(f"[{index + 1}/{len(recipes)}] {recipe.short()}")
            reason = _needless(job, recipe, recipes, [*earlier, *found]) if job.own_recipes else ""
            built = schedule.training_end(sum(map(_trains, recipes[index:]))) if _trains(recipe) else math.inf
            candidate = left_out(recipe, reason) if reason else evaluation.candidate(job.given, recipe, until, built)
            found.append(candidate)
            if candidate.measurement is not None:
                slowest = max(slowest, time.monotonic() - started)
                forecast.note(recipe, None if candidate.fingerprint in known else time.monotonic() - started)
            rest = len(recipes) - index - 1
            left = f"; about {format_seconds(min(forecast.left_s, schedule.left_s))} left" if rest else ""
            progress.say(f"[{index + 1}/{len(recipes)}] {recipe.short()}: {summary_line(candidate)}{left}")
            for line in job.space.about_limits(recipe, candidate) if job.own_recipes else ():
                progress.say(line)
            further = _further(job, recipe, candidate, recipes)
            recipes += further
            forecast.add(further)
            if best([*earlier, *found], budget) is candidate:
                with deferred_interrupts():
                    deliver(run, evaluation.model(candidate), candidate, budget, job.task)
                if budget.goal == "size" and candidate.measurement and not candidate.broken_limits(budget):
                    others = recipes[index + 1 :]
                    recipes[index + 1 :] = job.space.promising_first(others, candidate.measurement.size_bytes)
    except KeyboardInterrupt:
        built = best([*earlier, *found], budget) is not None
        progress.say("stopped: " + ("the best so far is delivered" if built else "there is nothing to deliver yet"))
        return found, True
    return found, False


def _needless(job: Job, recipe: Recipe, recipes: Sequence[Recipe], found: Sequence[Candidate]) -> str:
    """Why a recipe is not built; "" where it is."""
    return too_large(job.space, recipes, job.budget).get(recipe) or job.space.settled(recipe, found)


def _trains(recipe: Recipe) -> bool:
    """Whether one of its steps fits its length to the time that there is."""
    return any(isinstance(step, Distill) for step in recipe.steps)


def _further(job: Job, recipe: Recipe, candidate: Candidate, known: Sequence[Recipe]) -> list[Recipe]:
    """What is tried as well: without `quantize` where that made it slower, what is safer where a limit is broken."""
    others = [Recipe(recipe.steps[:-1])] if candidate.slower_than_float else []
    others += job.space.allowed(job.space.further(recipe, candidate), job.first)
    return [other for other in dict.fromkeys(others) if job.own_recipes and other not in known]


def summary_line(candidate: Candidate) -> str:
    """A candidate in one line: size, latency, quality, speed and verdict."""
    candidate = candidate.there
    measurement, verdict = candidate.measurement, candidate.verdict
    if measurement is None:
        return candidate.without_result
    parts = [format_bytes(measurement.size_bytes), f"{measurement.metric} {measurement.quality:.4f}"]
    if measurement.latency_s is not None:
        parts.insert(1, format_seconds(measurement.latency_s))
    if candidate.speed:
        reference = f" as the reference ({format_seconds(candidate.speed['reference_s'])})"
        busy = f", on a busy machine ({candidate.busy})" if candidate.busy else ""
        parts.append(f"{format_times(candidate.speed['speedup'])} times as fast{reference}{busy}")
    if candidate.slower_than_float:
        times = format_times(candidate.speed["over_float"]["speedup"])
        parts.append(f"quantizing does not pay here: {times} times float's speed")
    if verdict is not None:
        parts.append(f"change {format_change(verdict.change, measurement.metric)}, {verdict.decision}")
    return ", ".join(parts)


def _nothing_suits(given: Model, refused: Sequence[tuple[Recipe, str]]) -> str:
    """What a user reads where no recipe can be built from the given model and data: each reason once."""
    reasons = {reason: recipe.short() for recipe, reason in reversed(refused)}
    listed = "; ".join(f"{recipe}: {reason}" for reason, recipe in reversed(reasons.items()))
    return f"none of the {len(refused)} recipes can be built from {given.path}. {listed}"


def _finish(
    evaluation: Evaluation,
    run: Run,
    rows: tuple[Candidate, list[Candidate]],
    tested: Tested | None,
    budget: Budget,
    interrupted: bool,
) -> Shrunk:
    """Deliver the choice, and say whether it keeps the budget. rows: the reference and the candidates.

    tested: None where the run was interrupted, or where there is no choice.
    """
    (reference, found), chosen, task = rows, best(rows[1], budget), evaluation.judging.task
    if chosen is None:
        failures = [f"{candidate.recipe}: {candidate.failure}" for candidate in found]
        return Shrunk(run.folder, reference, found, None, budget, failures or ["nothing was built"], interrupted)
    if tested is None:
        deliver(run, evaluation.model(chosen), chosen, budget, task, reference)
        unmet = [*chosen.broken_limits(budget), "it was not tested: the run was interrupted"]
        return Shrunk(run.folder, reference, found, chosen, budget, unmet, interrupted)
    reference, judged = tested.reference, tested.chosen
    unmet = [*judged.broken_limits(budget), *judged.broken_on_test(budget)]
    found = tested.rows(found)
    readings = sum(row.test is not None for row in found)
    shipment = Shipment(evaluation.model(judged), judged, budget, task, run.settings, reference, readings)
    ship(shipment, run.best)
    numbered = [each for each in found if each.fingerprint != reference.fingerprint]  # as in the report
    deliver_front(run, shipment, numbered, evaluation.model)
    return Shrunk(run.folder, reference, found, judged, budget, unmet)


def _say_choice(before: Record | None, result: Shrunk, progress: Progress) -> None:
    """In a run that had delivered a model: whether it is another one now."""
    if before is None or result.best is None:
        return
    if before.fingerprint == result.best.fingerprint:
        progress.say(f"choice    as before: {result.best.short}")
    else:
        progress.say(f"choice    {result.best.short} takes the place of {before.recipe}")


def _write(run: Run, result: Shrunk, progress: Progress) -> None:
    run.save_result(result.as_dict())
    if result.best is not None:
        write_report(run.folder)
        progress.say(f"report    {run.report}")


def remove_unused_models(run: Run, reference: Model, found: Sequence[Candidate]) -> None:
    """Remove the models and caches of the run that neither the reference nor a candidate uses."""
    clean(run.models, frozenset({reference.fingerprint, *(candidate.fingerprint for candidate in found)}))
    for path in run.cache.iterdir() if run.cache.is_dir() else ():
        if path.name != DECISIONS:  # another measurement would decide otherwise, and a step made again be another
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if run.cache.is_dir() and not any(run.cache.iterdir()):
        run.cache.rmdir()
