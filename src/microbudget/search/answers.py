"""Answers: the outputs of a run's models on each split, computed once and kept in the run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..data.kept_rows import KeptRows
from ..judge.answering import Logits
from ..judge.difference import difference
from ..judge.judging import Judging, Opening
from ..judge.worker import Worker
from ..model import Model
from ..progress import Progress
from ..runs.run import Run
from ..task import Split
from .reference import Reference


class Answers:
    """Outputs (examples, ...) float32, or (examples,) texts, by model and split."""

    def __init__(self, run: Run, judging: Judging, reference: Reference, threads: int, progress: Progress) -> None:
        self._run, self._judging, self._reference = run, judging, reference
        self._opening, self._progress = Opening(threads), progress
        # What `divergence` needs of the reference, which reads every example once for all candidates.
        independent = getattr(judging.task, "independent_examples", True)  # an answer depends on its example alone
        made_of = reference.model.fingerprint + ("" if independent else f"-{judging.task.fingerprint}")
        self._predictions = run.cache / f"predictions-{made_of}"
        labels = hashlib.sha256(json.dumps(judging.task.labels).encode()).hexdigest()[:16]  # order the outputs
        self._kept = KeptRows(run.cache / f"answers-{made_of}-{labels}")

    def of(self, model: Model, split: Split, worker: Worker | None = None) -> Logits:
        """A model's outputs. worker: one in which it is open already."""
        kept = self._run.answers(model.fingerprint, split)
        if kept is not None:
            return kept
        examples = self._judging.task.examples(split)
        if self._reference.is_model(model):
            keys = [example.key for example in examples]
            found = self._kept.complete(keys, lambda places: self._ask(places, split, worker))
        else:
            found = self._judging.answers(model, examples, worker, self._opening, self._progress)
        return self._run.save_answers(model.fingerprint, split, found)

    def _ask(self, places: list[int], split: Split, worker: Worker | None) -> Logits:
        """The reference's outputs for some examples of a split."""
        examples = self._judging.task.examples(split)
        return self._judging.reference_answers(
            self._reference.model,
            [examples[place] for place in places],
            worker or self._reference.worker(),
            self._predictions,
            self._progress,
        )

    def divergence(self, model: Model, split: Split, worker: Worker | None = None) -> dict[str, Any]:
        """How far a candidate's answers are from the reference's, where its kind can say; its outputs are kept."""
        if self._reference.is_model(model):
            return {}
        if not self._judging.compares_predictions:
            reference = self.of(self._reference.model, split)
            return difference(self._judging.task, reference, self.of(model, split, worker))
        self.of(self._reference.model, split)  # which keeps its predictions
        with self._judging.opened(model, worker, self._opening) as opened:
            outputs, found = self._judging.divergence(
                model,
                self._judging.task.examples(split),
                (self._reference.worker, opened),
                self._predictions,
                self._progress,
            )
        self._run.save_answers(model.fingerprint, split, outputs)
        return found
