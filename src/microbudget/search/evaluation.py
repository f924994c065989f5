"""Evaluation: builds candidates and measures them, paired with a reference that stays open for the whole run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import BadData, BadInput, DiskFull, Failed, InvalidOption, OutOfTime, UnsupportedModel, WorkerFailed
from ..judge import memory, time_one, time_pair
from ..judge.answering import Logits
from ..judge.budget import Budget, Measurement
from ..judge.judging import Opening, judging_of
from ..judge.measuring import Measured, cost_fields, measurement, quality_fields
from ..judge.verdict import Verdict, judge_pair
from ..methods import Context
from ..model import Model
from ..recipes.build import build, planned
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runs.run import Run
from ..runtimes.loading import load
from ..ship import shipped_bytes
from ..task import Split
from .answers import Answers
from .options import DURATIONS, Durations
from .reference import Reference
from .samples import samples_of
from .space import SearchSpace
from .speeds import ratio_of, speed_of


@dataclass(frozen=True)
class Setting:
    """What the candidates of a run have in common.

    threads: of the runtimes. prompts: see `Samples`. tolerant: a recipe that does not suit the data (nobody chose it)
    fails alone, as one that diverges.
    """

    context: Context
    budget: Budget
    reference: Model
    space: SearchSpace
    threads: int
    prompts: tuple[str, ...] | None = None
    durations: Durations = DURATIONS
    tolerant: bool = False


class Evaluation:
    """Candidates of one run against one reference. Rows and answers that the run has are not computed again."""

    def __init__(self, run: Run, setting: Setting) -> None:
        self._run, self._setting, self._context = run, setting, setting.context
        self.judging = judging_of(setting.context.task)
        self.reference = Reference(setting.reference, self.judging, setting.threads)
        progress, seed = self._context.progress, self._context.seed
        self._answers = Answers(run, self.judging, self.reference, setting.threads, progress)
        self._samples = samples_of(run, self.judging, self.reference, setting.prompts, seed)
        self._rows = {row.fingerprint: row for row in run.candidates()}
        # A network that diverged, no time left; of recipes that nobody chose also what does not suit model or data.
        self._refusals = (Failed, *((UnsupportedModel, BadData, InvalidOption) if setting.tolerant else ()))
        self.measuring_s = setting.durations.reference_s + setting.durations.pair_s  # at most, so far
        self.refused: list[tuple[Recipe, str]] = []  # that the given model or data make impossible, and why
        self.late = False  # whether a recipe was given up for lack of time

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.reference.close()

    def reference_candidate(self, recipe: str) -> Candidate:
        """The first row: the reference, measured alone on validation."""
        model = self.reference.model
        known = self._rows.get(model.fingerprint)
        if known is not None and known.measurement is not None:
            self._samples.write(model)
            return known
        started = time.monotonic()
        sample = self.judging.timing_input(model, self._context.task.examples("validation"))
        worker = self.reference.worker()
        weight = memory.of_model(worker, sample)
        seconds = self._setting.durations.reference_s
        timing = time_one(worker, sample, seconds=seconds)
        self._samples.write(model, worker)
        logits = self._answers.of(model, "validation", worker)
        costs = cost_fields(
            self.judging, Measured(model, worker, sample, timing, weight, self._setting.threads, seconds)
        )
        costs["size_bytes"] = shipped_bytes(model, self._context.task)  # as of the candidates
        return self._add(recipe, model, started, measurement=self._measurement(costs, logits, {}))

    def candidate(self, given: Model, recipe: Recipe) -> Candidate:
        """Build the recipe from the given model and measure it. A model that fails gives a row with the reason."""
        started = time.monotonic()
        known = self._rows.get(planned(given, recipe, self._context, self._run.models).fingerprint)
        if known is not None and known.measurement is not None and (self._run.folder / known.path).exists():
            return self._judged(known, self.model(known))
        try:
            steps = (given, *build(given, recipe, self._in_time(), self._run.models))
        except DiskFull:
            raise
        except self._refusals as error:
            self.late |= isinstance(error, OutOfTime)
            if isinstance(error, BadInput):
                self.refused.append((recipe, str(error)))
            return Candidate(str(recipe), "", "", failure=str(error), seconds=time.monotonic() - started)
        if known is not None and known.measurement is not None:
            return self._judged(known, steps[-1])
        return self._measured_candidate(recipe, steps, started)

    def _measured_candidate(self, recipe: Recipe, steps: tuple[Model, ...], started: float) -> Candidate:
        model = steps[-1]
        # A level of a GGUF file is chosen for its bytes: whether float would be faster decides nothing.
        rounded = bool(recipe.steps) and recipe.steps[-1].name() == "quantize" and model.format != "gguf"
        unrounded = steps[-2] if rounded and self._setting.durations.float_s else None
        built = time.monotonic()
        try:
            fields = self._measured_again(model, recipe, unrounded)
        except DiskFull:
            raise
        except self._refusals as error:
            if isinstance(error, BadInput):
                self.refused.append((recipe, str(error)))
            return self._add(str(recipe), model, started, failure=str(error))
        self.measuring_s = max(self.measuring_s, time.monotonic() - built)
        return self._add(str(recipe), model, started, **fields)

    def _in_time(self) -> Context:
        """The context for a build: after it there must be time to measure."""
        deadline = self._context.deadline
        return self._context if deadline is None else replace(self._context, deadline=deadline - self.measuring_s)

    def _measured_again(self, model: Model, recipe: Recipe, unrounded: Model | None) -> dict[str, Any]:
        """`_measured`, and once more where not the candidate failed but the reference's process."""
        self.reference.worker()
        try:
            return self._measured(model, recipe, unrounded)
        except WorkerFailed:
            if not self.reference.died:
                raise
            self._context.progress.say("the reference's process ended: it is opened again")
            return self._measured(model, recipe, unrounded)

    def _measured(self, model: Model, recipe: Recipe, unrounded: Model | None) -> dict[str, Any]:
        """The fields of a Candidate that measuring finds."""
        setting, judging, seed = self._setting, self.judging, self._context.seed
        examples = self._context.task.examples("validation")
        reference_sample = judging.timing_input(self.reference.model, examples)
        sample = judging.timing_input(model, examples)
        reference_worker = self.reference.worker()
        with judging.start_worker(setting.budget.max_memory_bytes) as worker:
            worker.open(model, threads=setting.threads)
            weight = memory.of_model(worker, sample)
            seconds = setting.durations.pair_s
            pair = time_pair(reference_worker, worker, reference_sample, sample, seconds=seconds, seed=seed)
            costs = cost_fields(
                judging, Measured(model, worker, sample, pair.candidate, weight, setting.threads, seconds)
            )
            costs["size_bytes"] = shipped_bytes(model, self._context.task)
            speed = speed_of(pair, self.reference.model.fingerprint)
            if unrounded is not None:
                with judging.start_worker() as other:
                    other.open(unrounded, threads=setting.threads)
                    speed["over_float"] = ratio_of(time_pair(other, worker, sample, seconds=setting.durations.float_s))
            divergence = self._answers.divergence(model, "validation", worker)
            logits = self._answers.of(model, "validation", worker)
            self._samples.write(model, worker)
        predicted = setting.space.predicted(recipe, model, sample, setting.threads)
        return {
            "measurement": self._measurement(costs, logits, {**divergence, **predicted}),
            "verdict": self.verdict(model, "validation", logits),
            "speed": speed,
        }

    def _measurement(self, costs: dict[str, Any], logits: Logits, extra: dict[str, Any]) -> Measurement:
        task = self._context.task
        return measurement(task, self.judging.scored(task.examples("validation"), logits), costs, extra)

    def _judged(self, known: Candidate, model: Model) -> Candidate:
        """A row that the run has, under the limit of now."""
        self._samples.write(model)
        return replace(known, verdict=self.verdict(model, "validation", self._answers.of(model, "validation")))

    def on_test(self, candidate: Candidate) -> Candidate:
        """The candidate with its measurement and verdict on the test split."""
        model, examples = self.model(candidate), self._context.task.examples("test")
        is_reference = self.reference.is_model(model)
        extra = {**self._answers.divergence(model, "test"), **self._quality_extra(model)}
        logits = self._answers.of(model, "test")
        assert candidate.measurement is not None
        fields = quality_fields(self.judging.scored(examples, logits), {**candidate.measurement.extra, **extra})
        verdict = None if is_reference else self.verdict(model, "test", logits)
        return replace(candidate, test=replace(candidate.measurement, **fields), test_verdict=verdict)

    def _quality_extra(self, model: Model) -> dict[str, Any]:
        """Numbers on the test split that take runs of their own, of kinds that have them."""
        if not self.judging.has_quality_extra:
            return {}
        worker = self.reference.worker() if self.reference.is_model(model) else None
        with self.judging.opened(model, worker, Opening(self._setting.threads)) as opened:
            return self.judging.quality_extra(opened, self._context.task.examples("test"))

    def model(self, candidate: Candidate) -> Model:
        """The Model of a row of this run."""
        if candidate.fingerprint == self.reference.model.fingerprint:
            return self.reference.model
        return load(self._run.folder / candidate.path)

    def verdict(self, model: Model, split: Split, logits: Logits) -> Verdict:
        """The paired judgement against the reference. On test, unlabelled examples count too."""
        task = self._context.task
        examples = task.examples(split)
        reference = task.score(self._answers.of(self.reference.model, split), examples)
        unlabelled = self._disagreements(model) if split == "test" else None
        limit = self._setting.budget.max_drop
        scores = task.score(logits, examples)
        return judge_pair(reference, scores, limit, unlabelled=unlabelled, seed=self._context.seed)

    def _disagreements(self, model: Model) -> tuple[int, int] | None:
        """On how many of the unlabelled examples the model and the reference disagree; None without such examples.

        What a distilled model has learnt from is no evidence.
        """
        task, seen = self._context.task, set(model.record.seen)
        rows = [row for row, each in enumerate(task.examples("unlabelled")) if each.key not in seen]
        if not rows or not task.labels:
            return None
        models = (model, self.reference.model)
        ours, theirs = (self._answers.of(each, "unlabelled")[rows].argmax(1) for each in models)
        return int((ours != theirs).sum()), len(ours)

    def _add(self, recipe: str, model: Model, started: float, **fields: Any) -> Candidate:
        path = Path(os.path.relpath(model.path, self._run.folder)).as_posix()
        candidate = Candidate(recipe, model.fingerprint, path, seconds=time.monotonic() - started, **fields)
        self._run.add(candidate)
        self._rows[candidate.fingerprint] = candidate
        return candidate
