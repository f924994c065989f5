"""Search: from a budget to recipes to try, to candidates, to the best so far at any moment."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import BadData, InvalidOption, LabelsDisagree
from ..judge.answering import CLASSIFICATION, evidence, one
from ..judge.budget import Budget
from ..judge.measuring import choose_threads
from ..judge.verdict import can_show, check_limit
from ..kind import open_data
from ..kinds.language_modelling.fits import anatomy, of_recipe, predictable, what_fits
from ..kinds.language_modelling.prompts import read_prompts
from ..kinds.language_modelling.search_space import ladder
from ..kinds.transcription.search_space import speech_ladder
from ..machine.files import check_space
from ..methods import DECISIONS, Context, Method
from ..methods.distill import Distill
from ..methods.export import Export
from ..methods.finetune import Finetune
from ..methods.quantize import Quantize
from ..methods.resize import Resize
from ..model import LANGUAGE_MODELLING, TRANSCRIPTION, Model
from ..progress import SILENT, Progress
from ..recipes.build import build, clean, planned
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate, best
from ..runs.run import Run, open_run
from ..runtimes.loading import label_names, load
from ..ship import deliver
from ..task import SPLITS, Task
from ..units import Drop, format_bytes, format_change, format_seconds
from .evaluation import Evaluation

SCALES = (1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7)  # of the input's side: 224, 192, 160, 128 and 96 pixels
TRAINERS = ("finetune", "lora")  # the methods that teach a model the data's labels
STEPS = 7  # sizes are multiples of a seventh of the side: 32 pixels of 224, as often as networks halve their input


@dataclass(frozen=True)
class Shrunk:
    """What a run ends with. `unmet` says which limits the best candidate breaks; empty: the budget is met."""

    folder: Path
    reference: Candidate
    candidates: list[Candidate]
    best: Candidate | None
    budget: Budget
    unmet: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def met(self) -> bool:
        """Whether the best candidate holds all limits."""
        return self.best is not None and not self.unmet

    def as_dict(self) -> dict[str, Any]:
        """What `shrink --json` prints, and `result.json` holds."""
        return {
            "reference": self.reference.as_dict(),
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "best": None if self.best is None else self.best.as_dict(),
            "budget": self.budget.as_dict(),
            "met": self.met,
            "unmet": self.unmet,
            "interrupted": self.interrupted,
        }


def shrink(
    model: str | Path | Model,
    data: str | Path | Task,
    budget: Budget | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    threads: int | str = 0,
    keep: bool = False,
    force: bool = False,
    prompts: str | Path | Sequence[str] | None = None,
    normalizer: str = "basic",
    progress: Progress = SILENT,
) -> Shrunk:
    """Find the smallest model within the budget (or the best by its goal), and leave it in OUT/best.

    When the model's labels are not the data's it is finetuned first, and that float32 result is the reference.
    Without `max_drop` a loss of 1 point is allowed, of 1 % for a language model. prompts: what the levels of a language
    model are asked to write for the report, or a file of them. normalizer: of transcripts, before they are compared.
    The same call again goes on where a killed one was.
    """
    budget = budget or Budget()
    given, task, data_name = _open(model, data, seed, Path(out), progress, normalizer)
    asked = _prompts(prompts, given)
    if budget.max_drop is None:
        budget = replace(budget, max_drop=default_drop(task.kind))
    given = label_names(given, task.labels)
    first: tuple[Method, ...] = ()
    if not _knows_labels(given, task):
        progress.say("the model's labels are not the data's: it is finetuned first, and that is the reference")
        first = (Finetune(),)
    if given.task == LANGUAGE_MODELLING:
        _tell_what_fits(given, threads, progress)
    recipes = tuple(plan(given, first, task))
    job = _Job(given, task, first, recipes, budget, threads, seed, keep, progress, asked, keeps_float=True)
    with open_run(Path(out), given, data_name, task, seed, force=force) as run:
        return _search(run, job)


def run_recipe(
    model: str | Path | Model,
    recipe: str | Recipe,
    data: str | Path | Task,
    budget: Budget | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    threads: int | str = 0,
    keep: bool = False,
    force: bool = False,
    prompts: str | Path | Sequence[str] | None = None,
    normalizer: str = "basic",
    progress: Progress = SILENT,
) -> Shrunk:
    """Build and measure one recipe; its result is OUT/best. Raises LabelsDisagree when nothing teaches the labels."""
    parsed = Recipe.read(recipe) if isinstance(recipe, str) else recipe
    given, task, data_name = _open(model, data, seed, Path(out), progress, normalizer)
    asked = _prompts(prompts, given)
    parsed.formats(given.format)
    given = label_names(given, task.labels)
    first: tuple[Method, ...] = ()
    if not _knows_labels(given, task):
        first = tuple(step for step in parsed.steps if step.name() in TRAINERS)[:1]
        if not first:
            raise LabelsDisagree(
                f"the model does not know the data's labels ({', '.join(task.labels[:3])}, ...): let the recipe begin"
                f" with finetune() or lora(), as in 'finetune() > {parsed}'"
            )
    budget = budget or Budget()
    job = _Job(given, task, first, (parsed,), budget, threads, seed, keep, progress, asked, keeps_float=False)
    with open_run(Path(out), given, data_name, task, seed, force=force) as run:
        return _search(run, job)


def _open(
    model: str | Path | Model,
    data: str | Path | Task,
    seed: int,
    out: Path,
    progress: Progress,
    normalizer: str,
) -> tuple[Model, Task, str]:
    given = load(model)
    if not isinstance(data, (str, Path)):
        return given, data, type(data).__name__
    task = open_data(data, given.task, seed=seed, cache=out / "cache", normalizer=normalizer, progress=progress)
    return given, task, str(Path(data).resolve())


def _prompts(given: str | Path | Sequence[str] | None, model: Model) -> tuple[str, ...] | None:
    if given is None:
        return None
    if model.task != LANGUAGE_MODELLING:
        raise InvalidOption(f"prompts are for language models, and {model.path} is none: leave them out")
    return read_prompts(Path(given)) if isinstance(given, (str, Path)) else tuple(given)


def default_drop(kind: str) -> Drop:
    """The loss that is allowed where none is given: 1 point, and 1 % of bits per byte."""
    return Drop(0.01, relative=kind == LANGUAGE_MODELLING)


def _tell_what_fits(given: Model, threads: int | str, progress: Progress) -> None:
    """Before anything is built: what each level will take, from the shapes alone."""
    for level in what_fits(given, threads=threads if isinstance(threads, int) else 0):
        speed = level.decode_tokens_per_s
        progress.say(
            f"{level.type:<8} {format_bytes(level.size_bytes):>8} file, {format_bytes(level.memory_bytes)} memory"
            f" with {level.context} tokens, at most {speed or 0:,.0f} tokens/s"
        )


def _knows_labels(given: Model, task: Task) -> bool:
    return not task.labels or (given.labels is not None and set(task.labels) <= set(given.labels))


def plan(given: Model, first: Sequence[Method], task: Task) -> Iterator[Recipe]:
    """Recipes to try, the surest first: int8 at full size, float, then int8 on smaller and smaller inputs.

    For language and speech models: the recipes of their ladders.
    """
    if given.task == TRANSCRIPTION:
        yield from speech_ladder(given, task)
        return
    if given.task == LANGUAGE_MODELLING:
        yield from ladder(given)
        return
    export: tuple[Method, ...] = (Export(),) if given.format == "hf" else ()
    yield Recipe((*first, *export, Quantize()))
    if first or export:
        yield Recipe((*first, *export))
    for pixels in smaller_inputs(given):
        yield Recipe((Resize(pixels=pixels), *first, *export, Quantize()))


def smaller_inputs(given: Model) -> list[int]:
    """Sides of smaller square inputs, largest first."""
    from ..images.preprocess import Preprocessing

    side = max(Preprocessing.parse(given.record.preprocessing or {}).input_size)
    step = max(1, side // STEPS)
    sizes = {round(side * scale / step) * step for scale in SCALES}
    return sorted((size for size in sizes if size < side), reverse=True)


@dataclass(frozen=True)
class _Job:
    """What is to be tried, and how."""

    given: Model
    task: Task
    first: tuple[Method, ...]  # what makes the reference of the given model
    recipes: tuple[Recipe, ...]
    budget: Budget
    threads: int | str
    seed: int
    keep: bool
    progress: Progress
    prompts: tuple[str, ...] | None  # what language models are asked to write
    # Whether the recipes are of our own ladder: one is tried without `quantize` where that made the model slower, and
    # one that does not suit the data is a row.
    keeps_float: bool


def _search(run: Run, job: _Job) -> Shrunk:
    budget, progress, threads = job.budget, job.progress, job.threads
    deadline = time.monotonic() + budget.minutes * 60 if budget.minutes else None
    context = Context(job.task, run.cache, job.seed, threads if isinstance(threads, int) else 0, progress=progress)
    _check_splits(job.task, budget, progress)
    run.ask(budget)
    known = {row.fingerprint for row in run.candidates() if row.measurement is not None}
    teaching = replace(context, reference=planned(job.given, Recipe(job.first), context, run.models))
    new = [
        recipe for recipe in job.recipes if planned(job.given, recipe, teaching, run.models).fingerprint not in known
    ]
    if job.given.task == LANGUAGE_MODELLING:
        _check_files(job.given, new, teaching, run)
    _prepare(job.given, job.task, new, progress)
    reference = build(job.given, Recipe(job.first), context, run.models)[-1] if job.first else job.given
    context = replace(context, reference=reference)
    sample = one(reference, job.task, job.task.examples("validation"))
    chosen = choose_threads(reference, sample, _threads(threads), None, job.seed)
    context = replace(context, deadline=deadline)
    with Evaluation(run, context, budget, reference, chosen, job.prompts, tolerant=job.keeps_float) as evaluation:
        row = evaluation.reference_candidate(str(Recipe(job.first)))
        progress.say(f"reference {_told(row)}")
        found, interrupted = _try_all(evaluation, run, job, deadline)
        result = _finish(evaluation, run, row, found, budget, interrupted)
    _write(run, result, progress)
    if not interrupted and not job.keep and not evaluation.late:  # more minutes go on from what is there
        _clean(run, reference, found)
    return result


def _check_files(given: Model, recipes: Sequence[Recipe], context: Context, run: Run) -> None:
    """Before anything is measured: whether the types can be had of the model, and all files fit on the disk.

    Raises InvalidOption, UnsupportedModel, DiskFull.
    """
    known = [recipe for recipe in recipes if predictable(recipe)]
    if not known:
        return
    about = anatomy(given)
    wanted: dict[Path, int] = {}
    largest = 0  # it may be the one that is copied to RUN/best
    for recipe in known:
        made = of_recipe(about, recipe)
        for place, level in enumerate(made, 1):
            path = planned(given, Recipe(recipe.steps[:place]), context, run.models).path
            if not path.exists():
                wanted[path] = level.size_bytes
        largest = max(largest, made[-1].size_bytes)
    if wanted:
        what = f"{len(wanted)} models and a copy of the best take"
        check_space(run.folder, sum(wanted.values()) + largest, what)


def _threads(threads: int | str) -> int | Literal["auto"] | None:
    return "auto" if isinstance(threads, str) else threads or None


def _check_splits(task: Task, budget: Budget, progress: Progress) -> None:
    """Enough examples to choose and to judge by; with --prove, whether the test split could show the limit at all."""
    for split in SPLITS:
        if not task.examples(split):
            raise BadData(f"the data have no {split} examples: add some")
    if budget.max_drop is None:
        return
    check_limit(budget.max_drop, task.kind)
    examples = evidence(task, task.examples("test"))
    possible, needed = can_show(budget.max_drop, examples)
    if not possible:
        text = (
            f"{examples} test and unlabelled examples cannot show a loss within {budget.max_drop} at 95 %, even if no"
            f" answer changes: that takes {needed}"
        )
        if budget.prove:
            count = (
                "Unlabelled photos count: put some into a folder `unlabelled`" if task.kind in CLASSIFICATION else ""
            )
            raise BadData(f"{text}. {count or 'Give more'}, or drop --prove")
        progress.say(f"note: {text}; without --prove the estimate decides")


def _prepare(given: Model, task: Task, recipes: Sequence[Recipe], progress: Progress) -> None:
    """Decode every image once for all the input sizes that the recipes ask for."""
    prepare = getattr(task, "prepare", None)
    if not recipes or prepare is None or given.record.preprocessing is None or given.task == TRANSCRIPTION:
        return
    from ..images.preprocess import Preprocessing

    preprocessing = given.record.preprocessing
    resizes = {step.pixels for recipe in recipes for step in recipe.steps if isinstance(step, Resize)}
    full = Preprocessing.parse(preprocessing)
    prepare([preprocessing, *(full.resized(pixels) for pixels in sorted(resizes))], progress=progress)


def _try_all(evaluation: Evaluation, run: Run, job: _Job, deadline: float | None) -> tuple[list[Candidate], bool]:
    """The candidates of the recipes for which there is time, and whether the user stopped it. The best is delivered."""
    found: list[Candidate] = []
    recipes, slowest, budget, progress = list(job.recipes), 0.0, job.budget, job.progress
    try:
        for index, recipe in enumerate(recipes):  # which grows where quantizing does not pay
            # A distillation watches the clock itself, and may take less than the one before: it has fewer layers.
            room = evaluation.measuring_s if any(isinstance(step, Distill) for step in recipe.steps) else slowest
            if found and deadline is not None and time.monotonic() + room > deadline:
                progress.say(f"time is up: {len(recipes) - index} of {len(recipes)} recipes were not tried")
                break
            started = time.monotonic()
            candidate = evaluation.candidate(job.given, recipe)
            found.append(candidate)
            if candidate.measurement is not None:
                slowest = max(slowest, time.monotonic() - started)
            rest = len(recipes) - index - 1
            left = f"; at most {format_seconds(slowest * rest)} left" if rest else ""
            progress.say(f"[{index + 1}/{len(recipes)}] {recipe.short()}: {_told(candidate)}{left}")
            unrounded = Recipe(recipe.steps[:-1])
            if job.keeps_float and candidate.slower_than_float and unrounded not in recipes:
                recipes.append(unrounded)
            if best(found, budget) is candidate:
                deliver(run, evaluation.model(candidate), candidate, budget, evaluation.task)
    except KeyboardInterrupt:
        progress.say("stopped: the best so far is delivered")
        return found, True
    return found, False


def _told(candidate: Candidate) -> str:
    measurement, verdict = candidate.measurement, candidate.verdict
    if measurement is None:
        return f"failed: {candidate.failure}"
    told = [format_bytes(measurement.size_bytes), f"{measurement.metric} {measurement.quality:.4f}"]
    if measurement.latency_s is not None:
        told.insert(1, format_seconds(measurement.latency_s))
    if candidate.speed:
        told.append(f"{candidate.speed['speedup']:.1f} times as fast")
    if candidate.slower_than_float:
        told.append(f"quantizing does not pay here: {candidate.speed['over_float']['speedup']:.2f} times float's speed")
    if verdict is not None:
        told.append(f"change {format_change(verdict.change, measurement.metric)}, {verdict.decision}")
    return ", ".join(told)


def _finish(
    evaluation: Evaluation, run: Run, reference: Candidate, found: list[Candidate], budget: Budget, interrupted: bool
) -> Shrunk:
    """Choose on validation, judge the choice on test, deliver it."""
    chosen = best(found, budget)
    if chosen is None:
        failures = [f"{candidate.recipe}: {candidate.failure}" for candidate in found]
        return Shrunk(run.folder, reference, found, None, budget, failures or ["nothing was built"], interrupted)
    judged = evaluation.on_test(chosen)
    reference = evaluation.on_test(reference)
    unmet = judged.broken_limits(budget)
    verdict = judged.test_verdict
    if verdict is not None and verdict.decision == "exceeds":
        unmet.append(f"on test the loss exceeds {budget.max_drop}: {verdict.reason}")
    elif verdict is not None and budget.prove and verdict.decision != "within":
        unmet.append(f"on test the loss is not shown to be within {budget.max_drop}: {verdict.reason}")
    deliver(run, evaluation.model(judged), judged, budget, evaluation.task, reference)
    found = [judged if candidate.fingerprint == judged.fingerprint else candidate for candidate in found]
    return Shrunk(run.folder, reference, found, judged, budget, unmet, interrupted)


def _write(run: Run, result: Shrunk, progress: Progress) -> None:
    run.end(result.as_dict())
    if result.best is not None:
        from ..report import write_report

        write_report(run.folder)
        progress.say(f"report    {run.report}")


def _clean(run: Run, reference: Model, found: Sequence[Candidate]) -> None:
    clean(run.models, frozenset({reference.fingerprint, *(candidate.fingerprint for candidate in found)}))
    for path in run.cache.iterdir() if run.cache.is_dir() else ():
        if path.name != DECISIONS:  # another measurement would decide otherwise, and a step made again be another
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if run.cache.is_dir() and not any(run.cache.iterdir()):
        run.cache.rmdir()
