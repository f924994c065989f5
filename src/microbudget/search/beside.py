"""Beside: the other data of a run's task, on which every model is judged too, without a limit."""

from __future__ import annotations

import math
import time
from typing import Any

from ..judge.beside import BESIDE, about, judging_beside
from ..judge.judging import Judging, Opening, scored
from ..judge.quality import Quality
from ..judge.worker import Worker
from ..model import Model
from ..progress import Progress
from ..runs.run import Run
from ..task import Split, Task
from .answers import Answers
from .reference import Reference

BLOCKS = 16  # that a model reads at most: nothing decides how many are enough


class Beside:
    """Answers to the other data, which a run keeps apart. Without such data nothing is read."""

    def __init__(self, run: Run, task: Task, reference: Reference, opening: Opening, progress: Progress) -> None:
        self._judging = judging_beside(task)
        self._reference, self._seed = reference, run.seed
        self._answers = None
        if self._judging is not None:
            apart = run.apart(self._judging.task.fingerprint)
            self._answers = Answers(apart, self._judging, reference, opening, progress)

    def read(self, model: Model, split: Split, worker: Worker | None = None, until: float = math.inf) -> dict[str, Any]:
        """Read the split up to BLOCKS blocks, one at least and none after `until`; what `extra` says of it then.

        The reference reads its first block, and after that no further than another model. worker: one in which the
        model is open already.
        """
        if self._answers is None or self._judging is None:
            return {}
        block, total = self._judging.look_every, len(self._answers.examples(split))
        most = min(total, block if self._reference.is_model(model) else BLOCKS * block)
        count = self._answers.read(model, split)
        while count < most and (count == 0 or time.monotonic() < until):
            count = min(most, count + block)
            self._answers.of(model, split, count, worker)
            self._answers.of(self._reference.model, split, count)
        return self.extra(model, split)

    def extra(self, model: Model, split: Split) -> dict[str, Any]:
        """What the run has of a model, for `extra` of its Measurement: quality, and the change from the reference."""
        if self._answers is None or self._judging is None or not self._answers.read(model, split):
            return {}
        count = self._answers.read(model, split)
        own = self._quality(self._judging, self._answers, model, split, count)
        if self._reference.is_model(model):
            return {BESIDE: about(own)}
        reference = self._quality(self._judging, self._answers, self._reference.model, split, count)
        found = about(own, reference, seed=self._seed)
        return {BESIDE: {**found, **self._answers.divergence(model, split, count)}}

    @staticmethod
    def _quality(judging: Judging, answers: Answers, model: Model, split: Split, count: int) -> Quality:
        return scored(judging, answers.examples(split)[:count], answers.of(model, split, count))
