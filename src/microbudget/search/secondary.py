"""Secondary: the other data of a run's task, on which models are judged too. Nothing is chosen by them."""

from __future__ import annotations

import math
import time
from typing import Any

from ..judge.judging import Judging, Opening, scored
from ..judge.quality import Quality
from ..judge.secondary import SECONDARY, about, compared_so_far, secondary_judging
from ..judge.worker import Worker
from ..model import Model
from ..progress import Progress
from ..runs.run import Run
from ..task import Split, Task
from .answers import Answers
from .reference import Reference

BLOCKS = 16  # that a model reads at most
SHARE = 0.25  # of the time in which a model is read
SPLIT: Split = "validation"  # nothing is chosen by the other data, so it needs no test


class Secondary:
    """Answers to the other data, which a run keeps apart. Without such data nothing is read."""

    def __init__(self, run: Run, task: Task, reference: Reference, opening: Opening, progress: Progress) -> None:
        self._judging = secondary_judging(task)
        self._reference = reference
        self._answers = None
        if self._judging is not None:
            apart = run.apart(self._judging.task.fingerprint)
            self._answers = Answers(apart, self._judging, reference, opening, progress)

    def begin(self, until: float) -> float:
        """When the reading of the data that decide has to end, so that SHARE of the time until then is left."""
        now = time.monotonic()
        return until if self._answers is None or math.isinf(until) else now + (1 - SHARE) * max(0.0, until - now)

    def read(self, model: Model, worker: Worker | None = None, until: float = math.inf) -> dict[str, Any]:
        """Read the validation split until its loss is decided, up to BLOCKS blocks and `until`; then as `extra`.

        The reference reads its first block, and after that no further than another model. worker: one in which the
        model is open already.
        """
        if self._answers is None or self._judging is None:
            return {}
        block, total = self._judging.look_every, len(self._answers.examples(SPLIT))
        most = min(total, block if self._reference.is_model(model) else BLOCKS * block)
        count = self._answers.read(model, SPLIT)
        while count < most and (count == 0 or time.monotonic() < until):
            count = min(most, count + block)
            self._answers.of(model, SPLIT, count, worker)
            self._answers.of(self._reference.model, SPLIT, count)
            if not self._reference.is_model(model) and self._compared(self._judging, self._answers, model, count)[1]:
                break
        return self.extra(model)

    def extra(self, model: Model) -> dict[str, Any]:
        """What the run has of a model, for `extra` of its Measurement: quality, and the change from the reference."""
        if self._answers is None or self._judging is None or not self._answers.read(model, SPLIT):
            return {}
        count = self._answers.read(model, SPLIT)
        if self._reference.is_model(model):
            return {SECONDARY: about(self._quality(self._judging, self._answers, model, count))}
        found, _ = self._compared(self._judging, self._answers, model, count)
        return {SECONDARY: {**found, **self._answers.divergence(model, SPLIT, count)}}

    def _compared(self, judging: Judging, answers: Answers, model: Model, count: int) -> tuple[dict[str, Any], bool]:
        both = (self._quality(judging, answers, each, count) for each in (model, self._reference.model))
        return compared_so_far(*both)

    @staticmethod
    def _quality(judging: Judging, answers: Answers, model: Model, count: int) -> Quality:
        return scored(judging, answers.examples(SPLIT)[:count], answers.of(model, SPLIT, count))
