"""Reading by need: a candidate and the reference read the same examples, block by block, until a decision is shown."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from ..judge.answering import Logits
from ..judge.budget import Budget, Measurement
from ..judge.evidence import is_unbounded
from ..judge.judging import Judging, scored
from ..judge.measuring import measurement
from ..judge.quality import Quality
from ..judge.sequential import Look, look
from ..judge.verdict import Decision, Verdict, judge_pair
from ..judge.worker import Worker
from ..model import Model
from ..runs.candidates import Candidate
from ..task import Scores, Split
from ..units import Drop
from .answers import Answers
from .schedule import Schedule
from .space import Pace

GROWTH = 8  # a look costs time too: one comes after an eighth more examples, and never before a block is read


class Reader:
    """Reads the validation split as far as the limit on the loss needs, and the test split to a size fixed before.

    The validation verdict of a candidate that stops early holds however often it was looked at (`judge.sequential`);
    where all examples are one block there is one look, and the verdict is that of a fixed number of examples.
    """

    def __init__(self, answers: Answers, judging: Judging, reference: Model, budget: Budget, seed: int) -> None:
        self._answers, self._judging, self._reference = answers, judging, reference
        self._budget, self._seed = budget, seed

    @property
    def first_block(self) -> int:
        """How many validation examples every model reads."""
        return min(self._judging.look_every, len(self._answers.examples("validation")))

    def decide(self, model: Model, worker: Worker | None = None, until: float = math.inf) -> Verdict:
        """Read validation examples until the limit is decided, none is left, or it is later than `until`.

        What the run has of the model is judged first. worker: one in which the model is open.
        """
        limit, total = self._budget.max_drop, len(self._answers.examples("validation"))
        count = max(self.first_block, self._answers.read(model, "validation"))
        while True:
            reference, candidate = self._scores(model, "validation", count, worker)
            if limit is None or total <= self._judging.look_every:
                if count == total or time.monotonic() >= until:
                    return judge_pair(reference, candidate, limit, seed=self._seed)
            else:
                found = look(reference, candidate, limit)
                if count == total or self._enough(found) or time.monotonic() >= until:
                    return self._verdict(found, reference, candidate, limit)
            count = min(total, count + max(self._judging.look_every, count // GROWTH))

    def _enough(self, found: Look) -> bool:
        """Whether more examples would change nothing: to be the best in quality, all of them count."""
        return found.decision == "exceeds" or (found.decision == "within" and self._budget.goal != "quality")

    def _verdict(self, found: Look, reference: Scores, candidate: Scores, limit: Drop) -> Verdict:
        """The last look as a Verdict."""
        plain = judge_pair(reference, candidate, limit, seed=self._seed)
        read = f"{found.examples} of {len(self._answers.examples('validation'))} examples"
        decision: Decision = found.decision or "not shown"
        if found.decision is None:
            reason = f"{read}, looked at block by block, do not show on which side of {limit} the loss lies"
        else:
            side = "below" if found.decision == "within" else "above"
            reason = f"{read} were enough to show at 95 % a loss {side} {limit}"
        return replace(
            plain, decision=decision, change=found.change, change_low=found.low, change_high=found.high,
            more_examples=None if found.decision else plain.more_examples, reason=reason,
        )  # fmt: skip

    def on_common_examples(self, model: Model, measured: Measurement) -> Measurement:
        """The measurement of a model that read fewer examples than the reference, on all that the reference has read.

        Rows of a table must not differ by which examples they read. The estimate is the reference's value on all of
        them plus the paired difference on those that both read (for bits per byte, times the ratio): what both find
        hard cancels out. A difference estimator: Cochran 1977, "Sampling techniques", section 7.
        """
        count, total = (self._answers.read(each, "validation") for each in (model, self._reference))
        if not 0 < count < total:
            return measured
        before, own = self._scores(model, "validation", count, None)
        all_of_it, _ = self._scores(self._reference, "validation", total, None)
        found = (measured.quality, measured.quality_low, measured.quality_high)
        if is_unbounded(own):
            factor = all_of_it.value / before.value
            shown = [value * factor for value in found]
        else:
            shift = all_of_it.value - before.value
            shown = [
                max(0.0, value + shift) for value in (measured.quality, measured.quality_low, measured.quality_high)
            ]
            if own.higher_is_better:
                shown = [min(1.0, value) for value in shown]
        return replace(measured, quality=shown[0], quality_low=shown[1], quality_high=shown[2])

    def quality(self, model: Model) -> Quality:
        """On all validation examples that the model has read."""
        read = self._answers.read(model, "validation")
        examples = self._answers.examples("validation")[:read]
        return scored(self._judging, examples, self._answers.of(model, "validation", read))

    def measurement(self, model: Model, costs: dict[str, Any], extra: dict[str, Any]) -> Measurement:
        """Of what it costs, and its quality on what it has read."""
        return measurement(self._judging.task, self.quality(model), costs, extra)

    def pace(self, reference: Candidate, open_s: float) -> Pace:
        """What the reference took: from its row, and from what it has read in this process."""
        measured, task = reference.measurement, self._judging.task
        example_s = self._answers.example_s(self._reference) or (measured and measured.latency_s) or 0.0
        parameters = (measured.parameters if measured else None) or 0
        return Pace(example_s, open_s, parameters, self.first_block, len(task.examples("train")))

    def keep_time_for_test(self, schedule: Schedule) -> None:
        """By what an example took the reference; the candidate is taken to be no slower."""
        example_s = self._answers.example_s(self._reference)
        if example_s is not None:
            schedule.keep_for_test(len(self._answers.examples("test")), 2 * example_s)

    def test_count(self, model: Model, schedule: Schedule) -> int:
        """How many test examples there is time for, before the model and the reference read any of them.

        Where the run had all answers before, a first block shows how long an example takes.
        """
        total, models = len(self._answers.examples("test")), {model.fingerprint: model}
        models[self._reference.fingerprint] = self._reference
        for each in models.values():
            if self._answers.example_s(each) is None:
                self._answers.of(each, "test", min(total, self._judging.look_every))
        return schedule.test_count(total, sum(self._answers.example_s(each) or 0.0 for each in models.values()))

    def on_test(self, model: Model, count: int, error: float) -> Verdict:
        """The verdict on the first `count` test examples, and on all unlabelled ones where an answer is a class.

        error: see `judge_pair`.
        """
        reference, candidate = self._scores(model, "test", count, None)
        limit, unlabelled = self._budget.max_drop, self._disagreements(model)
        return judge_pair(reference, candidate, limit, unlabelled=unlabelled, seed=self._seed, error=error)

    def _scores(self, model: Model, split: Split, count: int, worker: Worker | None) -> tuple[Scores, Scores]:
        examples = self._answers.examples(split)[:count]
        score = self._judging.task.score
        candidate = score(self._answers.of(model, split, count, worker), examples)
        return score(self._answers.of(self._reference, split, count), examples), candidate

    def _disagreements(self, model: Model) -> tuple[int, int] | None:
        """On how many of the unlabelled examples the model and the reference disagree; None without such examples.

        What a distilled model has learnt from is no evidence.
        """
        seen = set(model.record.seen)
        examples = self._answers.examples("unlabelled")
        rows = [row for row, each in enumerate(examples) if each.key not in seen]
        if not rows or not self._judging.task.labels:
            return None
        ours, theirs = (self._chosen(each, rows) for each in (model, self._reference))
        return int((ours != theirs).sum()), len(rows)

    def _chosen(self, model: Model, rows: list[int]) -> Logits:
        found: Logits = self._answers.of(model, "unlabelled")[rows].argmax(1)
        return found
