"""Evaluation: builds candidates and measures them, paired with a reference that stays open for the whole run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData, DiskFull, Failed, InvalidOption, OutOfTime, UnsupportedModel, WorkerFailed
from ..judge import Worker, answers, memory, time_one, time_pair
from ..judge.answering import Check, Quality, Tally, hire, one
from ..judge.budget import Budget, Measurement
from ..judge.ceilings import ceilings
from ..judge.measuring import cost_fields, measurement, quality_fields
from ..judge.twins import PairTiming
from ..judge.verdict import Verdict, judge_pair
from ..kinds.language_modelling.chats import ChatTask
from ..kinds.language_modelling.fits import Anatomy, anatomy, of_recipe, predictable
from ..kinds.language_modelling.predictions import Predictions
from ..kinds.language_modelling.prompts import Prompt, choose
from ..kinds.language_modelling.text import TextTask
from ..kinds.language_modelling.tokens import keep_predictions, read_beside
from ..kinds.language_modelling.writing import Written, answers_questions, write
from ..kinds.transcription.listening import long_form
from ..machine.files import open_whole
from ..methods import Context
from ..model import Model
from ..recipes.build import build, planned
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runs.run import Run
from ..task import Example, LanguageTask, Split, SpokenTask, Task

Logits = NDArray[Any]  # float32; texts of a model that writes what it hears
# The most that timing takes: of the reference, of a pair, of a quantized model and the one that it was before.
REFERENCE_S, PAIR_S, FLOAT_S = 2.0, 6.0, 2.0
PREDICTED = ("size_bytes", "memory_bytes", "decode_tokens_per_s")  # of a level of a language model, by `fits`


class Evaluation:
    """Candidates of one run against one reference. Rows and answers that stand in the run are not computed again."""

    def __init__(
        self,
        run: Run,
        context: Context,
        budget: Budget,
        reference: Model,
        threads: int,
        prompts: Sequence[str] | None = None,
        *,
        tolerant: bool = False,
    ) -> None:
        """prompts: what language models are asked to write; None: what the run asked before, else a default set.

        tolerant: a recipe that does not suit the data (nobody chose it) fails alone, as one that diverges.
        """
        self._run, self._context, self._budget, self._threads = run, context, budget, threads
        self._task, self._given = context.task, None if prompts is None else tuple(prompts)
        self.reference = reference
        self._worker: Worker | None = None
        self._anatomies: dict[Path, Anatomy] = {}
        self._rows = {row.fingerprint: row for row in run.candidates()}
        # A network that diverged, one that a method does not take, no time left, data that do not suit.
        self._refusals = (Failed, UnsupportedModel, *((BadData, InvalidOption) if tolerant else ()))
        self.measuring_s = REFERENCE_S + PAIR_S  # at most, so far
        self.late = False  # whether a recipe was given up for lack of time

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._worker is not None:
            self._worker.close()

    @cached_property
    def _predictions(self) -> Predictions:
        """The reference's, of a text: it reads every passage once for all candidates."""
        return Predictions(self._run.cache / f"predictions-{self.reference.fingerprint}")

    @property
    def task(self) -> Task:
        """What the candidates are measured on."""
        return self._task

    def reference_candidate(self, recipe: str) -> Candidate:
        """The first row: the reference, measured alone on validation."""
        known = self._rows.get(self.reference.fingerprint)
        if known is not None and known.measurement is not None:
            self._write(self.reference)
            return known
        started = time.monotonic()
        sample = one(self.reference, self._task, self._task.examples("validation"))
        worker = self._reference_worker()
        weight = memory.of_model(worker, sample)
        timing = time_one(worker, sample, seconds=REFERENCE_S)
        self._write(self.reference, worker)
        logits = self._answers(self.reference, "validation", worker)
        costs = cost_fields(self.reference, worker, sample, timing, weight, self._threads)
        return self._add(recipe, self.reference, started, measurement=self._measurement(costs, logits))

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
            return Candidate(str(recipe), "", "", failure=str(error), seconds=time.monotonic() - started)
        model = steps[-1]
        if known is not None and known.measurement is not None:
            return self._judged(known, model)
        # A level of a GGUF file is chosen for its bytes: whether float would be faster decides nothing.
        rounded = bool(recipe.steps) and recipe.steps[-1].name() == "quantize" and model.format != "gguf"
        unrounded = steps[-2] if rounded else None
        built = time.monotonic()
        try:
            found = self._measured_twice(model, recipe, started, unrounded, self._predicted(given, recipe, model))
        except DiskFull:
            raise
        except self._refusals as error:
            return self._add(str(recipe), model, started, failure=str(error))
        self.measuring_s = max(self.measuring_s, time.monotonic() - built)
        return found

    def _in_time(self) -> Context:
        """The context for a build: behind it there must be time to measure."""
        deadline = self._context.deadline
        return self._context if deadline is None else replace(self._context, deadline=deadline - self.measuring_s)

    def _measured_twice(
        self, model: Model, recipe: Recipe, started: float, unrounded: Model | None, predicted: dict[str, Any]
    ) -> Candidate:
        """Measured, and once more where not the candidate failed but the reference's process beside it."""
        self._reference_worker()
        try:
            return self._measured(model, recipe, started, unrounded, predicted)
        except WorkerFailed:
            if self._worker is not None and self._worker.alive:
                raise
            self._context.progress.say("the reference's process ended: it is opened again")
            return self._measured(model, recipe, started, unrounded, predicted)

    def _measured(
        self, model: Model, recipe: Recipe, started: float, unrounded: Model | None, predicted: dict[str, Any]
    ) -> Candidate:
        examples = self._task.examples("validation")
        reference_sample = one(self.reference, self._task, examples)
        sample = one(model, self._task, examples)
        reference_worker = self._reference_worker()
        with hire(self._task, self._budget.max_memory_bytes) as worker:
            worker.open(model, threads=self._threads)
            weight = memory.of_model(worker, sample)
            pair = time_pair(
                reference_worker, worker, reference_sample, sample, seconds=PAIR_S, seed=self._context.seed
            )
            costs = cost_fields(model, worker, sample, pair.candidate, weight, self._threads)
            speed = _speed(pair)
            if unrounded is not None:
                with hire(self._task) as other:
                    other.open(unrounded, threads=self._threads)
                    speed["over_float"] = _speed(time_pair(other, worker, sample, seconds=FLOAT_S))
            apart = self._apart(model, "validation", worker)
            logits = self._answers(model, "validation", worker)
            self._write(model, worker)
        verdict = self.verdict(model, "validation", logits)
        measured = self._measurement(costs, logits, {**apart, **predicted})
        return self._add(str(recipe), model, started, measurement=measured, verdict=verdict, speed=speed)

    def _measurement(self, costs: dict[str, Any], logits: Logits, apart: dict[str, Any] | None = None) -> Measurement:
        judged = _scored(self._task, self._task.examples("validation"), logits)
        return measurement(self._task, judged, costs, apart or {})

    def _predicted(self, given: Model, recipe: Recipe, model: Model) -> dict[str, Any]:
        """What the given model's shapes say of a level of a language model, to stand beside what is measured."""
        if not isinstance(self._task, LanguageTask) or model.format != "gguf" or not predictable(recipe):
            return {}
        tokens = int(one(model, self._task, self._task.examples("validation"))["depth"][0]) + 1
        if given.path not in self._anatomies:
            self._anatomies[given.path] = anatomy(given)
        rate = ceilings(self._threads).bandwidth(model.size_bytes)
        level = of_recipe(self._anatomies[given.path], recipe, context=tokens, read_bytes_per_s=rate)[-1]
        return {"predicted": {name: getattr(level, name) for name in PREDICTED}}

    def _apart(self, model: Model, split: Split, worker: Worker | None = None) -> dict[str, Any]:
        """How far a language model's predictions are from the reference's; its answers are kept. Else empty."""
        if not isinstance(self._task, LanguageTask) or model.fingerprint == self.reference.fingerprint:
            return {}
        if worker is None:
            with hire(self._task) as own:
                own.open(model, threads=self._threads)
                return self._apart(model, split, own)
        self._answers(self.reference, split)  # which keeps its predictions
        examples, progress = self._task.examples(split), self._context.progress
        beside = read_beside(self._reference_worker, worker, self._task, examples, self._predictions, progress)
        _keep(answers_path(self._run, model.fingerprint, split), _checked(model, beside.costs))
        apart = beside.divergence
        return {} if apart is None else {"kl": apart.kl, "same_top1": apart.same_top1, "divergence": apart.as_dict()}

    @cached_property
    def _prompts(self) -> tuple[Prompt, ...]:
        """What the language models of the run are asked to write."""
        if not isinstance(self._task, (TextTask, ChatTask)):
            return ()
        stands = self._run.prompts
        if stands is not None and self._given in (None, tuple(stands["given"] or ())):
            return tuple(Prompt(**row) for row in stands["prompts"])
        chosen = choose(self._given, answers_questions(self._reference_worker()), self._task)
        self._run.ask_for({"given": self._given, "prompts": [prompt.as_dict() for prompt in chosen]})
        return chosen

    def _write(self, model: Model, worker: Worker | None = None) -> None:
        """Let a language model answer the prompts, unless its answers stand in the run.

        Raises BadData for a given prompt that the reference cannot answer.
        """
        asked = [prompt.as_dict() for prompt in self._prompts]
        stands = self._run.written(model.fingerprint)
        if not asked or (stands is not None and stands["prompts"] == asked):
            return
        if worker is None and model.fingerprint == self.reference.fingerprint:
            worker = self._reference_worker()
        if worker is None:
            with hire(self._task, self._budget.max_memory_bytes) as own:
                own.open(model, threads=self._threads)
                return self._write(model, own)
        found = write(worker, self._prompts, self._context.seed)
        if self._given is not None and model.fingerprint == self.reference.fingerprint:
            _refuse_failed(found)
        rows = [answer.as_dict() for answer in found]
        self._run.keep_written(model.fingerprint, {"prompts": asked, "answers": rows})

    def _judged(self, known: Candidate, model: Model) -> Candidate:
        """A row that stands, under the limit that is asked for now."""
        self._write(model)
        return replace(known, verdict=self.verdict(model, "validation", self._answers(model, "validation")))

    def on_test(self, candidate: Candidate) -> Candidate:
        """The candidate with its measurement and verdict on the test split."""
        model = self.model(candidate)
        apart = {**self._apart(model, "test"), **self._long_form(model)}
        logits = self._answers(model, "test")
        assert candidate.measurement is not None
        judged = _scored(self._task, self._task.examples("test"), logits)
        return replace(
            candidate,
            test=replace(candidate.measurement, **quality_fields(judged, {**candidate.measurement.extra, **apart})),
            test_verdict=self.verdict(model, "test", logits)
            if model.fingerprint != self.reference.fingerprint
            else None,
        )

    def _long_form(self, model: Model) -> dict[str, Any]:
        """How a speech model fares on long audio; else empty."""
        if not isinstance(self._task, SpokenTask):
            return {}
        examples = self._task.examples("test")
        if model.fingerprint == self.reference.fingerprint:
            return long_form(self._reference_worker(), self._task, examples)
        with hire(self._task) as worker:
            worker.open(model, threads=self._threads)
            return long_form(worker, self._task, examples)

    def model(self, candidate: Candidate) -> Model:
        """The Model of a row of this run."""
        from ..runtimes.loading import load

        if candidate.fingerprint == self.reference.fingerprint:
            return self.reference
        return load(self._run.folder / candidate.path)

    def verdict(self, model: Model, split: Split, logits: Logits) -> Verdict:
        """The paired judgement against the reference. On test, unlabelled examples count too."""
        examples = self._task.examples(split)
        reference = self._task.score(self._answers(self.reference, split), examples)
        unlabelled = self._disagreements(model) if split == "test" else None
        limit = self._budget.max_drop
        return judge_pair(
            reference, self._task.score(logits, examples), limit, unlabelled=unlabelled, seed=self._context.seed
        )

    def _disagreements(self, model: Model) -> tuple[int, int] | None:
        """On how many of the unlabelled examples the model and the reference disagree; None without such examples.

        What a distilled model has learnt from is no evidence.
        """
        seen = set(model.record.seen)
        rows = [row for row, each in enumerate(self._task.examples("unlabelled")) if each.key not in seen]
        if not rows or isinstance(self._task, SpokenTask):
            return None
        ours, theirs = (self._answers(m, "unlabelled")[rows].argmax(1) for m in (model, self.reference))
        return int((ours != theirs).sum()), len(ours)

    def _answers(self, model: Model, split: Split, worker: Worker | None = None) -> Logits:
        """Logits (examples, classes) of a split, kept in the run for the report."""
        path = answers_path(self._run, model.fingerprint, split)
        if path.is_file():
            stored: Logits = np.load(path)
            return stored
        if model.fingerprint == self.reference.fingerprint:
            worker = worker or self._reference_worker()
            if isinstance(self._task, LanguageTask):
                examples, progress = self._task.examples(split), self._context.progress
                costs = keep_predictions(worker, self._task, examples, self._predictions, progress)
                _keep(path, _checked(model, costs))
                return self._answers(model, split)
        logits = answers(
            model,
            self._task,
            self._task.examples(split),
            worker=worker,
            threads=self._threads,
            progress=self._context.progress,
        )
        _keep(path, logits)
        return logits

    def _reference_worker(self) -> Worker:
        if self._worker is not None and not self._worker.alive:  # a candidate may have taken it down with it
            self._worker.close()
            self._worker = None
        if self._worker is None:
            self._worker = hire(self._task)
            self._worker.open(self.reference, threads=self._threads)
        return self._worker

    def _add(self, recipe: str, model: Model, started: float, **fields: Any) -> Candidate:
        path = Path(os.path.relpath(model.path, self._run.folder)).as_posix()
        candidate = Candidate(recipe, model.fingerprint, path, seconds=time.monotonic() - started, **fields)
        self._run.add(candidate)
        self._rows[candidate.fingerprint] = candidate
        return candidate


def answers_path(run: Run, fingerprint: str, split: Split) -> Path:
    """Where the run keeps a model's logits of a split."""
    return run.folder / "answers" / f"{fingerprint}.{split}.npy"


def _keep(path: Path, logits: Logits) -> None:
    with open_whole(path) as stream:
        np.save(stream, logits)


def _checked(model: Model, costs: NDArray[np.float64]) -> Logits:
    """What a model's passages cost, (examples, 2), as it is kept. Raises BrokenModel."""
    check = Check(model, None, 0)
    checked = check(costs, len(costs))
    check.finish()
    return checked


def _refuse_failed(found: Sequence[Written]) -> None:
    for number, answer in enumerate(found, 1):
        if answer.failure:
            raise BadData(f"the reference cannot answer prompt {number}: {answer.failure}")


def _speed(pair: PairTiming) -> dict[str, Any]:
    """What a Candidate tells of a pair: `speedup` above 1, the candidate is faster."""
    return {"speedup": pair.ratio, "low": pair.low, "high": pair.high, "verdict": pair.verdict}


def _scored(task: Task, examples: Sequence[Example], logits: Logits) -> Quality:
    """The Quality of answers that are already there."""
    tally = Tally(task)
    tally.add(examples, logits)
    return tally.quality()
