"""Evaluation: builds candidates and measures them, paired with a reference that stays open for the whole run."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import BadData, BadInput, DiskFull, Failed, InvalidOption, OutOfTime, UnsupportedModel
from ..judge import memory, time_one, time_pair
from ..judge.budget import Budget
from ..judge.evidence import ERROR
from ..judge.judging import Opening, judging_of
from ..judge.measuring import Measured, cost_fields, quality_fields
from ..methods import Context
from ..model import Model
from ..recipes.build import build, planned
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runs.run import Run
from ..runtimes.loading import load
from ..ship import shipped_bytes
from .answers import Answers
from .options import DURATIONS, Durations
from .reading import Reader
from .reference import Reference
from .samples import samples_of
from .schedule import Schedule
from .secondary import Secondary
from .space import SearchSpace
from .speeds import ratio_of, speed_of
from .testing import Testing


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
    schedule: Schedule = field(default_factory=Schedule)


class Evaluation:
    """Candidates of one run against one reference. Rows and answers that the run has are not computed again."""

    def __init__(self, run: Run, setting: Setting) -> None:
        self._run, self._setting, self._context = run, setting, setting.context
        self.judging = judging_of(setting.context.task)
        self.reference = Reference(setting.reference, self.judging, setting.threads)
        progress, seed = self._context.progress, self._context.seed
        self._answers = Answers(run, self.judging, self.reference, Opening(setting.threads), progress)
        self._secondary = Secondary(run, setting.context.task, self.reference, Opening(setting.threads), progress)
        self.reader = Reader(self._answers, self.judging, setting.reference, setting.budget, seed)
        self._testing = Testing(run, self.judging, self.reference, self._answers, self.reader, setting.threads)
        self._samples = samples_of(run, self.judging, self.reference, setting.prompts, seed)
        self._rows = {row.fingerprint: row for row in run.candidates()}
        # A network that diverged, no time left; of recipes that nobody chose also what does not suit model or data.
        self._refusals = (Failed, *((UnsupportedModel, BadData, InvalidOption) if setting.tolerant else ()))
        self.measuring_s = setting.durations.reference_s + setting.durations.pair_s  # at most, so far
        self.refused: list[tuple[Recipe, str]] = []  # that the given model or data make impossible, and why
        self._until = math.inf  # when the reading of the candidate at hand ends
        self.late = False  # whether a recipe was given up for lack of time

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.reference.close()

    def reference_candidate(self, recipe: str) -> Candidate:
        """The first row: the reference, measured alone, on the first block of validation; see `reference_so_far`."""
        model = self.reference.model
        known = self._rows.get(model.fingerprint)
        if known is not None and known.measurement is not None:
            return known
        sample = self.judging.timing_input(model, self._context.task.examples("validation"))
        started, progress = time.monotonic(), self._context.progress
        worker = self.reference.worker()
        if self._setting.prompts is not None:  # those of the user: what the reference cannot answer is refused now
            self._samples.write(model, worker)
        weight = memory.of_model(worker, sample)
        seconds = self._setting.durations.reference_s
        progress.doing("timing the reference")
        timing = time_one(worker, sample, seconds=seconds)
        progress.doing("the reference reads its first examples")
        self._answers.of(model, "validation", self.reader.first_block, worker)
        self.reader.keep_time_for_test(self._setting.schedule)
        progress.doing("measuring what the reference costs")
        costs = cost_fields(
            self.judging, Measured(model, worker, sample, timing, weight, self._setting.threads, seconds)
        )
        costs["size_bytes"] = shipped_bytes(model, self._context.task)  # as of the candidates
        secondary = self._secondary.read(model, worker)
        return self._add(recipe, model, started, measurement=self.reader.measurement(model, costs, secondary))

    def reference_so_far(self, row: Candidate) -> Candidate:
        """The reference's row with its quality on all that it was asked to read for the candidates."""
        measured, model = row.measurement, self.reference.model
        if measured is None:
            return row
        extra = {**measured.extra, **self._secondary.extra(model)}
        if measured.examples == self._answers.read(model, "validation") and extra == measured.extra:
            return row
        fields = quality_fields(self.reader.quality(model), extra)
        row = replace(row, measurement=replace(measured, **fields))
        self._run.add(row)
        return row

    def on_common_examples(self, row: Candidate) -> Candidate:
        """A row whose quality is on the examples that the reference has read; see `Reader.on_common_examples`."""
        known = self.reader.on_common_examples(self.model(row), row.measurement) if row.measurement else None
        return replace(row, measurement=known)

    def candidate(self, given: Model, recipe: Recipe, until: float = math.inf, built: float = math.inf) -> Candidate:
        """Build the recipe from the given model and measure it. A model that fails gives a row with the reason.

        until: when its reading ends, decided or not. built: when a training of it ends, where others are to follow.
        """
        started = time.monotonic()
        self._until = until
        known = self._rows.get(self.planned(given, recipe).fingerprint)
        if known is not None and known.measurement is not None and (self._run.folder / known.path).exists():
            return self._judged_again(known, self.model(known))
        try:
            steps = (given, *build(given, recipe, self._in_time(built), self._run.models))
        except DiskFull:
            raise
        except self._refusals as error:
            self.late |= isinstance(error, OutOfTime)
            if isinstance(error, BadInput):
                self.refused.append((recipe, str(error)))
            return Candidate(str(recipe), "", "", failure=str(error), seconds=time.monotonic() - started)
        if known is not None and known.measurement is not None:
            return self._judged_again(known, steps[-1])
        return self._measured_candidate(recipe, steps, started)

    def _measured_candidate(self, recipe: Recipe, steps: tuple[Model, ...], started: float) -> Candidate:
        model = steps[-1]
        # A level of a GGUF file is chosen for its bytes: whether float would be faster decides nothing.
        rounded = bool(recipe.steps) and recipe.steps[-1].name() == "quantize" and model.format != "gguf"
        unrounded = steps[-2] if rounded and self._setting.durations.float_s else None
        built = time.monotonic()
        try:
            fields = self.reference.retry(lambda: self._measured(model, recipe, unrounded), self._context.progress)
        except DiskFull:
            raise
        except self._refusals as error:
            if isinstance(error, BadInput):
                self.refused.append((recipe, str(error)))
            return self._add(str(recipe), model, started, failure=str(error))
        self.measuring_s = max(self.measuring_s, time.monotonic() - built)
        return self._add(str(recipe), model, started, **fields)

    def _in_time(self, built: float) -> Context:
        """The context for a build: after it there must be time to measure."""
        end = min(built, self._setting.schedule.search_end - self.measuring_s)
        return self._context if math.isinf(end) else replace(self._context, deadline=end)

    def _measured(self, model: Model, recipe: Recipe, unrounded: Model | None) -> dict[str, Any]:
        """The fields of a Candidate that measuring finds."""
        setting, judging, seed = self._setting, self.judging, self._context.seed
        examples = self._context.task.examples("validation")
        reference_sample = judging.timing_input(self.reference.model, examples)
        sample = judging.timing_input(model, examples)
        reference_worker = self.reference.worker()
        self._context.progress.doing(f"timing {recipe.short()}")
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
            self._context.progress.doing(f"reading examples with {recipe.short()}")
            verdict = self.reader.decide(model, worker, self._secondary.begin(self._until))
            secondary = self._secondary.read(model, worker, self._until)
            self._samples.write(model, worker)
        self._samples.write(self.reference.model)  # after the first candidate, which is delivered sooner
        extra = {
            **self._answers.divergence(model, "validation"),
            **secondary,
            **setting.space.predicted(recipe, model, sample, setting.threads),
        }
        return {
            "measurement": self.reader.measurement(model, costs, extra),
            "verdict": verdict,
            "speed": speed,
        }

    def _judged_again(self, known: Candidate, model: Model) -> Candidate:
        """A row of a recipe that is tried: the report shows what its model writes to the prompts of now."""
        self._samples.write(model)
        self._samples.write(self.reference.model)
        return self._judged(known, model)

    def _judged(self, known: Candidate, model: Model) -> Candidate:
        """A row that the run has, under the limit of now, for which it may have to read on."""
        verdict = self.reader.decide(model, until=self._secondary.begin(self._until))
        measured, secondary = known.measurement, self._secondary.read(model, until=self._until)
        if measured is not None and (measured.examples != verdict.examples or secondary):
            extra = {**measured.extra, **self._answers.divergence(model, "validation"), **secondary}
            measured = replace(measured, **quality_fields(self.reader.quality(model), extra))
        return replace(known, measurement=measured, verdict=verdict)

    def test_count(self, candidate: Candidate) -> int:
        """How many test examples there is time for, before any is read."""
        return self.reader.test_count(self.model(candidate), self._setting.schedule)

    def on_test(self, candidate: Candidate, count: int, error: float = ERROR) -> Candidate:
        """The candidate with its test; see `Testing.of`."""
        return self._testing.of(candidate, self.model(candidate), count, error)

    def planned(self, given: Model, recipe: Recipe) -> Model:
        """The model that a recipe has made or will make."""
        return planned(given, recipe, self._context, self._run.models)

    def judged_as_read(self, row: Candidate) -> Candidate:
        """A row under the limit of now, by what its model has read."""
        self._until = 0.0
        return self._judged(row, self.model(row))

    def model(self, candidate: Candidate) -> Model:
        """The Model of a row of this run."""
        if candidate.fingerprint == self.reference.model.fingerprint:
            return self.reference.model
        return load(self._run.folder / candidate.path)

    def _add(self, recipe: str, model: Model, started: float, **fields: Any) -> Candidate:
        path = Path(os.path.relpath(model.path, self._run.folder)).as_posix()
        candidate = Candidate(recipe, model.fingerprint, path, seconds=time.monotonic() - started, **fields)
        self._run.add(candidate)
        (candidate,) = self._run.timed([candidate])
        self._rows[candidate.fingerprint] = candidate
        return candidate
