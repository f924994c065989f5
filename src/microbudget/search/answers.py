"""Answers: the outputs of a run's models on each split, computed once and kept in the run."""

from __future__ import annotations

from typing import Any

from ..judge.answering import Logits
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
        self._predictions = run.cache / f"predictions-{reference.model.fingerprint}"

    def of(self, model: Model, split: Split, worker: Worker | None = None) -> Logits:
        """A model's outputs. worker: one in which it is open already."""
        kept = self._run.answers(model.fingerprint, split)
        if kept is not None:
            return kept
        examples = self._judging.task.examples(split)
        if self._reference.is_model(model):
            worker = worker or self._reference.worker()
            found = self._judging.reference_answers(model, examples, worker, self._predictions, self._progress)
        else:
            found = self._judging.answers(model, examples, worker, self._opening, self._progress)
        return self._run.save_answers(model.fingerprint, split, found)

    def divergence(self, model: Model, split: Split, worker: Worker | None = None) -> dict[str, Any]:
        """How far a candidate's predictions are from the reference's, where its kind has that; its outputs are kept."""
        if not self._judging.compares_predictions or self._reference.is_model(model):
            return {}
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
